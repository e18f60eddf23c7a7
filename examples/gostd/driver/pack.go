package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// pack appends object files to the archive that the compiler wrote, in the
// format of ar(5) as the go command writes it: no times, no owners. (Go comes
// without a ready pack command.)
func pack(archive string, objects []string) error {
	if len(objects) == 0 {
		return nil
	}
	var b bytes.Buffer
	for _, o := range objects {
		data, err := os.ReadFile(o)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%-16.16s%-12d%-6d%-6d%-8o%-10d`\n", filepath.Base(o), 0, 0, 0, 0o644, len(data))
		b.Write(data)
		if len(data)%2 != 0 {
			b.WriteByte(0)
		}
	}
	f, err := os.OpenFile(archive, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := f.Write(b.Bytes()); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
