package builder_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"storefs/builder/buildertest"
	"storefs/store"
)

// channels are made by builtin:unpack-channel, in the way of Nix's unpack-channel.nix.
const channels = `
let channel = file: derivation {
  name = builtins.baseNameOf file; builder = "builtin:unpack-channel"; system = "builtin";
  src = ./archives + "/${file}"; channelName = "called so";
  preferLocalBuild = true;
};
in map channel (builtins.attrNames (builtins.readDir ./archives))`

// archives are made in dir, by all that tar can do. Those whose names begin with "bad" are
// to fail, and those with "other" are of formats that only Nix knows.
func archives(t *testing.T, dir string) {
	tree := t.TempDir()
	sh := func(script string) {
		t.Helper()
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir, cmd.Env = tree, append(os.Environ(), "OUT="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	sh(`mkdir -p top/d/e top/closed top/$(printf '%0200d' 1)/$(printf '%0200d' 2); cd top; echo text > d/text; echo '#!/bin/sh' > d/run; chmod 755 d/run; chmod 4711 d/run
ln -s ../text d/e/link; ln -s /no/such/path absolute; ln -s $(printf '%0150d' 3) long; ln d/text hard; ln d/run d/e/hard; echo x > $(printf '%0200d' 1)/$(printf '%0200d' 2)/file; echo ü > 'ü and space'
truncate -s 1M sparse; echo end >> sparse; head -c 300000 /dev/urandom > big; : > empty; echo secret > closed/file; chmod 000 closed/file; chmod 300 closed; chmod 007 d/e`)
	sh(`for f in gnu pax; do tar --format=$f -cf $OUT/$f.tar top; done; tar -S --format=gnu -czf $OUT/sparse-gnu.tar.gz top; tar -S --format=pax -cf $OUT/sparse-pax.tar top`)
	sh(`tar -cJf $OUT/xz top; tar -cjf $OUT/bzip2 top; tar -czf $OUT/gzip ./top; cat $OUT/gnu.tar top/big > $OUT/more-behind.tar; tar -cPf $OUT/absolute.tar --transform='s|^|/|' top`)
	sh(`cd top; tar --format=ustar -cf $OUT/ustar.tar d; tar --format=v7 -cf $OUT/v7.tar d; tar -cf $OUT/without-directories.tar d/text d/e/link; tar -cf $OUT/file.tar big; tar --hard-dereference -cf $OUT/twice.tar d d/text d`)
	sh(`cd top; tar -cf $OUT/bad-two.tar big d; tar -cf $OUT/bad-none.tar -T /dev/null; echo garbage > $OUT/other-text; head -c 200000 $OUT/gnu.tar > $OUT/bad-short.tar; head -c 200000 $OUT/gzip > $OUT/bad-short.gz; mkfifo fifo; tar -cf $OUT/bad-fifo.tar fifo; : > $OUT/bad-empty`)
	var zipped bytes.Buffer
	z := zip.NewWriter(&zipped)
	_, err := z.Create("top/file")
	if err := errors.Join(err, z.Close(), os.WriteFile(filepath.Join(dir, "other-zip"), zipped.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	write := func(name string, headers ...tar.Header) {
		t.Helper()
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			content := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont
			if content {
				h.Size = 3
			}
			if h.Typeflag != tar.TypeXGlobalHeader {
				h.Mode = 0o644
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if content {
				_, _ = w.Write([]byte("abc"))
			}
		}
		if err := errors.Join(w.Close(), os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	link := func(name, target string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
	}
	directory := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	write("global.tar", tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "0123"}}, file("top/file"))
	write("replaced.tar", link("top/a", "b"), file("top/b"), file("top/a"), file("top/c"), link("top/c", "b"), directory("top/d"), file("top/d"), file("top/e"), directory("top/e"), link("top/f", "."), directory("top/f"))
	write("same-name.tar", directory("called so"), file("called so/file"))
	write("dots.tar", directory("./"), directory("././top//"), file(".//top/./x"), directory("top/"))
	write("contiguous.tar", tar.Header{Name: "top/file", Typeflag: tar.TypeCont})
	write("bad-up.tar", file("top/x"), file("top/../../x"))
	write("bad-through.tar", directory("top/d"), link("top/l", "d"), file("top/l/x"))
	write("bad-outside.tar", link("top/l", "/tmp"), file("top/l/x"))
	write("bad-hard.tar", tar.Header{Name: "top", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"})
}

// TestChannelsAsNix has channels unpacked by a real Nix and then here.
func TestChannelsAsNix(t *testing.T) {
	n := newRealNix(t)
	for _, program := range []string{"tar", "xz", "bzip2"} {
		buildertest.Need(t, program)
	}
	dir := filepath.Join(n.state, "archives")
	n.check(os.Mkdir(dir, 0o755))
	archives(t, dir)
	drvs := n.instantiate(channels)
	for _, drv := range drvs { // one by one, since what Nix cannot take from a builder ends it
		_, _, _ = n.try("nix-store", "-r", drv)
	}
	n.load()
	l := n.local()
	for _, drv := range drvs {
		job := n.job(drv)
		name := strings.TrimSuffix(job.Drv.Name(), ".drv")
		_, made := n.valid[string(job.Derivation.Outputs[0].Path)]
		t.Run(name, func(t *testing.T) {
			other := strings.HasPrefix(name, "other-") // which some versions of Nix make
			if !other && made == strings.HasPrefix(name, "bad-") {
				t.Errorf("Nix made it: %v", made)
			}
			if made && !other {
				n.same(t, l, job)
				return
			}
			_, err := l.Build(t.Context(), job)
			var f *store.Failure
			if !errors.As(err, &f) || f.Cause != store.CauseBuilder || len(f.Log) != 1 || other != strings.Contains(f.Message, "it is no tar archive") {
				t.Errorf("%v", err)
			}
		})
	}
}
