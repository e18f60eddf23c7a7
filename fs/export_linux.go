package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// export is a directory for containers, which may be given it at any time, with
// rslave propagation: what is mounted in it while there is a store, and
// unmounted with it, is then so in them as well. A bind of the mount point
// itself would stay with the mount that was there when it was made.
//
// Where what surrounds the directory is not shared, it is a mount point of its own, and
// stays one: containers that have it see the next store in it.
type export struct {
	at  string // where the store is, in the directory
	log *slog.Logger
}

// newExport prepares dir to have the store that is mounted at mountpoint in it,
// under the same name.
func newExport(dir, mountpoint, state string, log *slog.Logger) (*export, error) {
	e, err := prepareExport(dir, mountpoint, state, log)
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", dir, err)
	}
	return e, nil
}

func prepareExport(dir, mountpoint, state string, log *slog.Logger) (*export, error) {
	dir, err := exportable(dir, mountpoint, state)
	if err != nil {
		return nil, err
	}
	if err := share(dir); err != nil {
		return nil, err
	}
	e := &export{at: filepath.Join(dir, filepath.Base(mountpoint)), log: log}
	if err := os.Mkdir(e.at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, cause(err)
	}
	return e, nil
}

// exportable resolves dir, and refuses what cannot have the store that is mounted, or
// will be, at mountpoint in it.
func exportable(dir, mountpoint, state string) (string, error) {
	if !mayMount() {
		return "", errors.New("only root may (CAP_SYS_ADMIN)")
	}
	dir, err := resolveMountpoint(dir)
	if err != nil {
		return "", err
	}
	if below(dir, mountpoint) || below(mountpoint, dir) {
		return "", fmt.Errorf("one of it and the mount point %s is in the other", mountpoint)
	}
	switch st, err := os.Lstat(dir); {
	case err != nil:
		return "", cause(err)
	case !st.IsDir():
		return "", errors.New("not a directory")
	}
	return dir, checkOverlap(dir, state)
}

// share makes what is mounted in dir spread to who was given it. Where all mounts
// spread, as systemd has it, nothing is to be done, and containers may have been given it
// before. Elsewhere it becomes a mount point.
func share(dir string) error {
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return !below(dir, m.Mountpoint), false })
	if err != nil {
		return err
	}
	around := new(mountinfo.Info)
	for _, m := range infos {
		// Later mounts are listed later.
		if len(m.Mountpoint) >= len(around.Mountpoint) {
			around = m
		}
	}
	if around.Mountpoint != dir {
		if strings.Contains(around.Optional, "shared:") {
			return nil
		}
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make private: %w", err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make shared: %w", err)
	}
	return nil
}

// open shows the mount m, which somebody serves already, in the directory. An
// earlier server may have done so.
func (e *export) open(m mounted) error {
	if there, found := mountAt(e.at); found && there.major == m.major && there.minor == m.minor {
		return nil
	}
	if _, err := clearDead(e.at, e.log); err != nil {
		return fmt.Errorf("export to %s: %w", e.at, err)
	}
	if err := unix.Mount(m.dir, e.at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("export to %s: bind: %w", e.at, err)
	}
	return nil
}

// close takes the mount m away. Who uses it goes on until the mount's end.
func (e *export) close(m mounted) {
	there, found := mountAt(e.at)
	if !found || there.major != m.major || there.minor != m.minor {
		return
	}
	if err := unmountAt(e.at, true, true); err != nil {
		e.log.Warn("the export stays", "path", e.at, "error", err)
	}
}
