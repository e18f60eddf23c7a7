package progress

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"storefs/store"
)

// Name is what people call a goal: its path without directory, digest and
// ".drv".
func Name(p store.Path) string {
	if n := p.Name(); n != "" {
		return strings.TrimSuffix(n, ".drv")
	}
	return Clean(string(p))
}

// Duration writes d with the two most significant units: 0.4s, 12s, 3m05s,
// 1h02m.
func Duration(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", max(0, d.Seconds()))
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// About writes an estimate: in whole seconds, one at least, for it is not over.
func About(d time.Duration) string {
	return strings.Replace(Duration(max(d.Round(time.Second), time.Second)), ".0s", "s", 1)
}

// Clean makes a line that a builder wrote harmless for a terminal: escape
// sequences are left out, what a carriage return would have overwritten as
// well, other control characters and invalid bytes are replaced.
func Clean(line string) string {
	line = strings.TrimRight(line, "\r\n")
	if i := strings.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	if !strings.ContainsFunc(line, unsafeRune) && utf8.ValidString(line) {
		return line
	}
	var b strings.Builder
	for len(line) > 0 {
		if n := escapeLen(line); n > 0 {
			line = line[n:]
			continue
		}
		r, n := utf8.DecodeRuneInString(line)
		line = line[n:]
		switch {
		case r == '\t':
			b.WriteString("    ")
		case unsafeRune(r):
			b.WriteRune(utf8.RuneError)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unsafeRune: control characters, and the format characters (category Cf) that
// reorder or hide text.
func unsafeRune(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }

// escapeLen is the length of the escape sequence (ECMA-48) that s begins with,
// or 0. One that is cut off reaches to the end.
func escapeLen(s string) int {
	if len(s) < 2 || s[0] != '\x1b' {
		return 0
	}
	switch c := s[1]; {
	case c == '[': // CSI: parameters and intermediates, then one byte from @ to ~
		for i := 2; i < len(s); i++ {
			if s[i] >= '@' && s[i] <= '~' {
				return i + 1
			}
			if s[i] < ' ' || s[i] > '~' {
				return i
			}
		}
		return len(s)
	case c == ']', c == 'P', c == '_', c == '^', c == 'X': // strings: up to BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == '\a' {
				return i + 1
			}
			if s[i] == '\x1b' {
				return min(i+2, len(s))
			}
		}
		return len(s)
	case c >= ' ' && c <= '/': // intermediates, then one byte from 0 to ~: the B of tput's sgr0
		for i := 2; i < len(s); i++ {
			if s[i] < ' ' || s[i] > '~' {
				return i
			}
			if s[i] > '/' {
				return i + 1
			}
		}
		return len(s)
	case c < ' ' || c > '~': // what comes is no part of it
		return 1
	}
	return 2
}

// cut shortens s, which has no control characters, to width characters.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	r := []rune(s)
	return string(r[:width-1]) + "…"
}
