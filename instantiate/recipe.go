package instantiate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.starlark.net/starlark"

	"storefs/store"
	"storefs/storeexpr"
)

// recipe is the arguments of one call of derivation().
type recipe struct {
	name, system             string
	builder                  starlark.Value
	args, outputs, inputs    *starlark.List
	env, kinds               *starlark.Dict
	kind                     string
	hash, hashAlgo, hashMode string
}

func (e *evaluation) derivationBuiltin(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	r := recipe{system: e.opts.System}
	if err := starlark.UnpackArgs(b.Name(), args, kwargs,
		"name", &r.name, "builder", &r.builder, "args?", &r.args, "env?", &r.env,
		"outputs?", &r.outputs, "system?", &r.system, "kind?", &r.kind, "kinds?", &r.kinds,
		"hash?", &r.hash, "hash_algo?", &r.hashAlgo, "hash_mode?", &r.hashMode, "inputs?", &r.inputs); err != nil {
		return nil, err
	}
	d, err := e.derivation(&r)
	if err != nil {
		return nil, fmt.Errorf("derivation %s: %w", r.name, err)
	}
	return d, nil
}

func (e *evaluation) derivation(r *recipe) (*derivation, error) {
	if err := store.CheckName(r.name + ".drv"); err != nil {
		return nil, err
	}
	if strings.HasSuffix(r.name, ".drv") {
		return nil, fmt.Errorf("the name %q ends with .drv, which only derivations themselves do", r.name)
	}
	d := &derivation{name: r.name, expr: &storeexpr.Derivation{Form: storeexpr.FormToday, Platform: r.system}}
	for _, fill := range []func(*derivation, *recipe) error{fillOutputs, fillProgram, fillEnv, e.fillInputs, fillKinds} {
		if err := fill(d, r); err != nil {
			return nil, err
		}
	}
	if err := d.expr.FillOutputs(e.opts.Dir, d.name, e.moduloOf); err != nil {
		return nil, err
	}
	if err := d.expr.Check(e.opts.Dir, d.name); err != nil {
		return nil, err
	}
	var err error
	if d.path, err = d.expr.Path(e.opts.Dir, d.name); err != nil {
		return nil, err
	}
	if o, ok := e.objects[d.path.Digest()]; ok {
		if !maps.Equal(o.drv.kinds, d.kinds) {
			return nil, fmt.Errorf("written twice, the same but for the kinds of its outputs")
		}
		return o.drv, nil
	}
	if e.modulo[d.path], err = d.expr.HashModulo(e.moduloOf); err != nil {
		return nil, err
	}
	e.register(d.path, object{drv: d})
	for _, o := range d.expr.Outputs {
		e.register(o.Path, object{drv: d, output: o.Name})
	}
	return d, nil
}

func (e *evaluation) moduloOf(drv store.Path) (storeexpr.Modulo, error) {
	if m, ok := e.modulo[drv]; ok {
		return m, nil
	}
	return nil, store.ErrUnknown
}

func fillOutputs(d *derivation, r *recipe) error {
	d.outputs = []string{"out"}
	if r.outputs != nil {
		var err error
		if d.outputs, err = stringList(r.outputs); err != nil {
			return fmt.Errorf("outputs: %w", err)
		}
		if len(d.outputs) == 0 {
			return fmt.Errorf("outputs: there must be one at least")
		}
	}
	fixed, err := fixedOutput(r)
	if err != nil {
		return err
	}
	for _, name := range d.outputs {
		if err := checkVariable(name); err != nil && name != "" {
			return fmt.Errorf("outputs: %w", err)
		}
		d.expr.Outputs = append(d.expr.Outputs, storeexpr.Output{Name: name, Algo: fixed.Algo, Hash: fixed.Hash})
	}
	slices.SortFunc(d.expr.Outputs, func(a, b storeexpr.Output) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// fixedOutput reads the hash that the output is promised to have, if there is
// one: by itself ("sha256-…", "sha256:…") or with its algorithm apart.
func fixedOutput(r *recipe) (storeexpr.Output, error) {
	if r.hash == "" {
		if r.hashAlgo != "" || r.hashMode != "" {
			return storeexpr.Output{}, fmt.Errorf("hash_algo and hash_mode are of no use without hash")
		}
		return storeexpr.Output{}, nil
	}
	h, err := parseHash(r.hash, store.Algo(r.hashAlgo))
	if err != nil {
		return storeexpr.Output{}, err
	}
	o := storeexpr.Output{Algo: string(h.Algo), Hash: h.Base16()}
	switch r.hashMode {
	case "", "flat":
	case "recursive":
		o.Algo = "r:" + o.Algo
	default:
		return storeexpr.Output{}, fmt.Errorf("hash_mode is %q, want \"flat\" or \"recursive\"", r.hashMode)
	}
	return o, nil
}

func parseHash(s string, algo store.Algo) (store.Hash, error) {
	if !strings.ContainsAny(s, ":-") {
		if algo == "" {
			return store.Hash{}, fmt.Errorf("hash %q: say which it is by hash_algo", s)
		}
		return store.ParseDigest(algo, s)
	}
	h, err := store.ParseHash(s)
	if err == nil && algo != "" && h.Algo != algo {
		err = fmt.Errorf("hash %q: it is not of hash_algo %q", s, algo)
	}
	return h, err
}

func fillProgram(d *derivation, r *recipe) error {
	var err error
	if d.expr.Builder, err = coerce(r.builder); err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	if r.args == nil {
		return nil
	}
	for i := range r.args.Len() {
		a, err := coerce(r.args.Index(i))
		if err != nil {
			return fmt.Errorf("args: element %d: %w", i, err)
		}
		d.expr.Args = append(d.expr.Args, a)
	}
	return nil
}

// fillEnv makes the environment as Nix does: all attributes but the arguments
// are in it.
func fillEnv(d *derivation, r *recipe) error {
	env := map[string]string{"name": r.name, "builder": d.expr.Builder, "system": r.system}
	for name, v := range map[string]string{"outputHash": r.hash, "outputHashAlgo": r.hashAlgo, "outputHashMode": r.hashMode} {
		if v != "" {
			env[name] = v
		}
	}
	if r.outputs != nil {
		env["outputs"] = strings.Join(d.outputs, " ")
	}
	if r.env != nil {
		for _, item := range r.env.Items() {
			name, ok := starlark.AsString(item[0])
			if !ok {
				return fmt.Errorf("env: the name %v is of type %s, want a string", item[0], item[0].Type())
			}
			if err := checkVariable(name); err != nil {
				return fmt.Errorf("env: %w", err)
			}
			if why := reserved(d, name); why != "" {
				return fmt.Errorf("env: %q cannot be set: %s", name, why)
			}
			v, err := coerce(item[1])
			if err != nil {
				return fmt.Errorf("env: %q: %w", name, err)
			}
			env[name] = v
		}
	}
	for name, v := range env {
		d.expr.Env = append(d.expr.Env, storeexpr.EnvVar{Name: name, Value: v})
	}
	slices.SortFunc(d.expr.Env, func(a, b storeexpr.EnvVar) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// checkVariable refuses what no program could find in its environment. Nix takes it, and what
// was made by Nix builds here as there.
func checkVariable(name string) error {
	before, _, assigns := strings.Cut(name, "=")
	switch {
	case name == "":
		return fmt.Errorf("%q cannot be the name of a variable", name)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("%q cannot be the name of a variable: it contains a NUL", name)
	case assigns:
		return fmt.Errorf("%q cannot be the name of a variable: the builder would see one called %q", name, before)
	}
	return nil
}

// reserved says why a variable cannot be set through env.
func reserved(d *derivation, name string) string {
	switch name {
	case "name", "builder", "system", "outputs", "args":
		return "it is an argument of derivation()"
	case "outputHash":
		return "use hash="
	case "outputHashAlgo":
		return "use hash_algo="
	case "outputHashMode":
		return "use hash_mode="
	case "__structuredAttrs", "__json", "__contentAddressed", "__impure", "__ignoreNulls":
		return "it would change how the derivation is made, which is not supported"
	}
	if slices.Contains(d.outputs, name) {
		return "it holds the path of the output"
	}
	return ""
}

// fillInputs finds what all strings of d name, and takes what inputs= adds.
func (e *evaluation) fillInputs(d *derivation, r *recipe) error {
	deps := newDependencies()
	meant := r.derivations()
	var wrong error // of placeholders, of which a builder would see those that nothing is put for
	add := func(o object) {
		if o.placeholder != "" {
			if !slices.Contains(d.outputs, o.placeholder) {
				wrong = fmt.Errorf("it names %s, and has no such output; its outputs: %s", o.describe(), strings.Join(d.outputs, ", "))
			}
			return
		}
		if o.drv == nil || o.output == "" || meant[o.drv.output(o.output)] == nil {
			deps.add(o)
			return
		}
		for _, drv := range meant[o.drv.output(o.output)] {
			deps.add(object{drv: drv, output: o.output})
		}
	}
	e.find(d.expr.Builder, func(o object) {
		if o.placeholder != "" {
			wrong = fmt.Errorf("builder: it names %s, which is not there before it is built", o.describe())
			return
		}
		add(o)
	})
	for _, a := range d.expr.Args {
		e.find(a, add)
	}
	for _, v := range d.expr.Env {
		e.find(v.Value, add)
	}
	if r.inputs != nil {
		for i := range r.inputs.Len() {
			v := r.inputs.Index(i)
			s, err := coerce(v)
			if err != nil {
				return fmt.Errorf("inputs: element %d: %w", i, err)
			}
			known := false
			e.find(s, func(o object) {
				if o.placeholder == "" {
					known = true
					add(o)
				}
			})
			if !known {
				return fmt.Errorf("inputs: element %d names nothing that this evaluation made: %s", i, v)
			}
		}
	}
	if wrong != nil {
		return wrong
	}
	d.inputs, d.sources = deps.drvs(), deps.sources
	d.expr.Inputs, d.expr.Sources = deps.inputs(), deps.sourcePaths()
	return nil
}

// derivations are those among the arguments, by the paths of their outputs. Several
// may have the same: all with the same hash, and what differs in nothing but those.
// A string does not say which of them is meant; a value does.
func (r *recipe) derivations() map[string][]*derivation {
	meant := map[string][]*derivation{}
	seen := map[identity]bool{}
	var visit func(v starlark.Value, depth int)
	visit = func(v starlark.Value, depth int) {
		switch v := v.(type) {
		case *derivation:
			for _, o := range v.expr.Outputs {
				if p := string(o.Path); !slices.Contains(meant[p], v) {
					meant[p] = append(meant[p], v)
				}
			}
		case *starlark.List, starlark.Tuple:
			id := identify(v)
			if seen[id] {
				return
			}
			seen[id] = true
			l := v.(starlark.Indexable)
			for i := 0; i < l.Len() && depth <= maxNesting; i++ {
				visit(l.Index(i), depth+1)
			}
		}
	}
	visit(r.builder, 0)
	for _, l := range []*starlark.List{r.args, r.inputs} {
		if l != nil {
			visit(l, 0)
		}
	}
	if r.env != nil {
		for _, item := range r.env.Items() {
			visit(item[1], 0)
		}
	}
	return meant
}

// fillKinds says what the outputs have to be: directories, unless kind= or
// kinds= say otherwise, and a regular file where the hash is one of a file.
func fillKinds(d *derivation, r *recipe) error {
	def := store.KindDirectory
	fixed, flat := d.expr.Fixed()
	if flat = flat && !strings.HasPrefix(fixed.Algo, "r:"); flat {
		def = store.KindRegular
	}
	if r.kind != "" {
		var err error
		if def, err = parseKind(r.kind); err != nil {
			return fmt.Errorf("kind: %w", err)
		}
	}
	d.kinds = map[string]store.Kind{}
	for _, o := range d.outputs {
		d.kinds[o] = def
	}
	if r.kinds != nil {
		for _, item := range r.kinds.Items() {
			name, _ := starlark.AsString(item[0])
			s, _ := starlark.AsString(item[1])
			if !slices.Contains(d.outputs, name) {
				return fmt.Errorf("kinds: %v is not one of the outputs: %s", item[0], strings.Join(d.outputs, ", "))
			}
			kind, err := parseKind(s)
			if err != nil {
				return fmt.Errorf("kinds: %q: %w", name, err)
			}
			d.kinds[name] = kind
		}
	}
	if flat && d.kinds["out"] != store.KindRegular {
		return fmt.Errorf("the output's hash is that of a file, which cannot be a %s", d.kinds["out"])
	}
	return nil
}

func parseKind(s string) (store.Kind, error) {
	switch k := store.Kind(s); k {
	case store.KindDirectory, store.KindRegular, store.KindExecutable, store.KindSymlink:
		return k, nil
	}
	return "", fmt.Errorf("got %q, want \"directory\", \"regular\", \"executable\" or \"symlink\"", s)
}

func stringList(l *starlark.List) ([]string, error) {
	list := make([]string, l.Len())
	for i := range list {
		s, ok := starlark.AsString(l.Index(i))
		if !ok {
			return nil, fmt.Errorf("element %d: got %s, want string", i, l.Index(i).Type())
		}
		if slices.Contains(list[:i], s) {
			return nil, fmt.Errorf("%q is there twice", s)
		}
		list[i] = s
	}
	return list, nil
}
