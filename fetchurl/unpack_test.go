package fetchurl

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"storefs/nar"
)

// pack packs b by xz.
func pack(t *testing.T, b []byte, options ...string) []byte {
	t.Helper()
	xz, err := exec.LookPath("xz")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("xz is not installed")
	}
	cmd := exec.Command(xz, append(options, "-c")...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz %v: %v", options, err)
	}
	return out
}

// unpackFile unpacks what is in a file.
func unpackFile(t *testing.T, name string, content []byte) (dest string, err error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	r := Request{URL: "file://" + file, Output: filepath.Join(dir, "out"), Unpack: true}
	return r.Output, r.make(t.Context(), io.Discard)
}

func TestUnpack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	text := strings.Repeat("text\n", 100_000)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := nar.Dump(&archive, file); err != nil {
		t.Fatal(err)
	}
	plain := archive.Bytes()
	half := len(plain) / 2
	for name, content := range map[string][]byte{
		"a.nar": plain,
		"-6.xz": pack(t, plain, "-6"),
		"-9.xz": pack(t, plain, "-9"),
		// All filters that are older than 2020, and all checks.
		"x86.xz":      pack(t, plain, "-C", "none", "--x86", "--lzma2=preset=0"),
		"powerpc.xz":  pack(t, plain, "-C", "crc32", "--powerpc", "--lzma2=preset=0"),
		"ia64.xz":     pack(t, plain, "-C", "crc64", "--ia64", "--lzma2=preset=0"),
		"arm.xz":      pack(t, plain, "-C", "sha256", "--arm", "--lzma2=preset=0"),
		"armthumb.xz": pack(t, plain, "--armthumb", "--lzma2=preset=0"),
		"sparc.xz":    pack(t, plain, "--sparc", "--lzma2=preset=0"),
		"delta.xz":    pack(t, plain, "--delta=dist=4", "--lzma2=preset=0"),
		"blocks.xz":   pack(t, plain, "-0", "--block-size=10000"),
		"streams.xz":  append(append(pack(t, plain[:half]), 0, 0, 0, 0), pack(t, plain[half:])...),
	} {
		out, err := unpackFile(t, name, content)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := os.ReadFile(out); err != nil || string(b) != text {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}

	packed := pack(t, plain, "-0", "-C", "crc32")
	flipped := bytes.Clone(packed)
	flipped[len(flipped)-40] ^= 1
	for name, content := range map[string][]byte{
		"empty.xz": nil,
		"cut.xz":   packed[:len(packed)-1],
		"flip.xz":  flipped,
		"more.xz":  append(bytes.Clone(packed), "more"...),
		"two.xz":   append(bytes.Clone(packed), packed...), // an archive, and one more
		"huge.xz":  withDictionary(packed, 40),             // 4 GiB
		"large.xz": withDictionary(packed, 33),             // 384 MiB
		"a.nar":    packed,
		"plain.xz": plain,
	} {
		out, err := unpackFile(t, name, content)
		if err == nil || !strings.HasPrefix(err.Error(), "unable to unpack 'file://") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(out); err == nil {
			t.Errorf("%s: something is left", name)
		}
	}
	if _, err := unpackFile(t, "a.xz", withDictionary(packed, 32)); err != nil { // 256 MiB
		t.Error(err)
	}
}

// withDictionary is what xz has packed, with another size of its dictionary: it is in the
// header of the first block, behind that of the file, and a checksum is at the end of that.
func withDictionary(packed []byte, size byte) []byte {
	b := bytes.Clone(packed)
	header := b[12 : 12+4*(int(b[12])+1)]
	i := bytes.Index(header, []byte{0x21, 1}) // LZMA2, with one byte of properties
	header[i+2] = size
	end := len(header) - 4
	binary.LittleEndian.PutUint32(header[end:], crc32.ChecksumIEEE(header[:end]))
	return b
}
