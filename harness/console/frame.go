package console

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/nestbed/nestbed/results/record"
)

// frame is one entry of a stack trace.
type frame struct {
	name   string // without offset and without the compiler's suffixes
	module string // "" for vmlinux
	sure   bool   // not marked with "?"
	inline bool   // written by a symbolizer: the kernel itself prints no such frame
	site   record.Site
	from   string // who called it, which arm says with each frame
}

// maxName bounds a function's or module's name; the kernel's own limit for a symbol is 512.
const maxName = 160

// parseFrame reads "? func+0x1f/0x40 [module]" in the forms of the kernel, of decode_stacktrace.sh and of
// symbolized inline frames.
func parseFrame(text []byte) (frame, bool) {
	text = bytes.TrimSpace(text)
	f := frame{sure: true}
	for n := address(text); n > 0; n = address(text) {
		text = bytes.TrimLeft(text[n:], " ")
	}
	if rest, ok := bytes.CutSuffix(text, []byte(" (unreliable)")); ok { // powerpc's
		f.sure, text = false, rest
	}
	if rest, ok := bytes.CutPrefix(text, []byte("? ")); ok {
		f.sure, text = false, bytes.TrimLeft(rest, " ")
	}
	if len(text) > 0 && text[0] == '(' { // arm up to 5.17: [<80812345>] (func) from [<80812350>] (caller+0x12/0x34)
		text = text[1:]
	}
	n := symbol(text)
	if n == 0 || n == len(text) || n > maxName {
		return f, false
	}
	f.name = demangle(baseName(string(text[:n])))
	rest := text[n:]
	if off := offset(rest); off > 0 {
		f.module = moduleOf(rest[off:])
		f.site = site(string(text[:n]), string(rest[:off]), rest[off:])
		return f, true
	}
	if from := armFrom(rest); from != nil {
		// A symbolizer repeats the line for each function that was inlined into the caller.
		f.inline = bytes.HasSuffix(from, []byte(" [inline])")) || bytes.HasSuffix(from, []byte(" [inline]"))
		f.from = baseName(string(from[:symbol(from)]))
		return f, f.inline || offset(from[symbol(from):]) > 0
	}
	// func (virt/kvm/kvm_main.c:1234) kvm       from decode_stacktrace.sh
	if bytes.HasPrefix(rest, []byte(" (")) {
		end := bytes.LastIndexByte(rest, ')')
		if end > 0 && bytes.IndexByte(rest[:end], ':') > 0 {
			module := bytes.TrimSpace(rest[end+1:])
			if symbol(module) == len(module) {
				f.module = string(module)
			}
			return f, true
		}
		return f, false
	}
	// func mm/slub.c:1234 [inline], and the mark of arm64's unwinder for where it is from: (P), (C)
	if end := len(rest) - len(" (P)"); end > 0 && rest[end] == ' ' && rest[end+1] == '(' && rest[end+3] == ')' {
		rest = rest[:end]
	}
	if bytes.HasSuffix(rest, []byte(" [inline]")) && bytes.IndexByte(rest, ':') > 0 {
		f.inline = true
		return f, true
	}
	return f, false
}

// address gives the length of what older kernels and other machines put before a frame, 0 when there is nothing: the
// address "[<ffffffff811e0081>]", in parentheses on s390, the stack and the address "[c0000000049a8771]" on powerpc.
func address(s []byte) int {
	i := 0
	if len(s) > 1 && s[0] == '(' && s[1] == '[' {
		i = 1
	}
	if i >= len(s) || s[i] != '[' {
		return 0
	}
	if i++; i < len(s) && s[i] == '<' {
		if end := bytes.Index(s[i:min(len(s), i+32)], []byte(">]")); end > 0 {
			return i + end + len(">]")
		}
		return 0
	}
	first := i
	for i < len(s) && hexDigit(s[i]) {
		i++
	}
	if n := i - first; n < 8 || n > 16 || i == len(s) || s[i] != ']' {
		return 0
	}
	return i + 1
}

// site reads a function's "+0x1f/0x40" and the build id in "[kvm 0123abcd...]".
func site(symbol, place string, rest []byte) record.Site {
	offset, size, _ := strings.Cut(strings.TrimPrefix(place, "+0x"), "/0x")
	s := record.Site{Symbol: symbol}
	var err, err2 error
	s.Offset, err = strconv.ParseUint(offset, 16, 64)
	s.Size, err2 = strconv.ParseUint(size, 16, 64)
	if err != nil || err2 != nil {
		return record.Site{} // absurd numbers are no place
	}
	if end := bytes.IndexByte(rest, ']'); end > 0 {
		s.BuildID = buildID(string(rest[:end]))
	}
	return s
}

// buildID gives the build id that is the last word of a text, "" when it is none.
func buildID(text string) string {
	id := text[strings.LastIndexByte(text, ' ')+1:]
	if len(id) < 32 || len(id) > 40 || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	return id
}

// armFrom gives where a function was called from, nil unless its name is followed by that, as on arm: "func from
// caller+0x12/0x34" since 5.18. The module that may follow is the caller's.
func armFrom(rest []byte) []byte {
	from, ok := bytes.CutPrefix(bytes.TrimPrefix(rest, []byte(")")), []byte(" from "))
	if ok && bytes.HasPrefix(from, []byte("[<")) {
		_, from, ok = bytes.Cut(from, []byte(">] ("))
	}
	if !ok || symbol(from) == 0 {
		return nil
	}
	return from
}

// symbol gives the length of the symbol at the start of s.
func symbol(s []byte) int {
	for i, c := range s {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '.' && c != '$') {
			return i
		}
	}
	return len(s)
}

// offset gives the length of "+0x1f/0x40" at the start of s.
func offset(s []byte) int {
	i := 0
	for _, lead := range []string{"+0x", "/0x"} {
		if !bytes.HasPrefix(s[i:], []byte(lead)) {
			return 0
		}
		i += len(lead)
		start := i
		for i < len(s) && hexDigit(s[i]) {
			i++
		}
		if i == start {
			return 0
		}
	}
	return i
}

func hexDigit(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

// moduleOf reads "[kvm]", "[kvm(OE)]" or "[kvm 0123abcd]" (a build id).
func moduleOf(s []byte) string {
	open := bytes.IndexByte(s, '[')
	if open < 0 {
		return ""
	}
	s = s[open+1:]
	n := symbol(s)
	if n == 0 || n > maxName || n == len(s) || !bytes.ContainsRune([]byte("] (-"), rune(s[n])) || string(s[:n]) == "inline" {
		return ""
	}
	return string(s[:n])
}

// baseName drops what the compiler appended: .constprop.0, .isra.0, .part.0, .cold.
func baseName(name string) string {
	if i := strings.IndexByte(name, '.'); i > 0 {
		return name[:i]
	}
	return name
}
