package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"storefs/outlet"
)

// app is what all commands share.
type app struct {
	cli
	soft     context.Context // ends with the signal that ends the command
	hard     context.Context // ends with the signal after the one that ends the command
	draining atomic.Bool     // the command has ended, and others are waited for
	unread   atomic.Bool     // nobody reads stderr
	outlet   *outlet.Outlet  // for stderr, of a server; nil: a command waits for who reads it
	patience time.Duration   // see connect; zero is what that says

	configured map[string]string // for each flag that a config file sets, the name of that file

	stdin  *os.File
	stdout *os.File
	stderr *os.File
}

// cli is the command line.
type cli struct {
	shared
	commands
}

// shared are the flags that every command has.
type shared struct {
	State  string `short:"s" env:"STOREFS_STATE" default:"${state}" type:"path" placeholder:"DIR" help:"The state directory, where everything really lives. [${state}]"`
	JSON   bool   `name:"json" help:"Print results as JSON."`
	Config string `placeholder:"FILE" type:"path" help:"Read flags from this TOML file as well (jobs = 4; flat keys, named like the flags of any command), besides /etc/storefs.toml and ~/.config/storefs.toml."`
}

type commands struct {
	Init    initCmd    `cmd:"" group:"store" help:"Make a state directory for a store."`
	Mount   mountCmd   `cmd:"" group:"store" help:"Serve the store: mount it, and build what is touched."`
	Umount  umountCmd  `cmd:"" group:"store" help:"End a mount."`
	Upgrade upgradeCmd `cmd:"" group:"store" help:"Let a newer program go on with a mount."`

	Build       buildCmd       `cmd:"" group:"make" help:"Realise, and print the output paths."`
	Instantiate instantiateCmd `cmd:"" group:"make" help:"Write the store expressions of a Starlark file, and print their paths."`
	Fmt         fmtCmd         `cmd:"" group:"make" help:"Format Starlark files."`
	Cancel      cancelCmd      `cmd:"" group:"make" help:"End what is being made."`
	Substitute  substituteCmd  `cmd:"" group:"make" help:"Say that an expression can yield a path."`

	Add    addCmd    `cmd:"" group:"move" help:"Add files and directories as sources."`
	Import importCmd `cmd:"" group:"move" help:"Take in store expressions and export streams."`
	Export exportCmd `cmd:"" group:"move" help:"Write paths as a stream for import or nix-store --import."`

	Query  queryCmd  `cmd:"" group:"ask" help:"Ask how paths stand to others."`
	Why    whyCmd    `cmd:"" group:"ask" help:"Say what became of a path, and why."`
	Log    logCmd    `cmd:"" group:"ask" help:"Print the log of a build."`
	Status statusCmd `cmd:"" group:"ask" help:"Show what is happening."`
	Graph  graphCmd  `cmd:"" group:"ask" help:"Draw who needs whom."`

	Verify   verifyCmd   `cmd:"" group:"care" help:"Check that the store is whole."`
	Delete   deleteCmd   `cmd:"" group:"care" help:"Remove paths that nothing refers to."`
	Prefetch prefetchCmd `cmd:"" group:"care" help:"Take what was learned of programs from one machine to another."`
	Dump     dumpCmd     `cmd:"" group:"care" help:"Write a path as a NAR."`
	Restore  restoreCmd  `cmd:"" group:"care" help:"Unpack a NAR."`
	Hash     hashCmd     `cmd:"" group:"care" help:"Print the hash of a path."`

	Completion completionCmd `cmd:"" group:"rest" help:"Say how bash, zsh or fish completes all of this."`
	Help       helpCmd       `cmd:"" group:"rest" help:"Show the help of a command, as --help does."`
	Version    versionCmd    `cmd:"" group:"rest" help:"Print the version."`
}

const description = `A lazy store: a directory like /nix/store in which every path that the store knows how to make exists as soon as it is touched.`

// groups of commands, in the order of the help.
func groups() []kong.Group {
	return []kong.Group{
		{Key: "store", Title: "The store"},
		{Key: "make", Title: "Making paths"},
		{Key: "move", Title: "In and out"},
		{Key: "ask", Title: "Questions"},
		{Key: "care", Title: "Care and tools"},
		{Key: "rest", Title: "Others"},
	}
}

func (a *app) run(ctx context.Context, args []string) error {
	if slices.Equal(args, []string{"--version"}) {
		args = []string{"version"} // as many programs have it
	}
	a.soft = ctx
	var unprinted error
	options := []kong.Option{
		kong.Name("storefs"),
		kong.Description(description + "\n\n" + statusHelp),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Help(func(o kong.HelpOptions, ctx *kong.Context) error {
			unprinted = printHelp(o, ctx)
			return unprinted
		}),
		kong.ExplicitGroups(groups()),
		kong.Writers(a.stdout, a.stderr),
		vars(),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(a),
	}
	options = append(options, textMappers()...)
	var model any = &a.cli
	if one := a.oneCommand(args); one != nil {
		model, options = &a.shared, append(options, one)
	}
	parser, err := kong.New(model, options...)
	if err != nil {
		return badInput(err)
	}
	if model == &a.cli {
		complete(parser)
	}
	kctx, err := parser.Parse(args)
	if unprinted != nil {
		return fmt.Errorf("print the help: %w", unprinted)
	}
	if err == nil {
		err = checkArguments(kctx)
	}
	if err != nil {
		return badInput(a.fromConfig(usageError(err)))
	}
	if err = kctx.Run(); err != nil {
		err = a.fromConfig(err)
	}
	return interrupted(ctx, err)
}

// hearing is how long it may take from when a signal has ended a system call until who
// listens for signals has heard of it.
const hearing = time.Second

// interrupted returns err, with why ctx has ended if it has.
func interrupted(ctx context.Context, err error) error {
	if errors.Is(err, unix.EINTR) { // a signal has come, maybe one of those that end it
		select {
		case <-ctx.Done():
		case <-time.After(hearing):
		}
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, errInterrupted) {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// vars are what the help and the defaults of flags depend on.
func vars() kong.Vars {
	return kong.Vars{
		"state":       defaultState(),
		"jobs":        fmt.Sprint(runtime.NumCPU()),
		"allow_other": fmt.Sprint(os.Geteuid() == 0),
	}
}

// oneCommand is the command that args begin with, for a model that has no other:
// kong takes 2.6 ms to make that of all commands, which is more than the rest of
// a command that finds everything done. It is nil if args do not begin with one,
// or a shell asks what they could go on with.
func (a *app) oneCommand(args []string) kong.Option {
	if _, asked := os.LookupEnv("COMP_LINE"); asked || len(args) == 0 {
		return nil
	}
	all := reflect.ValueOf(&a.commands).Elem()
	for i := range all.NumField() {
		f := all.Type().Field(i)
		if strings.ToLower(f.Name) == args[0] {
			return kong.DynamicCommand(args[0], f.Tag.Get("help"), f.Tag.Get("group"), all.Field(i).Addr().Interface())
		}
	}
	return nil
}

// defaultState is where the state is if nothing says otherwise: never somewhere
// that depends on the working directory. It is "" if the user has no home.
func defaultState() string {
	if os.Geteuid() == 0 {
		return "/var/lib/storefs"
	}
	if base := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "storefs")
	}
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		u, err := user.LookupId(strconv.Itoa(os.Geteuid()))
		if err != nil || !filepath.IsAbs(u.HomeDir) {
			return ""
		}
		home = u.HomeDir
	}
	return filepath.Join(home, ".local/state/storefs")
}

// findState refuses what needs a state directory if nothing says where it is.
func (a *app) findState() error {
	if a.State == "" {
		a.State = defaultState() // STOREFS_STATE is set to nothing
	}
	if a.State == "" {
		return badInputf("uid %d has no home directory for a state directory: --state says where it is", os.Geteuid())
	}
	if !utf8.ValidString(a.State) {
		return badInputf("--state: %q is not UTF-8", a.State) // spawners and clients are told of it in JSON
	}
	return nil
}

// print writes a result to stdout: as JSON if that was asked for, or else what
// text writes. Where nobody reads it, a signal ends that: another one, if the first
// came before.
func (a *app) print(v any, text func(w io.Writer)) error {
	ctx := a.soft
	if ctx.Err() != nil {
		ctx = a.hard
	}
	w := bufio.NewWriter(&flow{ctx: ctx, file: a.stdout})
	if a.JSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
	} else {
		text(w)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// printLines prints a list, one a line.
func printLines[S ~string](a *app, lines []S) error {
	if lines == nil {
		lines = []S{}
	}
	return a.print(lines, func(w io.Writer) {
		for _, l := range lines {
			fmt.Fprintln(w, l)
		}
	})
}
