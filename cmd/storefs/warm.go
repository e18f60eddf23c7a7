package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// roomForFiles is how many files a mount has room for from the beginning.
const roomForFiles = 4096

// warmUp does beforehand what the first callers of a mount would wait for: 4 ms of 16.
// What cannot be done is left to them.
func warmUp() {
	makeRoomForFiles()
	readProgram()
}

// makeRoomForFiles makes the kernel's table of this process's files as large as it may
// have to be. Whoever opens a file for which there is no room waits for RCU, 5 to 12 ms,
// as threads share the table: when it comes to 64 files, to 128, to 256.
func makeRoomForFiles() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	last := int(min(limit.Cur, roomForFiles)) - 1
	if high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, last); err == nil {
		unix.Close(high)
	}
}

// readProgram maps all of this program at once, which takes half a millisecond: page by
// page, as it is needed, it takes several. Linux can since 5.14.
func readProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range bytes.Lines(maps) {
		var begin, end uintptr
		var rights string
		f := bytes.Fields(line)
		if len(f) < 6 || filepath.Clean(string(f[5])) != program {
			continue
		}
		if _, err := fmt.Sscanf(string(line), "%x-%x %s", &begin, &end, &rights); err == nil && rights[1] == '-' {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_POPULATE_READ)
		}
	}
}
