package buildenv

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// pkg is one output of a package.
type pkg struct {
	path     string
	active   bool
	priority int // of two, the lower number wins
}

// compare orders by priority.
func compare(a, b pkg) int {
	return cmp.Or(cmp.Compare(a.priority, b.priority), strings.Compare(a.path, b.path))
}

// parse reads the attribute derivations, whose words are, of each package, whether it is
// active, which it is unless that is "false", its priority, how many paths it has, and those.
func parse(text string) ([]pkg, error) {
	const attribute = "attribute 'derivations' is malformed: "
	words := strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(" \t\n\r", c) })
	var packages []pkg
	for len(words) > 0 {
		if len(words) < 3 {
			return nil, errors.New(attribute + "its last package has no number of paths")
		}
		active := words[0] != "false"
		priority, err := number(words[1])
		if err != nil {
			return nil, fmt.Errorf(attribute+"priority %q: %w", words[1], err)
		}
		n, err := number(words[2])
		if err != nil {
			return nil, fmt.Errorf(attribute+"number of paths %q: %w", words[2], err)
		}
		words = words[3:]
		if n < 0 || n > len(words) {
			return nil, fmt.Errorf(attribute+"a package of %d paths, and %d words follow", n, len(words))
		}
		for _, path := range words[:n] {
			packages = append(packages, pkg{path, active, priority})
		}
		words = words[n:]
	}
	return packages, nil
}

// number is the number that word begins with, as in Nix: a priority may be a float, whose
// fraction is nothing to it.
func number(word string) (int, error) {
	end := strings.IndexFunc(word, func(c rune) bool { return c < '0' || c > '9' })
	if end == 0 && (word[0] == '-' || word[0] == '+') {
		if end = strings.IndexFunc(word[1:], func(c rune) bool { return c < '0' || c > '9' }); end >= 0 {
			end++
		}
	}
	if end < 0 {
		end = len(word)
	}
	n, err := strconv.ParseInt(word[:end], 10, 32)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("it is too large")
	}
	if err != nil {
		return 0, errors.New("it is no number")
	}
	return int(n), nil
}
