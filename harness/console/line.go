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
	kernel  bool   // it is the kernel's: stamped, with a caller, or a log daemon says so
	stamp   int64  // microseconds since boot
	caller  string // "T123" or "C0" with CONFIG_PRINTK_CALLER
	text    []byte
}

// parseLine takes a line apart. The stamp may stand behind what a program had written without a newline.
func parseLine(no int, raw []byte) line {
	if n := len(raw); n > 0 && raw[n-1] <= '\r' {
		raw = bytes.TrimRight(raw, "\r\n")
	}
	if len(raw) > maxText {
		raw = raw[:maxText]
	}
	if bytes.IndexByte(raw, 0x1b) >= 0 {
		raw = withoutColours(raw)
	}
	if bytes.IndexByte(raw, '&') >= 0 || bytes.IndexByte(raw, 0xc2) >= 0 {
		raw = offPage(raw)
	}
	l := line{no: no}
	stamp, n := parseStamp(raw)
	if n == 0 {
		inner := unwrap(raw)
		if head := raw[:len(raw)-len(inner)]; len(head) > 0 {
			l.kernel = head[0] == '<' || bytes.Contains(head, []byte("kern"))
		}
		raw = inner
		stamp, n = parseStamp(raw)
	}
	if n == 0 {
		if at := innerStamp(raw); at >= 0 {
			raw = raw[at:]
			stamp, n = parseStamp(raw)
		}
	}
	if n > 0 {
		l.stamped, l.stamp = true, stamp
	} else if n = wallClock(raw); n > 0 {
		l.stamped = true
	}
	l.text = raw[n:]
	l.caller, l.text = cutCaller(l.text, l.stamped)
	if l.stamped && l.caller == "" {
		// journalctl -o short-monotonic puts the host between, or nothing with --no-hostname.
		if i := bytes.Index(l.text[:min(len(l.text), 72)], []byte(" kernel: ")); i == 0 || i > 0 && bytes.IndexByte(l.text[1:i], ' ') < 0 {
			l.text = l.text[i+len(" kernel: ")-1:]
		}
	}
	if l.stamped || l.caller != "" {
		l.kernel = true
		l.text = bytes.TrimPrefix(l.text, []byte(" "))
	}
	return l
}

// unwrap takes away what a mail, a console, dmesg -x, a log daemon or /dev/kmsg puts before a kernel's line.
func unwrap(raw []byte) []byte {
	for len(raw) > 1 && (raw[0] == '>' || raw[0] == '|' && raw[1] == ' ') { // quoted
		raw = bytes.TrimPrefix(raw[1:], []byte(" "))
	}
	if len(raw) > 2 && raw[0] == '<' { // <6>, with ignore_loglevel on some consoles
		if end := bytes.IndexByte(raw[:min(len(raw), 6)], '>'); end > 0 && digits(string(raw[1:end])) == end-1 {
			raw = raw[end+1:]
		}
	}
	if rest, ok := bytes.CutPrefix(raw, []byte("kern  :")); ok { // dmesg -x: facility, level
		if i := bytes.Index(rest[:min(len(rest), 10)], []byte(": ")); i > 0 {
			raw = rest[i+2:]
		}
	}
	if rest, ok := bytes.CutPrefix(raw, []byte("kernel: ")); ok { // journalctl -o cat with the identifier
		return rest
	}
	// A journal's or syslog's line: date, host, "kernel: "; RFC 5424's has no colon.
	head := raw[:min(len(raw), 96)]
	if at := bytes.Index(head, []byte(" kernel")); at > 0 {
		rest := raw[at+len(" kernel"):]
		for _, end := range []string{": ", " - - - "} {
			if inner, ok := bytes.CutPrefix(rest, []byte(end)); ok {
				return unwrap(inner)
			}
		}
		if pid, inner, ok := bytes.Cut(rest[:min(len(rest), 16)], []byte("]: ")); ok && len(pid) > 1 && pid[0] == '[' {
			return unwrap(rest[len(rest[:min(len(rest), 16)])-len(inner):])
		}
	}
	if n := terminalClock(raw); n > 0 {
		return unwrap(raw[n:])
	}
	return raw
}

// terminalClock gives the length of the time of day that a terminal program or a build server puts before every line:
// "[2021/07/05, 13:43:52.334] ", "13:43:52 ", "09/17/2026 13:43:52 ", "2026-09-17T03:25:48.5656375Z ". Whose line it is it
// does not tell.
func terminalClock(raw []byte) int {
	if len(raw) < len("13:43:52 ") || inForm(raw, formISO) > 0 {
		return 0
	}
	i := 0
	open := raw[0] == '['
	if open {
		i++
	}
	for _, date := range []string{"9999-99-99", "9999/99/99", "99/99/9999", "99.99.9999", "Aaa 99"} {
		if n := inForm(raw[i:], date); n > 0 && i+n < len(raw) {
			i += n + 1
			if raw[i-1] == ',' && i < len(raw) && raw[i] == ' ' {
				i++
			} else if raw[i-1] != ' ' && raw[i-1] != 'T' {
				return 0
			}
			break
		}
	}
	n := inForm(raw[i:], "99:99:99")
	if n == 0 {
		return 0
	}
	i += n
	for i < len(raw) && i < 40 && bytes.IndexByte([]byte("0123456789.,:+-Z"), raw[i]) >= 0 {
		i++
	}
	switch {
	case open && i < len(raw) && raw[i] == ']':
		i++
	case open || i < len(raw) && raw[i] != ' ':
		return 0
	}
	if i < len(raw) && raw[i] == ' ' {
		i++
	}
	return i
}

// innerStamp finds a stamp within a line, -1 when there is none.
func innerStamp(text []byte) int {
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

// parseStamp reads "[    1.234567]", and some vendors' "[    1.234567,0]" and "[    1.234567s]", and gives its length,
// 0 when there is none.
func parseStamp(s []byte) (micros int64, n int) {
	if len(s) < len("[0.000000]") || s[0] != '[' {
		return 0, 0
	}
	i := 1
	for i < len(s) && s[i] == ' ' {
		i++
	}
	first := i
	for i < len(s) && s[i] >= '0' && s[i] <= '9' && i-first < 12 {
		micros = micros*10 + int64(s[i]-'0')
		i++
	}
	if i == first || i+8 > len(s) || s[i] != '.' {
		return 0, 0
	}
	for _, c := range s[i+1 : i+7] {
		if c < '0' || c > '9' {
			return 0, 0
		}
		micros = micros*10 + int64(c-'0')
	}
	i += 7
	if s[i] == ' ' { // dmesg -d: [    1.234567 <    0.000012>]
		end := bytes.Index(s[i:min(len(s), i+24)], []byte(">]"))
		if end < 0 || s[i+1] != '<' || len(bytes.Trim(s[i+2:i+end], " .0123456789")) > 0 {
			return 0, 0
		}
		return micros, i + end + 2
	}
	if s[i] == ',' && i+2 < len(s) && s[i+1] >= '0' && s[i+1] <= '9' {
		i += 2
	} else if s[i] == 's' && i+1 < len(s) {
		i++
	}
	if s[i] != ']' {
		return 0, 0
	}
	return micros, i + 1
}

// The stamps of dmesg -T, --time-format iso and -d, and the head of a record of /dev/kmsg: a letter and a digit stand for
// any of their kind, and a blank may be a digit's.
const (
	formCtime = "[Aaa Aaa 99 99:99:99 9999]"
	formISO   = "9999-99-99T99:99:99,999999+99:99"
)

// wallClock gives the length of a stamp that is no time since boot, at the start of s.
func wallClock(s []byte) int {
	switch {
	case len(s) == 0:
		return 0
	case s[0] == '[':
		if inner := bytes.TrimLeft(s[1:], " "); len(inner) > 0 && inner[0] == '+' { // [  +0.000012]
			if end := bytes.IndexByte(s, ']'); end > 0 && end < 24 && len(bytes.Trim(inner[:len(inner)-len(s)+end], "+.0123456789")) == 0 {
				return end + 1
			}
		}
		return max(inForm(s, formCtime), inForm(s, "[Aaa99 99:99]"), inForm(s, "[Aaa 9 99:99]")) // -T, and the first line of a minute with -H
	case s[0] < '0' || s[0] > '9':
		return 0
	}
	if n := inForm(s, formISO); n > 0 {
		return n
	}
	return recordHead(s)
}

// recordHead gives the length of what stands before the text of a record of /dev/kmsg: "6,1234,61123456,-;" or
// with ",caller=T12" too; netconsole may put the kernel's version in front.
func recordHead(s []byte) int {
	end := bytes.IndexByte(s[:min(len(s), 72)], ';')
	if end < 0 || bytes.Count(s[:end], []byte(",")) < 3 {
		return 0
	}
	fields := bytes.Split(s[:end], []byte(","))
	if len(fields) > 4 && bytes.IndexByte(fields[0], '.') > 0 {
		fields = fields[1:]
	}
	for i, field := range fields {
		if i < 3 && (len(field) == 0 || digits(string(field)) != len(field)) {
			return 0
		}
	}
	return end + 1
}

func inForm(s []byte, form string) int {
	if len(s) < len(form) {
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
			if (c < '0' || c > '9') && (c != ' ' || i == 0 || form[i-1] != ' ') {
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

// entities are how a page writes what it would take for its own, and a blank that it would not break a line at.
var entities = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&", "&quot;", `"`, "&#39;", "'", "&nbsp;", " ", "\u00a0", " ")

// offPage undoes what a line that was copied off a page may have kept of it.
func offPage(raw []byte) []byte {
	if bytes.Contains(raw, []byte("&lt;")) || bytes.Contains(raw, []byte("&gt;")) || bytes.Contains(raw, []byte("&amp;")) ||
		bytes.Contains(raw, []byte("&quot;")) || bytes.Contains(raw, []byte("\u00a0")) {
		return []byte(entities.Replace(string(raw)))
	}
	return raw
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

// starts reports whether the line begins a report. A cut-here line may stand behind what another CPU had
// written without a newline; other words within a line are no report, whoever wrote them.
func (l *line) starts() (start, bool) {
	if n := len(l.text); l.stamped && n > len(cutHere) && l.text[n-1] == '-' && bytes.HasSuffix(l.text, []byte(cutHere)) {
		l.text = l.text[len(l.text)-len(cutHere):]
	}
	st, ok := starts(l.text)
	if !ok && l.stamped {
		if rest := subsystemBug(l.text); rest != nil {
			return startBug(rest), true
		}
		if rest := hungTask(l.text); rest != nil {
			return startInfo("task ?" + string(rest))
		}
	}
	return st, ok
}

// subsystemBug gives what follows "BUG: " in the line of a part of the kernel that puts its own name in front: "IPv6:
// BUG: Address ...". A program that writes to the kernel's log has its pid behind its name.
func subsystemBug(text []byte) []byte {
	name, rest, ok := bytes.Cut(text[:min(len(text), 32)], []byte(": BUG: "))
	if !ok || len(rest) == 0 || symbol(name) < len(name) {
		return nil
	}
	return text[len(name)+len(": BUG: "):]
}

// hungTask gives what follows the task's name in the second half of a hung task's line, which a newline in that
// name has cut: ":18088 blocked for more than 143 seconds.".
func hungTask(text []byte) []byte {
	if !bytes.HasSuffix(bytes.TrimRight(text, " "), []byte(" seconds.")) {
		return nil
	}
	for _, what := range []string{" blocked ", " can't die "} {
		at := bytes.Index(text, []byte(what))
		if at < 0 {
			continue
		}
		colon := bytes.LastIndexByte(text[:at], ':')
		if pid := text[colon+1 : at]; colon >= 0 && len(pid) > 0 && digits(string(pid)) == len(pid) {
			return text[colon:]
		}
	}
	return nil
}

// cutCaller takes a caller off a line: "[  T123]" or "[    C0]" right behind the stamp, behind a space with some
// daemons, and what Android's kernels have there: "c1   5071 ", "c0 1 (swapper/0) ", "[3:  kworker/3:1:  123] ",
// "(3)[123:kworker/3:1]", "[pid:123,cpu3,kworker/3:1]".
func cutCaller(text []byte, stamped bool) (caller string, rest []byte) {
	if caller, n := parseCaller(text); n > 0 {
		return caller, text[n:]
	}
	if !stamped || len(text) < 4 || text[0] != ' ' && text[0] != '[' && text[0] != '-' {
		return "", text
	}
	inner := bytes.TrimLeft(text, " -")
	if caller, n := vendorCaller(inner); n > 0 {
		return caller, inner[n:]
	}
	if caller, n := parseCaller(text[1:]); n > 0 {
		return caller, text[1+n:]
	}
	if text[0] != ' ' || text[1] != 'c' || text[2] < '0' || text[2] > '9' {
		return "", text
	}
	cpu := 2 + digits(string(text[2:min(len(text), 6)]))
	if cpu >= len(text) || text[cpu] != ' ' {
		return "", text
	}
	task := bytes.TrimLeft(text[cpu:], " ")
	if n := digits(string(task[:min(len(task), 12)])); n > 0 && n < len(task) && task[n] == ' ' {
		rest = task[n:]
		if end := bytes.Index(rest[:min(len(rest), 24)], []byte(") ")); end > 0 && rest[1] == '(' {
			rest = rest[end+1:]
		}
		return "T" + string(task[:n]), rest
	}
	return "C" + string(text[2:cpu]), text[cpu:]
}

// vendorCaller reads "[3:    kworker/3:1:  123]", "(3)[123:kworker/3:1]" and "[pid:123,cpu3,kworker/3:1]".
func vendorCaller(s []byte) (caller string, n int) {
	if len(s) < 8 || s[0] != '[' && s[0] != '(' {
		return "", 0
	}
	if pid, ok := bytes.CutPrefix(s, []byte("[pid:")); ok {
		n := digits(string(pid[:min(len(pid), 10)]))
		end := bytes.IndexByte(pid[:min(len(pid), 48)], ']')
		if n == 0 || end < n || !bytes.HasPrefix(pid[n:], []byte(",cpu")) {
			return "", 0
		}
		return "T" + string(pid[:n]), len("[pid:") + end + 1
	}
	cpu := 1 + digits(string(s[1:4]))
	end := bytes.IndexByte(s[:min(len(s), 48)], ']')
	if cpu == 1 || end < cpu+3 {
		return "", 0
	}
	switch inner := s[cpu:end]; {
	case s[0] == '[' && inner[0] == ':':
		colon := bytes.LastIndexByte(inner, ':')
		if pid := bytes.TrimLeft(inner[colon+1:], " "); colon > 0 && len(pid) > 0 && digits(string(pid)) == len(pid) {
			return "T" + string(pid), end + 1
		}
	case s[0] == '(' && inner[0] == ')' && inner[1] == '[':
		if pid := digits(string(inner[2:])); pid > 0 && 2+pid < len(inner) && inner[2+pid] == ':' {
			return "T" + string(inner[2:2+pid]), end + 1
		}
	}
	return "", 0
}

// parseCaller reads "[  T123]" or "[    C0]", and "[T123@C0]".
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
	end := i
	if bytes.HasPrefix(s[i:], []byte("@C")) {
		i += 2 + digits(string(s[i+2:min(len(s), i+8)]))
	}
	if end-start < 2 || i >= len(s) || s[i] != ']' {
		return "", 0
	}
	return string(s[start:end]), i + 1
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
