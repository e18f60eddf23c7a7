package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"storefs/fs"
	"storefs/holder"
)

// becomeHolder makes this process the holder of a mount whose server it starts.
// It is the same program, begun anew so that nothing of the command line's
// parsing stays in the memory of a process that does next to nothing.
func becomeHolder() error {
	err := unix.Exec("/proc/self/exe", append([]string{holder.Name}, os.Args[1:]...), os.Environ())
	return fmt.Errorf("mount: start the holder: %w", err)
}

// holdMount is the whole life of a holder. It returns the exit status.
func holdMount() int {
	return holder.Run(holder.Options{
		Args: append([]string{"storefs"}, os.Args[1:]...),
		Alive: func(files []*os.File) bool {
			held, _, err := heldFrom(files)
			return err == nil && held.Alive()
		},
		Detach: func(files []*os.File) error {
			held, _, err := heldFrom(files)
			if err != nil {
				return err
			}
			return held.Detach()
		},
	})
}

// What a holder keeps of a mount: the connection, the journal, and the lock
// that reserves the state.
func heldFiles(h *fs.Held, lock *os.File) []*os.File {
	return []*os.File{h.Device, h.Journal, lock}
}

func heldFrom(files []*os.File) (h *fs.Held, lock *os.File, err error) {
	if len(files) != 3 {
		return nil, nil, fmt.Errorf("the holder has %d files, not 3: another version's?", len(files))
	}
	return &fs.Held{Device: files[0], Journal: files[1]}, files[2], nil
}
