// Package fetchurl is the program of the builtin builder of that name of Nix: it makes
// an output of what a URL gives. It is a process of its own that runs where builders
// run, without any right: what comes over a network is read nowhere else. Whether it is
// what was expected, whoever started it says.
package fetchurl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mikelolasagasti/xz"

	"storefs/nar"
)

// Request is what is to be made.
type Request struct {
	URL        string
	Output     string // a path where nothing is
	Unpack     bool   // the URL gives an archive (NAR), compressed by xz if it ends in .xz
	Executable bool
}

// Names of the variables that have a request.
const (
	urlVariable        = "url"
	outputVariable     = "out"
	unpackVariable     = "unpack"
	executableVariable = "executable"
)

// Environ is r as the environment of a process that calls Main, and with it the proxies
// that getenv, which is like os.Getenv, knows of.
func (r Request) Environ(getenv func(string) string) []string {
	env := append([]string{urlVariable + "=" + r.URL, outputVariable + "=" + r.Output}, proxies(getenv)...)
	if r.Unpack {
		env = append(env, unpackVariable+"=1")
	}
	if r.Executable {
		env = append(env, executableVariable+"=1")
	}
	return env
}

// Main makes what the environment asks for, and returns the exit status. What goes wrong
// is the last line on standard error.
func Main() int {
	r := Request{
		URL:        os.Getenv(urlVariable),
		Output:     os.Getenv(outputVariable),
		Unpack:     os.Getenv(unpackVariable) == "1",
		Executable: os.Getenv(executableVariable) == "1",
	}
	if err := r.make(context.Background(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, strings.ReplaceAll(err.Error(), "\n", " "))
		return 1
	}
	return 0
}

// make tells log what is worth telling before it is done.
func (r Request) make(ctx context.Context, log io.Writer) error {
	source, err := open(ctx, r.URL, log)
	if err != nil {
		return err
	}
	defer source.close()
	if r.Unpack {
		err = r.unpack(source)
	} else {
		err = r.write(source)
	}
	if source.failure != nil { // which whoever reads has seen as well
		return source.failure
	}
	if err == nil && r.Executable {
		err = os.Chmod(r.Output, 0o755)
	}
	return err
}

func (r Request) write(source io.Reader) error {
	f, err := os.OpenFile(r.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, source)
	return errors.Join(err, f.Close())
}

// maxDictionary is the most memory that an archive can make xz take: what is packed by
// xz -9 needs 64 MiB.
const maxDictionary = 256 << 20

func (r Request) unpack(source io.Reader) (err error) {
	if strings.HasSuffix(r.URL, ".xz") {
		if source, err = xz.NewReader(source, maxDictionary); err != nil {
			return fmt.Errorf("unable to unpack '%s': %w", shown(r.URL), err)
		}
	}
	if err := nar.Restore(source, r.Output, nar.RestoreOptions{}); err != nil {
		return fmt.Errorf("unable to unpack '%s': %w", shown(r.URL), err)
	}
	return nil
}
