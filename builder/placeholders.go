package builder

import (
	"strings"

	"storefs/storeexpr"
)

// placeholders replaces what builtins.placeholder of the Nix language gives by
// the paths of the outputs. Few derivations have any: what there is to replace is
// made for the first text that may.
type placeholders struct {
	drv      *storeexpr.Derivation
	replacer *strings.Replacer // nil as long as nothing was to be replaced
}

// placeholderDigest is the length of a placeholder behind its slash: a SHA-256 in
// nixbase32.
const placeholderDigest = 52

func (p *placeholders) replace(text string) string {
	if !mayHavePlaceholder(text) {
		return text
	}
	if p.replacer == nil {
		var pairs []string
		for _, o := range p.drv.Outputs {
			if o.Name == "" {
				continue
			}
			pairs = append(pairs, storeexpr.Placeholder(o.Name), string(o.Path))
		}
		p.replacer = strings.NewReplacer(pairs...)
	}
	return p.replacer.Replace(text)
}

// mayHavePlaceholder reports whether text has as many digits and small letters
// behind a slash as a placeholder. The names of store paths have a dash before
// that.
func mayHavePlaceholder(text string) bool {
	for {
		i := strings.IndexByte(text, '/')
		if i < 0 || len(text)-i <= placeholderDigest {
			return false
		}
		text = text[i+1:]
		n := 0
		for n < placeholderDigest && isDigestByte(text[n]) {
			n++
		}
		if n == placeholderDigest {
			return true
		}
		text = text[n:]
	}
}

func isDigestByte(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }
