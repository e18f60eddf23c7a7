package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"storefs/db"
	"storefs/nar"
	"storefs/rawfile"
	"storefs/store"
	"storefs/tree"
)

// layoutVersion is the version of the state directory's layout.
const layoutVersion = 1

// ErrNotState: the directory is not a state directory of ours.
var ErrNotState = errors.New("not a state directory")

type config struct {
	Version int       `json:"version"`
	Store   store.Dir `json:"store"`
}

// subdirs of a state directory, with their modes. Scratch can be passed through
// but not listed: what is in it is nobody else's business before it is
// canonical.
var subdirs = []struct {
	name string
	mode os.FileMode
}{
	{"real", 0o755},
	{"hashes", 0o755},
	{"builds", 0o711},
	{"log", 0o755},
	{"locks", 0o700},
	{"roots", 0o755},
}

// Init makes dir, which must be empty or not exist, a state directory for the
// store at sd.
func Init(dir string, sd store.Dir) error {
	if err := initialise(dir, sd); err != nil {
		return fmt.Errorf("initialise state %s: %w", dir, diskError(err))
	}
	return nil
}

func initialise(dir string, sd store.Dir) error {
	if _, err := store.ParseDir(string(sd)); err != nil {
		return err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := checkOwner(dir); err != nil {
		return err
	}
	// What an earlier Init that was killed has made may stay.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "config.json" {
			return errors.New("it is one already")
		}
		if !isOurs(e.Name()) {
			return fmt.Errorf("the directory is not empty: it contains %q", e.Name())
		}
	}
	for _, d := range subdirs {
		p := filepath.Join(dir, d.name)
		if err := os.Mkdir(p, d.mode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		for _, attr := range []string{accessACL, defaultACL} {
			if err := removeACL(p, attr); err != nil {
				return err
			}
		}
		if err := os.Chmod(p, d.mode); err != nil { // whatever the umask is
			return err
		}
	}
	if err := checkForm(filepath.Join(dir, "real")); err != nil {
		return err
	}
	d, err := db.Open(filepath.Join(dir, "db.bolt"), sd, db.Options{Create: true})
	if err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return err
	}
	// Last, because it is what makes the directory a state directory.
	b, err := json.Marshal(config{layoutVersion, sd})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "config.json"), append(b, '\n'), 0o644)
}

// checkOwner refuses a state directory of somebody else, who could put links, or other
// directories, in the place of what is in it. Root's is as good as ours.
func checkOwner(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return belongs(st, 0, uint32(os.Geteuid()))
}

// belongs says whose it is, if it is none of uids.
func belongs(st os.FileInfo, uids ...uint32) error {
	uid := st.Sys().(*syscall.Stat_t).Uid
	if slices.Contains(uids, uid) {
		return nil
	}
	return fmt.Errorf("it belongs to uid %d, and this is uid %d", uid, os.Geteuid())
}

// checkForm refuses a file system whose files do not get the form that store objects have, as
// some in user space leave out to set a time, and others know no modes: there, each build
// would fail, and all that is added look changed.
func checkForm(real string) error {
	p := filepath.Join(real, ".form")
	if err := tree.RemoveAll(p); err != nil {
		return err
	}
	if err := rawfile.Write(p, nil, 0o600); err != nil {
		return err
	}
	// As it is done to what builders made.
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 1}}
	err := errors.Join(os.Chmod(p, 0o444), os.NewSyscallError("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, p, times, 0)))
	if err != nil {
		return errors.Join(err, os.Remove(p))
	}
	what, err := nar.Form(p, nar.FormOptions{Owner: os.Geteuid()})
	if err == nil && len(what) > 0 {
		err = fmt.Errorf("its file system does not give files what store objects have: of a new one, %s", strings.Join(what, ", "))
	}
	return errors.Join(err, os.Remove(p))
}

// What a directory has of access control lists: its own, and the one that is given to
// whatever is made in it. Store objects have none, and scratch is made for the builder's
// user alone, so the directories that they are made in must pass nothing on.
const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

func removeACL(path, attr string) error {
	// Looked for first: on a Btrfs that is full, to remove what is not there is ENOSPC.
	_, err := unix.Getxattr(path, attr, nil)
	if err == nil {
		err = unix.Removexattr(path, attr)
	}
	if err == nil || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return &os.PathError{Op: "remove the access control list of", Path: path, Err: err}
}

func isOurs(name string) bool {
	for _, d := range subdirs {
		if name == d.name {
			return true
		}
	}
	return name == "db.bolt" || name == "db.bolt.log" || name == "config.json.new"
}

// writeFile replaces the file at path by one that is complete and on disk. It follows no
// link.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func readConfig(dir string) (config, error) {
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	var pathErr *os.PathError
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return config{}, fmt.Errorf("%s: %w (storefs init makes one)", dir, ErrNotState)
	case errors.As(err, &pathErr):
		return config{}, fmt.Errorf("state %s: %w", dir, pathErr)
	}
	var c config
	if err := json.Unmarshal(b, &c); err != nil {
		return config{}, fmt.Errorf("%s: %w: config.json: %s", dir, ErrNotState, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if c.Version != layoutVersion {
		return config{}, fmt.Errorf("state %s: its layout is version %d, this program reads version %d", dir, c.Version, layoutVersion)
	}
	if _, err := store.ParseDir(string(c.Store)); err != nil {
		return config{}, fmt.Errorf("state %s: config.json: %w", dir, err)
	}
	return c, nil
}

// StoreDir is the store directory of the state directory dir, which need not be
// fit for anything else: whoever wants to mend it may have to unmount first.
func StoreDir(dir string) (store.Dir, error) {
	c, err := readConfig(dir)
	return c.Store, err
}

// checkLayout refuses what would fail, or do damage, later on.
func (s *State) checkLayout() error {
	if err := checkOwner(s.path("")); err != nil {
		return err
	}
	if err := unix.Access(s.path(""), unix.W_OK); errors.Is(err, unix.EROFS) {
		return err
	}
	// Not in state directories of before there were hashes of files.
	if err := os.Mkdir(s.path("hashes"), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	var dev uint64
	for _, d := range subdirs {
		st, err := os.Lstat(s.path(d.name))
		if err != nil {
			return err
		}
		if !st.IsDir() {
			return fmt.Errorf("%s is not a directory: %w", d.name, ErrNotState)
		}
		sys := st.Sys().(*syscall.Stat_t)
		// Files are made for whoever runs this: in somebody else's state they
		// would have the wrong owner, which shows in the mount.
		if err := belongs(st, uint32(os.Geteuid())); err != nil {
			return err
		}
		if err := removeACL(s.path(d.name), defaultACL); err != nil {
			return err
		}
		switch d.name {
		case "real":
			dev = sys.Dev
		case "builds", "hashes":
			if sys.Dev != dev {
				return fmt.Errorf("%s is on another file system than real, so that nothing can be renamed from one to the other", d.name)
			}
			// The same one may be mounted twice. That is found out before it is looked
			// whether there is such a name, or anything may be written.
			if err := unix.Rename(s.path(d.name, ".none"), s.path("real", ".none")); errors.Is(err, unix.EXDEV) {
				return fmt.Errorf("%s is on another mount than real, so that nothing can be renamed from one to the other", d.name)
			}
		}
	}
	return nil
}

// writeOwner notes who holds the state, if it can: only messages depend on it,
// and a disk that is full must not keep anybody from deleting.
func writeOwner(path, command string) {
	if command == "" {
		command = filepath.Base(os.Args[0])
	}
	_ = os.WriteFile(path, fmt.Appendf(nil, "%d %s\n", os.Getpid(), strings.ReplaceAll(command, "\n", " ")), 0o644)
}

// Owner is who has the state directory open, or had it when it died: PID is 0 if nobody
// says so.
func Owner(dir string) *InUseError {
	e := &InUseError{Dir: dir}
	b, err := os.ReadFile(filepath.Join(dir, "owner"))
	if err != nil {
		return e
	}
	pid, command, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	if n, err := strconv.Atoi(pid); err == nil {
		e.PID, e.Command = n, command
	}
	return e
}
