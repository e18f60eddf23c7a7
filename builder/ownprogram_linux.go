package builder

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// ownDir is where a sandbox that runs this program has it.
const ownDir = ".storefs"

// copyOwn gives the sandbox, whose root is the working directory, a copy of this program
// under the name s.Builder. The file itself might be closed to the builder, or be his, to
// be written to; and another one may have taken its name meanwhile.
//
// A program that is linked dynamically has its interpreter, and the libraries that this
// process has, copied as well, and is run by that: where the host has them, something
// else may be in the sandbox.
func (s *spec) copyOwn() error {
	if !s.Own {
		return nil
	}
	if err := os.Mkdir(ownDir, 0o755); err != nil {
		return err
	}
	if err := copyProgram("/proc/self/exe", string(s.Builder[1:])); err != nil {
		return err
	}
	if err := os.WriteFile(inputName[1:], s.OwnInput, 0o444); err != nil {
		return err
	}
	interpreter, err := interpreterOf("/proc/self/exe")
	if err != nil || interpreter == "" {
		return err
	}
	libraries, err := ownLibraries()
	if err != nil {
		return err
	}
	for name, file := range libraries {
		if err := copyProgram(file, ownDir+"/"+name); err != nil {
			return err
		}
	}
	const inside = ownDir + "/interpreter"
	if err := copyProgram(interpreter, inside); err != nil {
		return err
	}
	s.Args = append([]string{"/" + inside, "--library-path", "/" + ownDir, string(s.Builder)}, s.Args[1:]...)
	s.Builder = []byte("/" + inside)
	return nil
}

func copyProgram(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o555)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// interpreterOf is the program that the kernel runs in the place of a dynamically linked
// one, "" if there is none.
func interpreterOf(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		text, err := io.ReadAll(p.Open())
		return strings.TrimRight(string(text), "\x00"), err
	}
	return "", nil
}

// ownLibraries are the shared libraries that this process has mapped: their files, by the
// names by which they are looked for.
func ownLibraries() (map[string]string, error) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	libraries := make(map[string]string)
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// The file is what follows the inode, behind blanks.
		fields := strings.Fields(lines.Text())
		i := strings.IndexByte(lines.Text(), '/')
		if i < 0 || !strings.Contains(fields[1], "x") {
			continue
		}
		file := lines.Text()[i:]
		lib, err := elf.Open(file)
		if err != nil {
			return nil, fmt.Errorf("library %s: %w", file, err)
		}
		names, err := lib.DynString(elf.DT_SONAME)
		lib.Close()
		if err == nil && len(names) > 0 { // this program has none
			libraries[filepath.Base(names[0])] = file
		}
	}
	return libraries, lines.Err()
}
