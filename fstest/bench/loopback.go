package main

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// loopback serves real at dir as go-fuse's example does, until it is unmounted.
func loopback(real, dir string) error {
	root, err := fs.NewLoopbackRoot(real)
	if err != nil {
		return err
	}
	second := time.Second
	server, err := fs.Mount(dir, root, &fs.Options{
		AttrTimeout: &second, EntryTimeout: &second, NullPermissions: true,
		MountOptions: fuse.MountOptions{DirectMount: true, FsName: real, Name: "loopback", Options: []string{"ro"}},
	})
	if err != nil {
		return err
	}
	server.Wait()
	return nil
}
