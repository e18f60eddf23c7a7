package unpackchannel

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/mikelolasagasti/xz"
)

// maxDictionary is the most memory that an archive can make xz take: what is packed by
// xz -9 needs 64 MiB.
const maxDictionary = 256 << 20

// unpack makes in root what is in the archive source.
func unpack(source string, root *os.Root) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := decompress(bufio.NewReader(f))
	if err != nil {
		return err
	}
	archive := tar.NewReader(plain)
	for first := true; ; first = false {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if first && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return errors.New("it is no tar archive, or compressed by none of gzip, bzip2 and xz")
		}
		if err == nil {
			err = extract(h, archive, root)
		}
		if err != nil {
			return err
		}
	}
}

// decompress is what is in r, which is told by how it begins.
func decompress(r *bufio.Reader) (io.Reader, error) {
	magic, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		return gzip.NewReader(r)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(r), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(r, maxDictionary)
	}
	return r, nil
}

// extract makes one thing of an archive.
func extract(h *tar.Header, content io.Reader, root *os.Root) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%q has the name of the whole", h.Name)
		}
		return nil
	}
	if err := makeParents(name, root); err != nil {
		return err
	}
	if there, err := root.Lstat(name); err == nil {
		if there.IsDir() && h.Typeflag == tar.TypeDir {
			return nil
		}
		// The last of a name is what counts.
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return root.Mkdir(name, 0o755)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse: // contiguous ones are as others anywhere else
		return extractFile(h, content, name, root)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		target, err := inside(h.Linkname)
		if err == nil {
			err = root.Link(target, name)
		}
		return err
	}
	return fmt.Errorf("%q is of the unsupported type %q", h.Name, h.Typeflag)
}

func extractFile(h *tar.Header, content io.Reader, name string, root *os.Root) error {
	mode := fs.FileMode(0o644)
	if h.Mode&0o100 != 0 {
		mode = 0o755
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// inside is the name by which something of an archive is unpacked.
func inside(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q contains '..'", name)
		}
	}
	if name = strings.TrimPrefix(path.Clean("/"+name), "/"); name == "" {
		return ".", nil
	}
	return name, nil
}

// makeParents makes the directories that name is in. Through a link, nothing is unpacked.
func makeParents(name string, root *os.Root) error {
	for i := range len(name) {
		if name[i] != '/' {
			continue
		}
		dir := name[:i]
		there, err := root.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			err = root.Mkdir(dir, 0o755)
		} else if err == nil && !there.IsDir() {
			err = fmt.Errorf("%q is below %q, which is no directory", name, dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
