package fs

import (
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// op is a request of the kernel, as it is counted.
type op int

const (
	opLookup op = iota
	opForget
	opGetAttr
	opReadlink
	opOpen
	opRead
	opLseek
	opRelease
	opFlush
	opOpenDir
	opReadDir
	opReadDirPlus
	opReleaseDir
	opStatFs
	opStatx
	opAccess
	opXattr
	opIoctl
	ops
)

func (o op) String() string {
	return [ops]string{
		"lookup", "forget", "getattr", "readlink", "open", "read", "lseek", "release", "flush", "opendir",
		"readdir", "readdirplus", "releasedir", "statfs", "statx", "access", "xattr", "ioctl",
	}[o]
}

// counted counts requests, as every one costs its caller a round trip: what a
// workload costs is told by these numbers exactly, on any machine. Those that
// reach the RawFileSystem it counts itself.
type counted struct {
	fuse.RawFileSystem
	n [ops]atomic.Uint64
}

// requests are the counts by name, without those that are 0.
func (c *counted) requests() map[string]uint64 {
	m := make(map[string]uint64)
	for o := range ops {
		if v := c.n[o].Load(); v > 0 {
			m[o.String()] = v
		}
	}
	return m
}

func (c *counted) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	c.n[opLseek].Add(1)
	return c.RawFileSystem.Lseek(cancel, in, out)
}

func (c *counted) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	c.n[opRelease].Add(1)
	c.RawFileSystem.Release(cancel, in)
}

func (c *counted) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	c.n[opFlush].Add(1)
	return c.RawFileSystem.Flush(cancel, in)
}

func (c *counted) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.n[opOpenDir].Add(1)
	return c.RawFileSystem.OpenDir(cancel, in, out)
}

func (c *counted) ReleaseDir(in *fuse.ReleaseIn) {
	c.n[opReleaseDir].Add(1)
	c.RawFileSystem.ReleaseDir(in)
}

func (c *counted) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	c.n[opStatFs].Add(1)
	return c.RawFileSystem.StatFs(cancel, h, out)
}

func (c *counted) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	c.n[opStatx].Add(1)
	return c.RawFileSystem.Statx(cancel, in, out)
}

func (c *counted) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	c.n[opAccess].Add(1)
	return c.RawFileSystem.Access(cancel, in)
}

func (c *counted) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	c.n[opXattr].Add(1)
	return c.RawFileSystem.GetXAttr(cancel, h, attr, dest)
}

func (c *counted) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	c.n[opXattr].Add(1)
	return c.RawFileSystem.ListXAttr(cancel, h, dest)
}

func (c *counted) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	c.n[opIoctl].Add(1)
	return c.RawFileSystem.Ioctl(cancel, in, inbuf, out, outbuf)
}
