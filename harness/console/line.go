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
		// A journal's or syslog's line: date, host, "kernel: ".
		if i := bytes.Index(raw[:min(len(raw), 96)], []byte(" kernel: ")); i > 0 {
			return parseLine(no, raw[i+len(" kernel: "):])
		}
	}
	if caller, n := parseCaller(l.text); n > 0 {
		l.caller, l.text = caller, l.text[n:]
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
