// Package patch reads a patch series as developers send it: an mbox, or a folder of what git format-patch wrote.
//
// It owns what is a patch, a cover letter or somebody's reply, the order that the subjects state, and the
// trailers that say what a series stands on. It is text in, text out: whether a patch applies is for package
// checkout and git to say.
package patch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxMbox bounds what is read: the largest series on the lists are a few MB.
const maxMbox = 256 << 20

// Patch is one patch of a series, as it was mailed.
type Patch struct {
	N, M    int    // from [PATCH n/m]; 0 and 0 when the subject has no numbers
	Version int    // from [PATCH v2 n/m], 1 without
	Subject string // without the brackets, decoded
	From    string // the file that it came from, "" for an mbox
	Message []byte // the whole message, without the mbox's From line
}

// Series is what was read, in the order in which it is to be applied.
type Series struct {
	Patches []Patch
	Title   string // the cover letter's subject, or the only patch's; "" when there is neither
	Version int    // of the series, 1 without
	// Base is the commit that base-commit: names, "" when nothing does. Needs counts the prerequisite-patch-id:
	// trailers: patches that are to be applied to Base first, and are not here.
	Base  string
	Needs int
	Notes []string // what a user should know of how it was read, one sentence each
}

// NotMailError says that something that should be mail is not.
type NotMailError struct{ Name, Reason string }

func (e *NotMailError) Error() string {
	return fmt.Sprintf("%s: no mbox: %s; git format-patch --stdout BASE..HEAD and b4 am -o - MSGID write one", e.Name, e.Reason)
}

// OrderError says that the patches that were found do not make the series that their subjects speak of.
type OrderError struct{ Name, Reason string }

func (e *OrderError) Error() string { return e.Name + ": " + e.Reason }

// ReadMbox reads a series from an mbox; name is for errors.
func ReadMbox(name string, r io.Reader) (Series, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxMbox+1))
	switch {
	case err != nil:
		return Series{}, fmt.Errorf("read %s: %w", name, err)
	case len(data) > maxMbox:
		return Series{}, &NotMailError{name, fmt.Sprintf("it is larger than %d MB", maxMbox>>20)}
	case len(bytes.TrimSpace(data)) == 0:
		return Series{}, &NotMailError{name, "it is empty"}
	}
	var all []message
	for _, raw := range split(data) {
		m, err := parse(raw)
		if err != nil {
			return Series{}, &NotMailError{name, err.Error()}
		}
		all = append(all, m)
	}
	return assemble(name, all)
}

// ReadDir reads the *.patch, *.mbox and *.eml files of a folder, each of one message or more.
func ReadDir(dir string) (Series, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Series{}, fmt.Errorf("%s: no such folder of patches", dir)
		}
		return Series{}, fmt.Errorf("read patches: %w", err)
	}
	var all []message
	for _, d := range names { // sorted by name, which is format-patch's order
		if d.IsDir() || !slices.Contains([]string{".patch", ".mbox", ".eml"}, filepath.Ext(d.Name())) {
			continue
		}
		path := filepath.Join(dir, d.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return Series{}, fmt.Errorf("read patches: %w", err)
		}
		for _, raw := range split(data) {
			m, err := parse(raw)
			if err != nil {
				return Series{}, &NotMailError{path, err.Error()}
			}
			m.From = d.Name()
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		return Series{}, fmt.Errorf("%s: holds no *.patch file: git format-patch -o %s BASE..HEAD writes them", dir, dir)
	}
	return assemble(dir, all)
}

// separator is an mbox's From line as git mailsplit knows it: it ends in a time and a year.
var separator = regexp.MustCompile(`^From \S+ .*[0-9]{1,2}:[0-9]{2}:[0-9]{2} .*[0-9]{4}\s*$`)

// split cuts an mbox into messages. Text that begins without a From line is one message. Lines that mboxrd
// quoted (">From ") are given as they were.
func split(data []byte) [][]byte {
	var out [][]byte
	var current []byte
	rd := separator.Match(firstLine(data))
	for line := range bytes.Lines(data) {
		bare := bytes.TrimRight(line, "\r\n")
		if separator.Match(bare) {
			if len(bytes.TrimSpace(current)) > 0 {
				out = append(out, current)
			}
			current = nil
			continue
		}
		if rd && quotedFrom.Match(line) {
			line = line[1:]
		}
		current = append(current, line...)
	}
	if len(bytes.TrimSpace(current)) > 0 {
		out = append(out, current)
	}
	return out
}

var quotedFrom = regexp.MustCompile(`^>+From `)

func firstLine(data []byte) []byte {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return bytes.TrimRight(line, "\r")
}

// message is one mail of a thread.
type message struct {
	Patch
	tags  string // what stood in the brackets
	reply bool
	diff  bool
	base  string
	needs int
}

var (
	brackets = regexp.MustCompile(`^\s*\[([^\]]*)\]\s*`)
	number   = regexp.MustCompile(`(?:^|\s)([0-9]{1,4})/([0-9]{1,4})(?:\s|$)`)
	version  = regexp.MustCompile(`(?i)(?:^|\s|patch)v([0-9]{1,3})(?:\s|$)`)
	answer   = regexp.MustCompile(`(?i)^\s*(re|aw|fwd?)\s*:`)
	hasDiff  = regexp.MustCompile(`(?m)^(diff --git |Index: |--- \S.*\n\+\+\+ \S)`)
	baseLine = regexp.MustCompile(`(?m)^base-commit:\s*([0-9a-f]{12,64})\s*$`)
	needLine = regexp.MustCompile(`(?m)^prerequisite-patch-id:`)
)

func parse(raw []byte) (message, error) {
	m := message{Patch: Patch{Message: raw, Version: 1}}
	letter, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return m, errors.New("a message without mail headers")
	}
	if letter.Header.Get("From") == "" || letter.Header.Get("Subject") == "" {
		return m, errors.New("a message without the headers From and Subject")
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(letter.Header.Get("Subject"))
	if err != nil {
		subject = letter.Header.Get("Subject") // an unknown charset: as it is
	}
	m.reply = answer.MatchString(subject)
	subject = answer.ReplaceAllString(subject, "")
	for {
		loc := brackets.FindStringSubmatchIndex(subject)
		if loc == nil {
			break
		}
		m.tags += " " + subject[loc[2]:loc[3]]
		subject = subject[loc[1]:]
	}
	m.Subject = strings.Join(strings.Fields(subject), " ")
	if n := number.FindStringSubmatch(m.tags); n != nil {
		m.N, _ = strconv.Atoi(n[1])
		m.M, _ = strconv.Atoi(n[2])
	}
	if v := version.FindStringSubmatch(m.tags); v != nil {
		m.Version, _ = strconv.Atoi(v[1])
	}
	body, err := decoded(letter)
	if err != nil {
		return m, fmt.Errorf("the message %q cannot be decoded: %w", m.Subject, err)
	}
	m.diff = hasDiff.Match(body)
	if b := baseLine.FindSubmatch(body); b != nil {
		m.base = string(b[1])
	}
	m.needs = len(needLine.FindAll(body, -1))
	return m, nil
}

// assemble finds the patches among the messages and puts them into the order that they state.
func assemble(name string, all []message) (Series, error) {
	var s Series
	var cover *message
	replies := 0
	for i, m := range all {
		if m.base != "" && s.Base == "" && !m.reply {
			s.Base, s.Needs = m.base, m.needs
		}
		switch {
		case m.reply:
			replies++
		case m.M > 0 && m.N == 0:
			cover = &all[i]
		case m.diff:
			s.Patches = append(s.Patches, m.Patch)
		case m.N > 0:
			return Series{}, &OrderError{name, fmt.Sprintf("patch %d/%d (%s) holds no diff: was it sent as an attachment, or is the file cut?", m.N, m.M, m.Subject)}
		case len(all) > 1:
			cover = &all[i] // letters whose subject has no numbers
		}
	}
	if replies > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("answers in %s are passed over: %d", name, replies))
	}
	if len(s.Patches) == 0 {
		return Series{}, &NotMailError{name, "no message in it holds a patch"}
	}
	if err := s.order(name); err != nil {
		return Series{}, err
	}
	s.Version = s.Patches[0].Version
	switch {
	case cover != nil:
		s.Title = cover.Subject
	case len(s.Patches) == 1:
		s.Title = s.Patches[0].Subject
	}
	return s, nil
}

// order sorts numbered patches and sees that they are whole. Without numbers, files and messages are in the
// order in which they come.
func (s *Series) order(name string) error {
	numbered := slices.IndexFunc(s.Patches, func(p Patch) bool { return p.M > 0 })
	if numbered < 0 {
		return nil
	}
	first := s.Patches[numbered]
	have := map[int]Patch{}
	for _, p := range s.Patches {
		switch {
		case p.M == 0:
			return &OrderError{name, fmt.Sprintf("%q has no number among patches of %d: leave it out, or number it", p.Subject, first.M)}
		case p.Version != first.Version:
			return &OrderError{name, fmt.Sprintf("patches of v%d and of v%d: give one version of the series", first.Version, p.Version)}
		case p.M != first.M:
			return &OrderError{name, fmt.Sprintf("patches of two series, n/%d (%s) and n/%d (%s): give one", first.M, first.Subject, p.M, p.Subject)}
		case p.N > p.M:
			return &OrderError{name, fmt.Sprintf("patch %d of %d (%s)", p.N, p.M, p.Subject)}
		}
		if other, twice := have[p.N]; twice {
			return &OrderError{name, fmt.Sprintf("two patches call themselves %d/%d: %q and %q", p.N, p.M, other.Subject, p.Subject)}
		}
		have[p.N] = p
	}
	var missing []string
	for n := 1; n <= first.M; n++ {
		if _, ok := have[n]; !ok {
			missing = append(missing, strconv.Itoa(n))
		}
	}
	if len(missing) > 0 {
		return &OrderError{name, fmt.Sprintf("of %d patches %s missing: %s", first.M, isAre(len(missing)), strings.Join(missing, ", "))}
	}
	byNumber := func(a, b Patch) int { return a.N - b.N }
	if !slices.IsSortedFunc(s.Patches, byNumber) {
		slices.SortStableFunc(s.Patches, byNumber)
		s.Notes = append(s.Notes, "the patches in "+name+" are out of order: applied by their numbers")
	}
	return nil
}

func isAre(n int) string {
	if n == 1 {
		return "one is"
	}
	return strconv.Itoa(n) + " are"
}
