package instantiate

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"go.starlark.net/syntax"
)

// instead is what Starlark has in the place of what Python has, by Python's word for it.
var instead = map[string]string{
	"as":       "",
	"assert":   `fail("why") under an if ends the evaluation`,
	"async":    "",
	"await":    "",
	"class":    "struct(a = 1) holds values by name",
	"del":      "d.pop(key) removes from a dict, l.pop(i) from a list",
	"except":   "an error ends the evaluation",
	"finally":  "an error ends the evaluation",
	"from":     `load("FILE.star", "NAME") takes what another file defines`,
	"global":   "a function returns what others are to see",
	"import":   `load("FILE.star", "NAME") takes what another file defines; modules of Python are not there`,
	"is":       "== compares, also with None",
	"nonlocal": "a function returns what others are to see",
	"raise":    `fail("why") ends the evaluation`,
	"try":      "an error ends the evaluation",
	"while":    "for i in range(n), with break, is what there is",
	"with":     "read(FILE) is the content of a file",
	"yield":    "a function returns a list",
}

// known is the same for names that are nobody's.
var known = map[string]string{
	"filter":     "[x for x in l if f(x)] is the same",
	"isinstance": `type(x) == "string" is the same`,
	"map":        "[f(x) for x in l] is the same",
	"open":       "read(FILE) is the content of a file",
	"os":         "modules of Python are not there",
	"re":         "modules of Python are not there",
	"round":      "int(x) cuts off",
	"subprocess": "what is to run is the builder of a derivation",
	"sum":        "a loop adds up",
	"sys":        "modules of Python are not there",
	"true":       "it is called True",
	"false":      "it is called False",
	"null":       "it is called None",
	"nil":        "it is called None",
	"none":       "it is called None",
}

// lacks says in one line what Starlark has instead of word, "" if there is nothing to say.
func lacks(word string) string {
	use, ok := instead[word]
	switch {
	case !ok:
		return ""
	case use == "":
		return "Starlark has no " + word
	}
	return "Starlark has no " + word + ": " + use
}

var (
	lastWord   = regexp.MustCompile(`[\pL\pN_]+$`)
	firstWord  = regexp.MustCompile(`^[\pL_][\pL\pN_]*`)
	lastString = regexp.MustCompile(`(?:"[^"]*"|'[^']*')$`)
	got        = regexp.MustCompile(`^got '?([^ ',]+)`)
)

// explained is what the parser complains of, with what Starlark has instead where it is
// Python's, or that of another language: the parser only knows what it would have taken.
func explained(src []byte, bad syntax.Error) syntax.Error {
	line, ok := lineOf(src, int(bad.Pos.Line))
	col := int(bad.Pos.Col) - 1 // in characters
	if !ok || col < 0 || col > len(line) {
		return bad
	}
	before, at := string(line[:col]), string(line[col:])
	// The parser's position is where what it got begins, or where that ends.
	token := ""
	if m := got.FindStringSubmatch(bad.Msg); m != nil {
		token = m[1]
	}
	if token == "string" {
		token = lastString.FindString(before)
	}
	if token != "" && !strings.HasPrefix(at, token) && strings.HasSuffix(before, token) {
		before, at = strings.TrimSuffix(before, token), token+at
	}
	if hint := hintFor(before, at, bad.Msg); hint != "" {
		bad.Msg, bad.Pos.Col = hint, int32(utf8.RuneCountInString(before)+1)
	}
	return bad
}

// hintFor is about a line that the parser did not take from at on.
func hintFor(before, at, msg string) string {
	nothing := strings.HasSuffix(msg, "want primary expression")
	trimmed := strings.TrimSpace(before)
	switch first := firstWord.FindString(trimmed); {
	case strings.HasSuffix(msg, "want newline") && first == "assert":
		return lacks(first)
	case strings.HasSuffix(msg, "want newline") && trimmed == "print":
		return "print is a function: print(x)"
	case strings.HasPrefix(at, `"`), strings.HasPrefix(at, `'`):
		switch strings.ToLower(lastWord.FindString(before)) {
		case "f", "fr", "rf":
			return `Starlark has no f-strings: "{}".format(x) and "%s" % x do the same`
		case "u":
			return "Starlark has no u before strings: all are Unicode"
		}
		if strings.HasSuffix(trimmed, `"`) || strings.HasSuffix(trimmed, `'`) {
			return "strings beside each other are not joined: put + between them"
		}
	case strings.HasPrefix(at, "**") && nothing:
		return "Starlark has no ** in a dict: a | b is both dicts together"
	case strings.HasPrefix(at, "**") && strings.HasPrefix(msg, "got '**'"):
		return "Starlark has no **: a loop multiplies, and 1 << n is a power of two"
	case strings.HasPrefix(at, "*") && nothing:
		return "Starlark has no * there: a + b is both lists together, and l[1:] is a list without its first"
	case strings.HasPrefix(at, ":="):
		return "Starlark has no :=: assign in a statement of its own"
	case strings.HasPrefix(at, "->"),
		strings.HasPrefix(at, ":") && first == "def" && strings.HasSuffix(msg, "want ')'"),
		strings.HasPrefix(at, ":") && trimmed == first && strings.HasSuffix(msg, "want newline"):
		return msg + " (Starlark has no annotations of types)"
	case strings.HasPrefix(at, "@") && trimmed == "":
		return "Starlark has no decorators: f = g(f) does the same"
	case strings.HasPrefix(at, "&") && strings.HasSuffix(before, "&"):
		return "Starlark has no &&: it is called and"
	case strings.HasPrefix(at, "|") && strings.HasSuffix(before, "|"):
		return "Starlark has no ||: it is called or"
	case strings.HasPrefix(at, "!") && !strings.HasPrefix(at, "!="):
		return "Starlark has no !: it is called not"
	case msg == "got ',', want ':'":
		return msg + " (a dict has KEY: VALUE; a set is set([a, b]))"
	}
	// A word that the parser could take elsewhere is not what is wrong.
	if w := firstWord.FindString(at); w != "" && strings.HasPrefix(msg, "got "+w+",") {
		return lacks(w)
	}
	return ""
}

// undeclared adds to what the resolver says what Starlark has instead.
func undeclared(msg string) string {
	if strings.HasSuffix(msg, "does not support while loops") {
		return lacks("while")
	}
	if word, ok := strings.CutPrefix(msg, "undefined: "); ok {
		if hint := known[word]; hint != "" {
			return msg + " (" + hint + ")"
		}
	}
	return msg
}

// lineOf is line n of src, the first being 1, by characters, as positions count.
func lineOf(src []byte, n int) ([]rune, bool) {
	at := 0
	for line := range strings.Lines(string(src)) {
		if at++; at == n {
			return []rune(line), true
		}
	}
	return nil, false
}
