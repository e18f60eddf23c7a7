package state

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// registrar adds derivations and their outputs as fast as it can, deletes some
// again, and never ends.
func registrar(dir string) error {
	s, err := Open(dir, Options{Command: "registrar"})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	start := time.Now().UnixNano()
	errs := make(chan error)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("x-%d-%d-%d", start, w, i)
				err := registerOne(s, name, i%5 == 4)
				if err == nil && i%3 == 0 {
					err = registerMistaken(s, "mistaken-"+name)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	return <-errs
}

func registerOne(s *State, name string, remove bool) error {
	d, err := registerNew(s, name)
	if err == nil && remove {
		_, err = s.Delete(context.Background(), d.OutputList()...)
	}
	return err
}

// registerMistaken registers what nothing promises.
func registerMistaken(s *State, name string) error {
	o, err := fixedContent(s, name, strings.Repeat(name, 900))
	if err != nil {
		return err
	}
	return s.RegisterContent(context.Background(), o, nil)
}

func registerNew(s *State, name string) (*storeexpr.Derivation, error) {
	return register(s, name, nil, nil)
}

// registerTwo builds and registers a derivation, and, before that is registered,
// another one of it.
func registerTwo(s *State, name string) ([]*storeexpr.Derivation, error) {
	var second *storeexpr.Derivation
	var errSecond error
	var wg sync.WaitGroup
	first, err := register(s, name, nil, func(d *storeexpr.Derivation) {
		wg.Go(func() { second, errSecond = register(s, "of-"+name, d.OutputList(), nil) })
	})
	wg.Wait()
	if err = cmp.Or(err, errSecond); err != nil {
		return nil, err
	}
	return []*storeexpr.Derivation{first, second}, nil
}

// register registers a derivation whose outputs refer to needs, and calls inPlace
// when builds could begin that need it.
func register(s *State, name string, needs []store.Path, inPlace func(*storeexpr.Derivation)) (*storeexpr.Derivation, error) {
	ctx := context.Background()
	src, err := s.AddText(ctx, "source", []byte(name), nil)
	if err != nil {
		return nil, err
	}
	d := &storeexpr.Derivation{
		Outputs: []storeexpr.Output{{Name: "lib"}, {Name: "out"}}, Sources: []store.Path{src.Path},
		Platform: "x86_64-linux", Builder: "/bin/sh",
	}
	if err := d.FillOutputs(s.Store(), name, nil); err != nil {
		return nil, err
	}
	drv, err := s.AddExpr(ctx, name+".drv", d.AppendText(nil), nil)
	if err != nil {
		return nil, err
	}
	var outs []Output
	for _, o := range d.Outputs {
		scratch := s.newScratch("build")
		if err := os.MkdirAll(filepath.Join(scratch, "a", "b"), 0o755); err != nil {
			return nil, err
		}
		text := strings.Repeat("x", 9000) + string(src.Path)
		for _, p := range needs {
			text += "\n" + string(p)
		}
		if err := os.WriteFile(filepath.Join(scratch, "a", "b", "file"), []byte(text), 0o644); err != nil {
			return nil, err
		}
		sum, err := nar.Ingest(ctx, scratch, nar.IngestOptions{UID: -1, GID: -1, Candidates: nar.NewCandidates(append(needs, src.Path))})
		if err != nil {
			return nil, err
		}
		outs = append(outs, Output{Scratch: scratch, Info: store.Info{
			Path: o.Path, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, References: sum.References, Deriver: drv,
		}})
	}
	// Some wait for others.
	patient := func() bool { return len(name)%2 == 0 }
	o := Outcome{Drv: drv, Derivation: d, Outputs: outs, Duration: time.Second, Patient: patient}
	if inPlace != nil {
		o.InPlace = func() { inPlace(d) }
	}
	_, _, err = s.Register(ctx, o)
	return d, err
}

// Killed at any moment, the state shows complete objects only, and nothing else
// is left.
func TestKilled(t *testing.T) {
	for _, uid := range users() {
		t.Run(fmt.Sprint("uid", uid), func(t *testing.T) { killed(t, uid) })
	}
}

func killed(t *testing.T, uid uint32) {
	parent := openDir(t)
	if uid != 0 {
		parent = openMemoryDir(t) // the real disk is slow, and was tried by root
	}
	dir := ownedDir(t, parent, uid)
	if out, err := play(t, "life", uid, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := rand.New(rand.NewPCG(uint64(uid), 3))
	paths := 0
	rounds := 12 // for each user
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		c := play(t, "registrar", uid, dir)
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 6)
		if _, err := out.Read(line); err != nil || string(line) != "ready\n" {
			t.Fatalf("registrar: %q, %v", line, err)
		}
		time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.Wait()
		var sum Verified
		var stdout, stderr bytes.Buffer
		v := play(t, "verifier", uid, dir)
		v.Stdout, v.Stderr = &stdout, &stderr
		if err := v.Run(); err != nil {
			t.Fatalf("after a kill: %v\n%s", err, stderr.String())
		}
		if err := json.Unmarshal(stdout.Bytes(), &sum); err != nil {
			t.Fatal(err)
		}
		if sum.Paths < paths {
			t.Fatalf("%d paths were valid before the kill, %d are now", paths, sum.Paths)
		}
		paths = sum.Paths
	}
	if paths == 0 {
		t.Fatal("nothing was ever registered")
	}
}
