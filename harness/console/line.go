package console

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds what is read of one line. The kernel's own limit is 1 KiB.
const maxText = 4 << 10

// line is one line of a log, taken apart. Its slices point into the log.
type line struct {
	no      int
	stamped bool
	stamp   int64  // microseconds since boot
	caller  string // "T123" or "C0" with CONFIG_PRINTK_CALLER
	text    []byte
}

// parseLine takes a line apart. The stamp may stand behind what a program had written without a newline.
func parseLine(no int, raw []byte) line {
	raw = bytes.TrimRight(raw, "\r\n")
	if len(raw) > maxText {
		raw = raw[:maxText]
	}
	if bytes.IndexByte(raw, 0x1b) >= 0 {
		raw = withoutColours(raw)
	}
	for len(raw) > 1 && raw[0] == '>' { // quoted in a mail
		raw = bytes.TrimPrefix(raw[1:], []byte(" "))
	}
	l := line{no: no, text: raw}
	if len(raw) > 2 && raw[0] == '<' { // <6>, with ignore_loglevel on some consoles
		if end := bytes.IndexByte(raw[:min(len(raw), 6)], '>'); end > 0 {
			raw = raw[end+1:]
		}
	}
	for at := 0; ; {
		open := bytes.IndexByte(raw[at:], '[')
		if open < 0 {
			break
		}
		at += open
		if stamp, n := parseStamp(raw[at:]); n > 0 {
			l.stamped, l.stamp, l.text = true, stamp, raw[at+n:]
			break
		}
		at++
	}
	if !l.stamped {
		l.text = raw
		// A journal's or syslog's line: date, host, "kernel: "; RFC 5424's has no colon.
		for _, name := range []string{" kernel: ", " kernel - - - "} {
			if i := bytes.Index(raw[:min(len(raw), 96)], []byte(name)); i > 0 {
				return parseLine(no, raw[i+len(name):])
			}
		}
		if n := wallClock(raw); n > 0 {
			l.stamped, l.text = true, raw[n:]
		}
	}
	if caller, n := parseCaller(l.text); n > 0 {
		l.caller, l.text = caller, l.text[n:]
	} else if l.stamped { // journalctl -o short-monotonic puts the host between
		if i := bytes.Index(l.text[:min(len(l.text), 72)], []byte(" kernel: ")); i > 0 && bytes.IndexByte(l.text[1:i], ' ') < 0 {
			l.text = l.text[i+len(" kernel: "):]
		}
	}
	if l.stamped || l.caller != "" {
		l.text = bytes.TrimPrefix(l.text, []byte(" "))
	}
	return l
}

// parseStamp reads "[    1.234567]" and gives its length, 0 when there is none.
func parseStamp(s []byte) (micros int64, n int) {
	i := 1
	for i < len(s) && s[i] == ' ' {
		i++
	}
	digits := i
	for i < len(s) && s[i] >= '0' && s[i] <= '9' && i-digits < 12 {
		micros = micros*10 + int64(s[i]-'0')
		i++
	}
	if i == digits || i+8 > len(s) || s[i] != '.' || s[i+7] != ']' {
		return 0, 0
	}
	for _, c := range s[i+1 : i+7] {
		if c < '0' || c > '9' {
			return 0, 0
		}
		micros = micros*10 + int64(c-'0')
	}
	return micros, i + 8
}

// wallClock gives the length of the stamp of dmesg -T, "[Sun Nov 22 23:01:20 2026]", at the start of s.
func wallClock(s []byte) int {
	const form = "[Aaa Aaa 99 99:99:99 9999]"
	if len(s) < len(form) || s[0] != '[' {
		return 0
	}
	for i := range len(form) {
		c := s[i]
		switch form[i] {
		case 'A':
			if c < 'A' || c > 'Z' {
				return 0
			}
		case 'a':
			if c < 'a' || c > 'z' {
				return 0
			}
		case '9':
			if (c < '0' || c > '9') && (c != ' ' || i != len("[Aaa Aaa ")) {
				return 0
			}
		default:
			if c != form[i] {
				return 0
			}
		}
	}
	return len(form)
}

// withoutColours drops the escape sequences that colour text, and those that clear to the end of a line.
func withoutColours(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] == 0x1b && i+1 < len(raw) && raw[i+1] == '[' {
			end := i + 2
			for end < len(raw) && (raw[end] >= '0' && raw[end] <= '9' || raw[end] == ';') {
				end++
			}
			if end < len(raw) && (raw[end] == 'm' || raw[end] == 'K') {
				i = end
				continue
			}
		}
		out = append(out, raw[i])
	}
	return out
}

// secondStamp finds a stamp within a line's text, -1 when there is none.
func secondStamp(text []byte) int {
	for at := 0; ; at++ {
		open := bytes.IndexByte(text[at:], '[')
		if open < 0 {
			return -1
		}
		at += open
		if _, n := parseStamp(text[at:]); n > 0 {
			return at
		}
	}
}

// starts reports whether the line begins a report. A cut-here line may stand behind what another CPU had
// written without a newline; other words within a line are no report, whoever wrote them.
func (l *line) starts() (start, bool) {
	if l.stamped && len(l.text) > len(cutHere) && bytes.HasSuffix(l.text, []byte(cutHere)) {
		l.text = l.text[len(l.text)-len(cutHere):]
	}
	return starts(l.text)
}

// parseCaller reads "[  T123]" or "[    C0]".
func parseCaller(s []byte) (caller string, n int) {
	if len(s) < 4 || s[0] != '[' {
		return "", 0
	}
	i := 1
	for i < len(s) && s[i] == ' ' {
		i++
	}
	start := i
	if i >= len(s) || s[i] != 'T' && s[i] != 'C' {
		return "", 0
	}
	for i++; i < len(s) && s[i] >= '0' && s[i] <= '9' && i-start < 12; i++ {
	}
	if i-start < 2 || i >= len(s) || s[i] != ']' {
		return "", 0
	}
	return string(s[start:i]), i + 1
}

// eachLine calls yield with every line of a log, numbered from 1.
func eachLine(log []byte, yield func(line) bool) {
	for no := 1; len(log) > 0; no++ {
		raw := log
		if end := bytes.IndexByte(log, '\n'); end >= 0 {
			raw, log = log[:end], log[end+1:]
		} else {
			log = nil
		}
		if !yield(parseLine(no, raw)) {
			return
		}
	}
}

// LastLine gives the last line that says something, clean and without its stamp: where a kernel fell
// silent.
func LastLine(log []byte) string {
	log = log[max(0, len(log)-(256<<10)):]
	for len(log) > 0 {
		start := bytes.LastIndexByte(bytes.TrimRight(log, "\r\n"), '\n') + 1
		if text := clean(parseLine(0, log[start:]).text); text != "" {
			return text
		}
		log = log[:start]
	}
	return ""
}

// tailLines is how much of a console a reader needs to see where a kernel stopped.
const tailLines = 12

// Tail gives the last lines that say something, clean and without their stamps.
func Tail(log []byte) []string {
	var lines []string
	for _, raw := range bytes.SplitAfter(log[max(0, len(log)-(64<<10)):], []byte{'\n'}) {
		if text := clean(parseLine(0, raw).text); text != "" {
			lines = append(lines, text)
		}
	}
	return lines[max(0, len(lines)-tailLines):]
}

// clean makes a line's text fit for a Report.
func clean(text []byte) string {
	return Sanitize(string(bytes.TrimSpace(text[:min(len(text), 240)])))
}

// Sanitize makes text harmless on a terminal and on a page: control characters, escape sequences, text
// direction marks, invisible characters and invalid UTF-8 become visible escapes. A tab becomes a space.
func Sanitize(s string) string {
	if !strings.ContainsFunc(s, unsafe) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		c, n := utf8.DecodeRuneInString(s)
		switch {
		case c == utf8.RuneError && n == 1, c < 0x80 && unsafe(c) && c != '\t':
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case c == '\t':
			b.WriteByte(' ')
		case unsafe(c):
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func unsafe(c rune) bool { return c != ' ' && !unicode.IsPrint(c) }
