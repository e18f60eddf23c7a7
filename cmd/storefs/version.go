package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

func (*versionCmd) Run(a *app) error {
	v := map[string]string{"version": version(), "go": runtime.Version(), "system": runtime.GOARCH + "-" + runtime.GOOS}
	return a.print(v, func(w io.Writer) {
		fmt.Fprintf(w, "storefs %s (%s, %s)\n", v["version"], v["go"], v["system"])
	})
}

// version is what the build recorded: the module's version, or the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "devel"
}
