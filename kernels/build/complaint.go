package build

import (
	"path"
	"regexp"
	"strings"
)

const (
	maxLine  = 64 << 10
	maxTail  = 10 // lines that are shown of a failure that nothing explains
	maxLines = 12 // lines that are shown of one that something does
)

// kind orders what a line may be, the most telling first.
type kind int

const (
	compiler kind = iota // a compiler, linker or modpost
	tree                 // the tree's own scripts: *** C compiler is too old
	target               // make's account of what it could not make
	kinds
)

// finding is the first complaint of its kind, with what belongs to it.
type finding struct {
	kind  kind
	lines []string
	open  bool // the next line may belong to it
}

var (
	progressLine = regexp.MustCompile(`^  (?:CC|AS|CC \[M\]|AS \[M\]) +(\S+)$`)
	compilerLine = regexp.MustCompile(`: (?:fatal )?error: |: error \d+: |undefined reference to|^ERROR: |^(?:\S*ld|collect2|objtool|as): .*error|: command not found$|: not found$|^FAILED|: Error: `)
	contextLine  = regexp.MustCompile(`^ +(?:\d+ )?\||^ +\d+ \| |^\S+: note: |^ *(?:\^|~)`)
	treeLine     = regexp.MustCompile(`^\*\*\*|^(?:Makefile|\S+/Makefile\S*|\S+/Kbuild):\d+: \*\*\* |^\S+:\d+: .*(?:syntax error|can't open file|recursive)`)
	// What a host with too little memory, or too few processes, makes programs say. It is no line of source, which an
	// error shows with a margin.
	hostLine = regexp.MustCompile(`^\S.*(?:Killed signal terminated program|: out of memory allocating|virtual memory exhausted|Cannot allocate memory$|` +
		`Resource temporarily unavailable$|\] Killed$|line \d+: +\d+ Killed )`)
	// virt/kvm is compiled as arch/x86/kvm/../../../virt/kvm.
	crookedPath = regexp.MustCompile(`^[^\s:]+/\.\./[^\s:]+`)
	targetLine  = regexp.MustCompile(`^make(?:\[\d+\])?: \*\*\* `)
)

func (l *listener) line(s string) {
	if m := progressLine.FindStringSubmatch(s); m != nil {
		if l.compiled != nil {
			l.compiled(m[1])
		}
		return
	}
	if strings.Contains(s, "No space left on device") {
		l.full = true
	}
	s = strings.TrimRight(s, " \t\r")
	if s == "" {
		return
	}
	if l.short == "" && hostLine.MatchString(s) {
		l.short = s
	}
	if l.tail = append(l.tail, s); len(l.tail) > maxTail {
		l.tail = l.tail[1:]
	}
	for i := range l.found {
		f := &l.found[i]
		more := f.kind == compiler && contextLine.MatchString(s) || f.kind == tree && treeLine.MatchString(s)
		if f.open = f.open && more && len(f.lines) < maxLines; f.open {
			f.lines = append(f.lines, s)
		}
	}
	for k, pattern := range []*regexp.Regexp{compiler: compilerLine, tree: treeLine, target: targetLine} {
		if pattern.MatchString(s) && !l.has(kind(k)) {
			if m := crookedPath.FindString(s); m != "" {
				s = path.Clean(m) + s[len(m):]
			}
			l.found = append(l.found, finding{kind: kind(k), lines: []string{s}, open: true})
			return
		}
	}
}

func (l *listener) has(k kind) bool {
	for _, f := range l.found {
		if f.kind == k {
			return true
		}
	}
	return false
}

// unframed takes away the frame of stars that the tree's own scripts put around what they say.
func unframed(lines []string) []string {
	var out []string
	for _, s := range lines {
		if text, ok := strings.CutPrefix(s, "***"); ok {
			s = strings.TrimSpace(text)
		}
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// first is the most telling complaint, or the last words.
func (l *listener) first() string {
	for k := range kinds {
		for _, f := range l.found {
			if f.kind == k {
				return strings.Join(unframed(f.lines), "\n")
			}
		}
	}
	return strings.Join(l.tail, "\n")
}
