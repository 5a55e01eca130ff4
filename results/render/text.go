package render

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/nestbed/nestbed/results/record"
)

// width is the widest line that is written, except paths and commands, which must stay whole.
const width = 98

// Escape makes text harmless on a terminal: control characters, escape sequences, marks of text direction,
// invisible characters and invalid UTF-8 become visible. White space becomes one space.
func Escape(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return c != ' ' && !unicode.IsPrint(c) }) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		c, n := utf8.DecodeRuneInString(s)
		switch {
		case c == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case c == '\t' || c == '\n':
			b.WriteByte(' ')
		case c == ' ' || unicode.IsPrint(c):
			b.WriteString(s[:n])
		case c < 0x80:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
		s = s[n:]
	}
	return b.String()
}

// EscapeLines is Escape for text of many lines: newlines stay.
func EscapeLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		body, newline := strings.CutSuffix(line, "\n")
		b.WriteString(Escape(body))
		if newline {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// EscapeJSON makes an encoded JSON text harmless on a terminal and leaves its meaning alone: DEL, the C1
// controls (one of them begins an escape sequence) and marks of text direction become \u escapes, which
// encoding/json writes for C0 only. Newlines between tokens stay.
func EscapeJSON(data []byte) []byte {
	out := make([]byte, 0, len(data))
	for _, c := range string(data) {
		switch {
		case c == '\n' || c == ' ' || unicode.IsPrint(c):
			out = utf8.AppendRune(out, c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, c)
		}
	}
	return out
}

// fit escapes text and cuts it to n columns.
func fit(s string, n int) string { return text.Snip(Escape(s), n, "...") }

// wrap is fold into at most three lines; what does not fit is cut.
func wrap(s string, n int) []string {
	lines := fold(s, n)
	if len(lines) > 3 {
		lines = append(lines[:2], strings.Join(lines[2:], " "))
	}
	for i := range lines {
		lines[i] = text.Snip(lines[i], n, "...")
	}
	return lines
}

// fold escapes text and breaks it into lines of n columns: at spaces, and in words that are longer.
func fold(s string, n int) []string {
	var lines []string
	line := ""
	add := func(word string) {
		switch {
		case line == "":
			line = word
		case text.StringWidthWithoutEscSequences(line)+1+text.StringWidthWithoutEscSequences(word) <= n:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	for word := range strings.FieldsSeq(Escape(s)) {
		for text.StringWidthWithoutEscSequences(word) > n {
			head := text.Trim(word, n)
			if head == "" { // one character is wider than the line
				break
			}
			add(head)
			word = word[len(head):]
		}
		add(word)
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// quote makes an argument safe to paste into a shell.
func quote(s string) string {
	plain := func(c rune) bool {
		return c < 0x80 && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("-_./:@+=,", c))
	}
	if s != "" && strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	if e := Escape(s); e != s {
		s = e // not the same argument, but one that can be seen
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func seconds(s float64) string {
	if s < 60 {
		return fmt.Sprintf("%.1fs", s)
	}
	return elapsed(time.Duration(s * float64(time.Second)))
}

func elapsed(d time.Duration) string { return d.Round(time.Second).String() }

// word is the verdict as a table shows it. A cell without one is unfinished.
func word(v record.Verdict) string {
	if v == record.Invalid {
		return "unfinished"
	}
	return v.String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
