package results

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/nestbed/nestbed/results/record"
)

//go:embed known.yaml
var shipped []byte

// maxKnown bounds a known-issues file, in bytes.
const maxKnown = 4 << 20

// Known is a known-issues file. The zero value explains nothing.
type Known struct {
	issues []Issue
}

// Issue is one entry of the file; known.yaml says what each field means.
type Issue struct {
	ID       string         `yaml:"id"`
	Scenario string         `yaml:"scenario"`
	Variant  string         `yaml:"variant"`
	Kernels  string         `yaml:"kernels"`
	Machine  string         `yaml:"machine"`
	Verdict  string         `yaml:"verdict"`
	Title    string         `yaml:"title"`
	Frames   []string       `yaml:"frames"`
	Also     []KnownReport  `yaml:"also"`
	Why      string         `yaml:"why"`
	Link     string         `yaml:"link"`
	kernels  kernelRange    `yaml:"-"`
	verdict  record.Verdict `yaml:"-"`
	title    matcher        `yaml:"-"`
}

// KnownReport is a further kernel report of an issue.
type KnownReport struct {
	Title  string   `yaml:"title"`
	Frames []string `yaml:"frames"`
	title  matcher  `yaml:"-"`
}

// KnownError is a known-issues file that cannot be used; its text shows where.
type KnownError struct {
	File string
	Err  error
}

func (e *KnownError) Error() string { return fmt.Sprintf("known issues %s: %v", e.File, e.Err) }

func (e *KnownError) Unwrap() error { return e.Err }

// ShippedKnown is the file that comes with nestbed.
func ShippedKnown() (Known, error) { return ParseKnown("known.yaml", shipped) }

// LoadKnown reads a known-issues file. Errors about its content are *KnownError.
func LoadKnown(file string) (Known, error) {
	f, err := os.Open(file)
	if err != nil {
		return Known{}, fmt.Errorf("known issues: %w", err)
	}
	defer f.Close()
	data, err := readBounded(f, maxKnown)
	if err != nil {
		return Known{}, fmt.Errorf("known issues %s: %w", file, err)
	}
	return ParseKnown(file, data)
}

// ParseKnown reads the text of a known-issues file; name is for errors, which are *KnownError.
func ParseKnown(name string, data []byte) (Known, error) {
	var doc struct {
		Schema string  `yaml:"schema"`
		Issues []Issue `yaml:"issues"`
	}
	if err := decodeYAML(data, &doc); err != nil {
		return Known{}, &KnownError{File: name, Err: err}
	}
	if err := checkSchema(doc.Schema, KnownSchema); err != nil {
		return Known{}, &KnownError{File: name, Err: err}
	}
	seen := map[string]bool{}
	for i := range doc.Issues {
		issue := &doc.Issues[i]
		err := issue.compile()
		if err == nil && seen[issue.ID+"\x00"+issue.Scenario+"\x00"+issue.Kernels+"\x00"+issue.Title] {
			err = errors.New("written twice")
		}
		if err != nil {
			return Known{}, &KnownError{File: name, Err: fmt.Errorf("issue %d (%q): %w", i+1, issue.ID, err)}
		}
		seen[issue.ID+"\x00"+issue.Scenario+"\x00"+issue.Kernels+"\x00"+issue.Title] = true
	}
	return Known{issues: doc.Issues}, nil
}

// decodeYAML is strict about fields. The decoder reads a text that a person wrote: a panic inside it must
// become an error about that text.
func decodeYAML(data []byte, v any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("not understood: %v", p)
		}
	}()
	return yaml.UnmarshalWithOptions(data, v, yaml.Strict())
}

func (i *Issue) compile() error {
	for _, f := range []struct{ name, value string }{
		{"id", i.ID}, {"scenario", i.Scenario}, {"kernels", i.Kernels}, {"verdict", i.Verdict},
		{"title", i.Title}, {"why", i.Why},
	} {
		if strings.TrimSpace(f.value) == "" {
			return fmt.Errorf("no %s", f.name)
		}
	}
	for _, pattern := range []string{i.Scenario, i.Variant} {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	if err := i.verdict.UnmarshalText([]byte(i.Verdict)); err != nil {
		return err
	}
	if !i.verdict.Bad() {
		return fmt.Errorf("verdict %q: only fail, crash and hang need an explanation", i.Verdict)
	}
	if i.verdict == record.Crash && len(i.Frames) == 0 {
		return errors.New("no frames: a crash is not known by its title alone")
	}
	var err error
	if i.kernels, err = parseRange(i.Kernels); err != nil {
		return err
	}
	if i.title, err = parseMatcher(i.Title); err != nil {
		return err
	}
	for n := range i.Also {
		a := &i.Also[n]
		if a.Title == "" {
			return fmt.Errorf("also %d: no title", n+1)
		}
		if a.title, err = parseMatcher(a.Title); err != nil {
			return fmt.Errorf("also %d: %w", n+1, err)
		}
	}
	return nil
}

// Len is the number of entries.
func (k Known) Len() int { return len(k.issues) }

// Explain turns an outcome that a known issue explains whole into the verdict known, which keeps the
// original verdict in Was and in the reason.
func (k Known) Explain(p Planned, o Outcome) Outcome {
	if !o.Verdict.Bad() {
		return o
	}
	for _, issue := range k.issues {
		if !issue.about(p) || !issue.explains(o) {
			continue
		}
		o.Was, o.Verdict, o.Known = o.Verdict, record.Known, issue.ID
		o.Reason = join(fmt.Sprintf("%s, known as %s: %s", o.Was, issue.ID, strings.TrimSpace(issue.Why)), o.Reason)
		return o
	}
	return o
}

// UnexpectedPass is a cell that passed although an entry says that its kernel has the bug.
type UnexpectedPass struct {
	Cell  Cell
	Known string // the entry's id
}

// UnexpectedPasses names cells that passed where an entry expects worse.
func (k Known) UnexpectedPasses(cells []Cell) []UnexpectedPass {
	var out []UnexpectedPass
	for _, c := range cells {
		if c.Verdict != record.Pass {
			continue
		}
		for _, issue := range k.issues {
			if issue.about(c.Planned()) {
				out = append(out, UnexpectedPass{Cell: c, Known: issue.ID})
				break
			}
		}
	}
	return out
}

func (i Issue) about(p Planned) bool {
	scenario, _ := path.Match(i.Scenario, p.Scenario)
	variant := i.Variant == ""
	if !variant {
		variant, _ = path.Match(i.Variant, p.Variant)
	}
	return scenario && variant && (i.Machine == "" || i.Machine == p.Machine) && i.kernels.holds(p.Kernel)
}

func (i Issue) explains(o Outcome) bool {
	if o.Verdict != i.verdict || !i.title.match(o.Title) {
		return false
	}
	if o.Verdict != record.Crash {
		return len(o.Reports) == 0
	}
	// A crash without a report (a fault that only QEMU saw) has no frames to be known by.
	for n, r := range behindStall(o.Reports) {
		explained := n == 0 && framesMatch(i.Frames, r)
		for _, a := range i.Also {
			explained = explained || n > 0 && a.explains(r)
		}
		if n > 0 && i.title.match(r.Title) && framesMatch(i.Frames, r) {
			explained = true // the same report again
		}
		if !explained {
			return false
		}
		if r.Fatal {
			break // what a dead kernel prints is its consequence
		}
	}
	return len(o.Reports) > 0
}

// explains reports whether r is the further report that is meant. One that is written without frames names
// none itself: a jump into freed text leaves no trace.
func (a KnownReport) explains(r record.Report) bool {
	if len(a.Frames) == 0 && len(r.Frames) > 0 {
		return false
	}
	return a.title.match(r.Title) && framesMatch(a.Frames, r)
}

// framesMatch reports whether the wanted frames are, in this order, among the top frames in modules. Two
// foreign frames between them are forgiven: compilers inline differently. A wanted frame counts where a kernel
// has its module built in, too. Where no frame is in a module, the top is the function that the title names: what
// stands above it only reports.
func framesMatch(want []string, r record.Report) bool {
	if len(want) == 0 {
		return true
	}
	top := slices.Clone(r.Frames)
	if slices.ContainsFunc(r.Modules, func(m string) bool { return m != "" }) {
		top = top[:0]
		for n, frame := range r.Frames {
			if n < len(r.Modules) && r.Modules[n] != "" || slices.Contains(want, frame) {
				top = append(top, frame)
			}
		}
	} else {
		_, guilty, _ := strings.Cut(r.Title, " in ")
		top = top[max(0, slices.Index(top, guilty)):]
	}
	top = top[:min(len(top), len(want)+2)]
	for _, frame := range top {
		if len(want) > 0 && want[0] == frame {
			want = want[1:]
		}
	}
	return len(want) == 0
}

// matcher is an exact title or a regular expression for all of it.
type matcher struct {
	exact string
	re    *regexp.Regexp
}

func parseMatcher(text string) (matcher, error) {
	inner, ok := strings.CutPrefix(text, "/")
	if !ok {
		return matcher{exact: text}, nil
	}
	inner, ok = strings.CutSuffix(inner, "/")
	if !ok || inner == "" {
		return matcher{}, fmt.Errorf("title %q: a regular expression stands between two slashes", text)
	}
	re, err := regexp.Compile(`^(?:` + inner + `)$`)
	if err != nil {
		return matcher{}, fmt.Errorf("title %q: %w", text, err)
	}
	return matcher{re: re}, nil
}

func (m matcher) match(title string) bool {
	if m.re != nil {
		return m.re.MatchString(title)
	}
	return m.exact == title
}

// kernelRange is a conjunction of comparisons.
type kernelRange []bound

type bound struct {
	op      string
	numbers []int
}

func parseRange(text string) (kernelRange, error) {
	var r kernelRange
	for term := range strings.FieldsSeq(text) {
		rest := strings.TrimLeft(term, "<>=")
		op := term[:len(term)-len(rest)]
		if !slices.Contains([]string{"<", "<=", "=", ">=", ">"}, op) {
			return nil, fmt.Errorf("kernels %q: %q starts with none of < <= = >= >", text, term)
		}
		numbers := numbersOf(rest)
		if len(numbers) == 0 || strings.Trim(rest, "0123456789.") != "" {
			return nil, fmt.Errorf("kernels %q: %q is not a version such as 6.12", text, rest)
		}
		r = append(r, bound{op: op, numbers: numbers})
	}
	if len(r) == 0 {
		return nil, fmt.Errorf("kernels %q: no range", text)
	}
	return r, nil
}

// holds compares as many numbers as the bound has. A release that is no version is in no range.
func (r kernelRange) holds(release string) bool {
	have := numbersOf(release)
	if len(have) < 2 {
		return false
	}
	for _, b := range r {
		h := slices.Clone(have)
		for len(h) < len(b.numbers) {
			h = append(h, 0)
		}
		c := slices.Compare(h[:len(b.numbers)], b.numbers)
		ok := strings.Contains(b.op, "=") && c == 0 || strings.HasPrefix(b.op, "<") && c < 0 || strings.HasPrefix(b.op, ">") && c > 0
		if !ok {
			return false
		}
	}
	return true
}

// numbersOf gives the leading version numbers of a release: 6, 12, 117 of 6.12.117+deb12-amd64.
func numbersOf(release string) []int {
	var out []int
	for len(out) < 4 {
		end := strings.IndexFunc(release, func(c rune) bool { return c < '0' || c > '9' })
		if end < 0 {
			end = len(release)
		}
		n, err := strconv.Atoi(release[:end])
		if err != nil {
			break
		}
		out = append(out, n)
		if end == len(release) || release[end] != '.' {
			break
		}
		release = release[end+1:]
	}
	return out
}
