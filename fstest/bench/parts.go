package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"storefs/db"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// parse: the derivations of a graph, as they are and with the environment that
// those of a package collection have, beside hashing the same bytes.
func (b *bench) parse() error {
	if err := b.parseWith("small", nil); err != nil {
		return err
	}
	var env []storeexpr.EnvVar
	for i := range 40 {
		env = append(env, storeexpr.EnvVar{Name: fmt.Sprintf("a%02d", i), Value: string(b.path("package", i))})
	}
	script := strings.Repeat("for f in \"$out\"/bin/*; do\n\tpatchShebangs \"$f\"\ndone\n", 10)
	return b.parseWith("typical", append(env, storeexpr.EnvVar{Name: "buildPhase", Value: script}))
}

func (b *bench) parseWith(size string, more []storeexpr.EnvVar) error {
	const n = 10000
	g := newGraph("parse", n, shapes[3].needs)
	var texts [][]byte
	total := 0
	for i, needs := range g.needs {
		d := storeexpr.Derivation{
			Outputs:  []storeexpr.Output{{Name: "out", Path: b.path("job", i)}},
			Platform: "x86_64-linux", Builder: string(b.path("tools", 0)) + "/bin/busybox",
			Args: []string{"sh", "-c", fmt.Sprintf("echo %d > $out", i)},
		}
		var env []string
		for _, j := range needs {
			d.Inputs = append(d.Inputs, storeexpr.Input{Path: b.path("job.drv", j), Outputs: []string{"out"}})
			env = append(env, string(b.path("job", j)))
		}
		// As in every text that a program wrote.
		slices.SortFunc(d.Inputs, func(x, y storeexpr.Input) int { return strings.Compare(string(x.Path), string(y.Path)) })
		d.Env = append(slices.Clone(more), storeexpr.EnvVar{Name: "needs", Value: strings.Join(env, " ")}, storeexpr.EnvVar{Name: "out", Value: string(d.Outputs[0].Path)})
		texts = append(texts, d.AppendText(nil))
		total += len(texts[i])
	}
	return b.measure(pair{
		work: fmt.Sprintf("parse of %d derivations, %s, 100 kB", n, size), peer: "SHA-256 of the same", each: (total + 5e4) / 1e5,
		ours: func() error {
			for _, t := range texts {
				if _, err := storeexpr.Parse(t); err != nil {
					return err
				}
			}
			return nil
		},
		theirs: func() error {
			for _, t := range texts {
				sha256.Sum256(t)
			}
			return nil
		},
	}, b.runs)
}

const benchStore = store.Dir("/nix/store")

func (b *bench) path(name string, i int) store.Path {
	p, err := store.TextPath(benchStore, name, fmt.Append(nil, i), nil)
	if err != nil {
		panic(err)
	}
	return p
}

// registration: an output with its normal form in one awaited transaction, alone
// and by 64 at once, beside as many transactions of SQLite; then both of ours
// beside each other. Names and statements are made before.
func (b *bench) registration() error {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		return fmt.Errorf("sqlite3 is not installed (make deps)")
	}
	dir := filepath.Join(b.dir, "registration")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	d, err := db.Open(filepath.Join(dir, "db.bolt"), benchStore, db.Options{Create: true})
	if err != nil {
		return err
	}
	defer d.Close()
	const n = 1024
	last := 0
	var work []db.Registration
	before := func() error {
		work = work[:0]
		for range n {
			last++
			work = append(work, b.outcome(last))
		}
		return nil
	}
	register := func(callers int) func() error {
		return func() error {
			errs := make(chan error)
			for c := range callers {
				go func() {
					var err error
					for i := c; i < n; i += callers {
						err = cmp.Or(err, d.Register(context.Background(), work[i]))
					}
					errs <- err
				}()
			}
			var err error
			for range callers {
				err = cmp.Or(err, <-errs)
			}
			return err
		}
	}
	file := filepath.Join(dir, "peer.sqlite")
	var script string
	empty := func() error {
		script = sqliteScript(n)
		return os.RemoveAll(file)
	}
	for _, at := range []int{1, 64} {
		if err := b.measure(pair{
			work: fmt.Sprintf("registration, awaited, %d at once", at), peer: "SQLite WAL FULL, one by one", each: n,
			before: before, ours: register(at),
			beforePeer: empty, theirs: func() error { return sqlite(file, script) },
		}, b.runs); err != nil {
			return err
		}
	}
	return b.measure(pair{
		work: "registration, awaited, 64 at once", peer: "one by one", each: n,
		before: before, ours: register(64), beforePeer: before, theirs: register(1),
	}, b.runs)
}

// outcome is what is registered of the build with that number.
func (b *bench) outcome(i int) db.Registration {
	hash := store.HashOf(store.SHA256, nil)
	out, drv, closure := b.path("out", i), b.path("x.drv", i), b.path("x-s.store", i)
	return db.Registration{
		Infos: []store.Info{
			{Path: drv, Kind: store.KindRegular, NarHash: hash},
			{Path: out, Kind: store.KindRegular, NarHash: hash, Deriver: drv},
			{Path: closure, Kind: store.KindRegular, NarHash: hash, References: []store.Path{out}},
		},
		Successor: &db.Successor{Expr: drv, Closure: closure},
	}
}

// sqliteScript is n transactions of three rows, like Nix: WAL, synced at each
// commit.
func sqliteScript(n int) string {
	var s strings.Builder
	s.WriteString("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;\n" +
		"CREATE TABLE ValidPaths (id INTEGER PRIMARY KEY, path TEXT UNIQUE, hash TEXT, deriver TEXT);\n" +
		"CREATE TABLE Refs (referrer INTEGER, reference INTEGER, PRIMARY KEY (referrer, reference));\n")
	for i := range n {
		fmt.Fprintf(&s, "BEGIN; INSERT INTO ValidPaths VALUES (%d, '/nix/store/%032d-out', '%064d', '/nix/store/%032d-x.drv');"+
			" INSERT INTO ValidPaths VALUES (%d, '/nix/store/%032d-x-s.store', '%064d', NULL); INSERT INTO Refs VALUES (%d, %d); COMMIT;\n",
			2*i, i, i, i, 2*i+1, i, i, 2*i+1, 2*i)
	}
	return s.String()
}

func sqlite(file, script string) error {
	cmd := exec.Command("sqlite3", file)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sqlite3: %w: %s", err, out)
	}
	return nil
}

// ingest: an output of one large file beside SHA-256 alone; one of many small
// ones beside what a shell would do, and these as a source beside Nix.
func (b *bench) ingest() error {
	tree := filepath.Join(b.fast, "ingest")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	const size = 1 << 30
	big := filepath.Join(tree, "big")
	if err := writeRandom(big, size); err != nil {
		return err
	}
	var candidates []store.Path
	for i := range 100 {
		candidates = append(candidates, b.path("input", i))
	}
	ingest := func(path string) func() error {
		return func() error {
			_, err := nar.Ingest(context.Background(), path, nar.IngestOptions{UID: -1, GID: -1, Candidates: nar.NewCandidates(candidates)})
			return err
		}
	}
	if err := b.measure(pair{
		work: "ingest of 1 GiB, 100 candidates", peer: "SHA-256 of it, one core",
		ours: ingest(big),
		theirs: func() error {
			f, err := os.Open(big)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.CopyBuffer(struct{ io.Writer }{sha256.New()}, struct{ io.Reader }{f}, make([]byte, 1<<20))
			return err
		},
	}, b.runs); err != nil {
		return err
	}
	if err := os.Remove(big); err != nil {
		return err
	}
	const files = 100_000
	for i := range files {
		dir := fmt.Sprintf("%s/many/%d", tree, i/100)
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := writeRandom(fmt.Sprintf("%s/%d", dir, i%100), 4800); err != nil {
			return err
		}
	}
	defer removeAll(tree)
	peer, command := "tar c | sha256sum", "tar c '"+tree+"/many' | sha256sum"
	if haveNix() {
		peer, command = "nix-store --dump | sha256sum", "nix-store --dump '"+tree+"/many' | sha256sum"
	}
	if err := b.measure(pair{
		work: fmt.Sprintf("ingest of %d files, 100 candidates", files), peer: peer,
		ours: ingest(tree + "/many"), theirs: func() error { return do("/", nil, "sh", "-c", command) },
	}, b.runs); err != nil {
		return err
	}
	if !haveNix() {
		return nil
	}
	var l *lab
	var n *nixLab
	return b.measure(pair{
		work: fmt.Sprintf("add a directory of %d files", files), peer: "nix-store --add",
		before:     func() (err error) { l, err = b.newFastLab("add"); return err },
		ours:       func() error { return l.run("add", tree+"/many") },
		beforePeer: func() (err error) { n, err = b.newNixLab("add"); return err },
		theirs:     func() error { return do("/", n.env(), "nix-store", "--add", tree+"/many") },
	}, b.runs)
}

func writeRandom(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{byte(size)}), size)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
