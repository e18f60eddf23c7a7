package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// graph is trivial jobs that need each other: job i needs the jobs in needs[i],
// which come before it, and the last one needs, directly or not, all that there
// is.
type graph struct {
	name  string
	needs [][]int
}

// shapes are how the jobs of a graph may need each other.
var shapes = []struct {
	name  string
	needs func(r *rand.Rand, i int) []int
}{
	{"wide", func(*rand.Rand, int) []int { return nil }},
	{"chain", func(_ *rand.Rand, i int) []int { return some(i, i-1) }},
	{"layered", func(_ *rand.Rand, i int) []int {
		const width = 100
		base := i / width * width // of its own layer
		return some(base, base-1-i%width, base-1-(i+7)%width, base-1-(i+14)%width)
	}},
	{"random", func(r *rand.Rand, i int) []int {
		if i == 0 {
			return nil
		}
		return some(i, r.IntN(i), r.IntN(i), r.IntN(i))
	}},
}

// some is those of jobs that come before the job i, each once.
func some(i int, jobs ...int) []int {
	var out []int
	seen := map[int]bool{}
	for _, j := range jobs {
		if j >= 0 && j < i && !seen[j] {
			seen[j] = true
			out = append(out, j)
		}
	}
	return out
}

// newGraph makes n jobs of a shape, and the one that needs all.
func newGraph(name string, n int, needs func(r *rand.Rand, i int) []int) graph {
	r := rand.New(rand.NewPCG(1, 2))
	g := graph{name: fmt.Sprintf("%d-%s", n, name)}
	used := make([]bool, n)
	for i := range n {
		in := needs(r, i)
		for _, j := range in {
			used[j] = true
		}
		g.needs = append(g.needs, in)
	}
	var top []int
	for i, u := range used {
		if !u {
			top = append(top, i)
		}
	}
	// No more of them than fit into one environment variable.
	const most = 1000
	for len(top) > most {
		var next []int
		for some := range slices.Chunk(top, most) {
			g.needs = append(g.needs, some)
			next = append(next, len(g.needs)-1)
		}
		top = next
	}
	g.needs = append(g.needs, top)
	return g
}

// write writes the graph to dir for storefs, ninja and Nix. All run the same
// command.
func (g graph) write(dir, busybox string) error {
	var star, ninja, nix strings.Builder
	star.WriteString("tools = source(\"tools\")\ndef job(i, needs):\n" +
		"    return derivation(name = \"job-%d\" % i, builder = tools + \"/bin/busybox\", args = [\"sh\", \"-c\", \"echo %d > $out\" % i], env = {\"needs\": \" \".join([str(n) for n in needs])}, kind = \"regular\")\n" +
		"def jobs(needs):\n    all = []\n    for n in needs:\n        all.append(job(len(all), [all[i] for i in n]))\n    return all\nall = jobs([\n")
	ninja.WriteString("rule job\n  command = " + busybox + " sh -c 'echo $n > $out'\n")
	nix.WriteString("let\n  tools = builtins.path { path = ./tools; name = \"tools\"; };\n" +
		"  job = i: needs: derivation { name = \"job-${i}\"; system = \"x86_64-linux\"; builder = \"${tools}/bin/busybox\"; args = [ \"sh\" \"-c\" \"echo ${i} > $out\" ]; inherit needs; };\n")
	for i, in := range g.needs {
		text := strings.Fields(strings.Trim(fmt.Sprint(in), "[]"))
		fmt.Fprintf(&star, "[%s],\n", strings.Join(text, ","))
		deps := ""
		for _, d := range text {
			deps += " out/" + d
		}
		fmt.Fprintf(&ninja, "build out/%d: job%s\n  n = %d\n", i, deps, i)
		fmt.Fprintf(&nix, "  j%d = job \"%d\" [", i, i)
		for _, d := range text {
			nix.WriteString(" j" + d)
		}
		nix.WriteString(" ];\n")
	}
	last := len(g.needs) - 1
	star.WriteString("])\ndefault = all[-1]\n")
	fmt.Fprintf(&ninja, "default out/%d\n", last)
	fmt.Fprintf(&nix, "in j%d\n", last)
	for ext, text := range map[string]string{".star": star.String(), ".ninja": ninja.String(), ".nix": nix.String()} {
		if err := os.WriteFile(filepath.Join(dir, g.name+ext), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
