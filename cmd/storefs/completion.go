package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

type completionCmd struct {
	Shell string `arg:"" optional:"" enum:"bash,zsh,fish," default:"" help:"bash, zsh or fish. [that of SHELL]"`
	Code  bool   `short:"c" help:"Print what the shell is to read."`
}

func (*completionCmd) Help() string {
	return `Says how the shell is made to complete commands, flags and their values: by a line for its init file.`
}

// shells are how each is told: what reads the code, where that stands, and the code,
// for the program at %[1]s. kong-completion's for fish would complete no names of files.
var shells = map[string]struct{ line, file, code string }{
	"bash": {"source <(storefs completion -c bash)", "~/.bashrc", "complete -o default -o bashdefault -C %[1]s storefs\n"},
	"zsh": {"source <(storefs completion -c zsh)", "~/.zshrc", `autoload -U +X bashcompinit && bashcompinit
complete -o default -o bashdefault -C %[1]s storefs
`},
	"fish": {"storefs completion -c fish | source", "~/.config/fish/config.fish", `function __complete_storefs
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    %[1]s
end
complete -f -c storefs -a "(__complete_storefs)"
complete -c storefs -n "test (count (commandline -opc)) -gt 1" -F
`},
}

func (c *completionCmd) Run(a *app) error {
	name := c.Shell
	if name == "" {
		name = filepath.Base(os.Getenv("SHELL"))
	}
	sh, ok := shells[name]
	if !ok {
		return badInputf("completion: which shell? storefs completion bash, zsh or fish")
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("completion: %w", err)
	}
	quoted := quote(program)
	if name != "fish" {
		quoted = quote(quoted) // what follows -C is a command line itself
	}
	code := fmt.Sprintf(sh.code, quoted)
	return a.print(map[string]string{"shell": name, "line": sh.line, "file": sh.file, "code": code}, func(w io.Writer) {
		if c.Code {
			fmt.Fprint(w, code)
			return
		}
		fmt.Fprintf(w, "# In %s:\n%s\n", sh.file, sh.line)
	})
}

// quote is text as a word of a shell, left alone where it is one already.
func quote(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._+-", r))
	}) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// complete ends the process if a shell asks what a line could go on with.
func complete(parser *kong.Kong) {
	if _, asked := os.LookupEnv("COMP_LINE"); !asked {
		return
	}
	var names []string
	for _, c := range parser.Model.Children {
		names = append(names, c.Name)
		spellOut(c)
	}
	for _, c := range parser.Model.Children {
		if c.Name == "help" {
			c.Positional[0].Enum = strings.Join(names, ",")
		}
	}
	kongcompletion.Register(parser)
}

// spellOut has the negative form of a flag stand for itself, which the shell is told
// nothing of else.
func spellOut(n *kong.Node) {
	for _, c := range n.Children {
		spellOut(c)
	}
	for _, f := range n.Flags {
		if f.Tag.Negatable == "" {
			continue
		}
		value := *f.Value
		value.Name = "no-" + f.Name
		n.Flags = append(n.Flags, &kong.Flag{Value: &value})
	}
}
