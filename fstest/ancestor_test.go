package fstest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// derive2004 imports a derivation of 2004 whose builder runs script, and
// returns its path.
func (l *lab) derive2004(name, out, tools, closure, script string, inputs ...string) string {
	l.t.Helper()
	ins := []string{fmt.Sprintf("%q", closure)}
	for _, in := range inputs {
		ins = append(ins, fmt.Sprintf("%q", in))
	}
	text := fmt.Sprintf(`Derive([%q],[%s],"x86_64-linux","%s/bin/sh",["-euc",%q],[("PATH","%s/bin"),("out",%q)])`,
		out, strings.Join(ins, ","), tools, script, tools, out)
	return l.ok("import", l.write(name+"-d.store", text))[0]
}

func (l *lab) source2004() (tools, closure string) {
	tools = l.ok("add", "tools")[0]
	closure = l.ok("import", l.write("tools-s.store", fmt.Sprintf(`Closure([%q],[(%q,[])])`, tools, tools)))[0]
	return tools, closure
}

func TestExpressionsOf2004(t *testing.T) {
	l := newLab(t)
	tools, closure := l.source2004()
	one := l.Store + "/00000000000000000000000000000001-one"
	two := l.Store + "/00000000000000000000000000000002-two"
	first := l.derive2004("one", one, tools, closure, "mkdir $out; echo one > $out/file")
	second := l.derive2004("two", two, tools, closure, "mkdir $out; cat "+one+"/file > $out/file; echo "+one+" >> $out/file", first)

	l.serve()
	b, err := os.ReadFile(two + "/file") // built by touching it
	if err != nil || string(b) != "one\n"+one+"\n" {
		t.Errorf("read: %q, %v", b, err)
	}
	successor := l.ok("query", "successor", second)[0]
	if !strings.HasSuffix(successor, "-s.store") {
		t.Errorf("successor: %s", successor)
	}
	text, err := os.ReadFile(successor)
	want := fmt.Sprintf(`Closure([%q],[(%q,[]),(%q,[%q])])`, two, one, two, one)
	if err != nil || string(text) != want {
		t.Errorf("closure: %s, %v; want %s", text, err, want)
	}
	if got := l.ok("query", "predecessors", successor)[0]; got != second {
		t.Errorf("predecessors: %s, want %s", got, second)
	}
	l.stop()
}

func TestSubstitutes(t *testing.T) {
	l := newLab(t)
	tools, closure := l.source2004()
	wanted := l.Store + "/0000000000000000000000000000000a-wanted"
	other := l.Store + "/0000000000000000000000000000000b-other"
	broken := l.derive2004("broken", wanted, tools, closure, "echo cannot; exit 3")
	idle := l.derive2004("idle", other, tools, closure, "mkdir $out")
	// Yields the wanted path: tried last, since it was registered first.
	good := l.derive2004("good", wanted, tools, closure, "mkdir $out; echo substituted > $out/file")
	user := l.ok("import", l.write("user-s.store", fmt.Sprintf(`Closure([%q],[(%q,[])])`, wanted, wanted)))[0]

	l.ok("substitute", wanted, good)
	l.ok("substitute", wanted, idle) // ends well, but does not yield it
	l.ok("substitute", wanted, broken)
	if got := l.ok("query", "substitutes", wanted); strings.Join(got, " ") != broken+" "+idle+" "+good {
		t.Errorf("substitutes %v, want newest first", got)
	}
	l.serve()
	l.ok("build", user)
	b, err := os.ReadFile(wanted + "/file")
	if err != nil || string(b) != "substituted\n" {
		t.Errorf("read: %q, %v", b, err)
	}
	l.stop()

	// A path whose only substitute needs the path itself.
	looped := l.Store + "/0000000000000000000000000000000c-looped"
	self := l.ok("import", l.write("self-s.store", fmt.Sprintf(`Closure([%q],[(%q,[])])`, looped, looped)))[0]
	l.ok("substitute", looped, self)
	l.fails(1, []string{"cycle", looped}, "build", looped)
}
