// Package mutants reads a folder of bugs that a kernel is to be given: unified diffs, one bug a file, each with a
// header that says what it breaks and what should see it. The header is optional: any folder of diffs will do.
//
// It owns the header's fields and what of a diff can be told without its tree: which files it changes, and
// whether it is whole. The series that developers mail are package patch's; whether a diff applies git says.
//
// The files that ship are for Linux 6.12 and lie here. g*.patch mend the kernel itself, so that it passes the
// catalogue: the golden tree. m*.patch and n*.patch break one contract each, in the golden tree, or with the line
// Base: plain in the tree as it is.
package mutants

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Patch is one file of such a folder.
type Patch struct {
	ID string // the file's name without its ending
	// What the patch does, the contract that it Breaks or, for one of the golden tree, what it Mends, and by
	// which scenario, verdict and title it is Expected to be seen: one line each, "" where the file has none.
	What, Breaks, Mends, Expected string
	Plain                         bool   // for the tree without the golden patches
	Files                         []File // that it changes, in its order
	Text                          []byte // the whole file, as git apply takes it
}

// Golden says that the patch makes the tree right that the others break.
func (p Patch) Golden() bool { return p.Mends != "" }

// File is what a patch does to one file.
type File struct {
	Path  string // below the tree
	Hunks int
	Lines int // added and removed
}

// ReadDir reads every *.patch and *.diff of a folder, in the order of their names.
func ReadDir(dir string) ([]Patch, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: no such folder of diffs", dir)
		}
		return nil, fmt.Errorf("read diffs: %w", err)
	}
	var all []Patch
	for _, entry := range entries {
		ending := filepath.Ext(entry.Name())
		if entry.IsDir() || (ending != ".patch" && ending != ".diff") {
			continue
		}
		name := filepath.Join(dir, entry.Name())
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read diffs: %w", err)
		}
		p, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s:%w", name, err)
		}
		p.ID = strings.TrimSuffix(entry.Name(), ending)
		if slices.ContainsFunc(all, func(other Patch) bool { return other.ID == p.ID }) {
			return nil, fmt.Errorf("%s: another file is named %s too: a mutant goes by its file's name, rename one", name, p.ID)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: holds no *.patch and no *.diff file: git diff > %s writes one", dir, filepath.Join(dir, "NAME.diff"))
	}
	return all, nil
}

var (
	field = regexp.MustCompile(`^(What|Breaks|Mends|Base|Expected):\s*(.*)$`)
	hunk  = regexp.MustCompile(`^@@ -[0-9]+(?:,([0-9]+))? \+[0-9]+(?:,([0-9]+))? @@`)
)

// parse reads one file. Its errors begin with the line.
func parse(text []byte) (Patch, error) {
	p := Patch{Text: text}
	lines := strings.Split(strings.ReplaceAll(string(bytes.TrimSuffix(text, []byte("\n"))), "\r\n", "\n"), "\n")
	fail := func(i int, format string, args ...any) (Patch, error) {
		return Patch{}, fmt.Errorf("%d: "+format, append([]any{i + 1}, args...)...)
	}
	i, err := p.header(lines)
	if err != nil {
		return Patch{}, err
	}
	for i < len(lines) {
		switch line := lines[i]; {
		case opens(lines, i):
			path := below(strings.TrimPrefix(lines[i+1], "+++ "))
			if path == "" {
				path = below(strings.TrimPrefix(line, "--- ")) // the file goes
			}
			p.Files = append(p.Files, File{Path: path})
			i += 2
		case strings.HasPrefix(line, "@@ "):
			if len(p.Files) == 0 {
				return fail(i, "a hunk of no file: the lines --- and +++ are missing above it")
			}
			end, changed, reason := body(lines, i)
			if reason != "" {
				return fail(i, "%s: the diff was cut or edited by hand, have git diff write it again", reason)
			}
			file := &p.Files[len(p.Files)-1]
			file.Hunks++
			file.Lines += changed
			i = end
		case line == "GIT binary patch", strings.HasPrefix(line, "Binary files "):
			return fail(i, "a binary diff; only text can be read")
		default:
			i++ // git's own lines, or a mail's signature
		}
	}
	if !slices.ContainsFunc(p.Files, func(f File) bool { return f.Hunks > 0 }) {
		return fail(0, "holds no unified diff: git diff writes one")
	}
	return p, nil
}

// header reads the fields above the diff, and gives the number of the first line below them. A field ends at an
// empty line or where the next begins.
func (p *Patch) header(lines []string) (int, error) {
	var base string
	fields := map[string]*string{"What": &p.What, "Breaks": &p.Breaks, "Mends": &p.Mends, "Expected": &p.Expected, "Base": &base}
	var open *string
	i, baseLine := 0, 0
	for ; i < len(lines); i++ {
		line := lines[i]
		if strings.HasPrefix(line, "diff --git ") || strings.HasPrefix(line, "@@ ") || opens(lines, i) {
			break
		}
		if m := field.FindStringSubmatch(line); m != nil {
			open = fields[m[1]]
			if *open != "" {
				return 0, fmt.Errorf("%d: a second line %s: in one header", i+1, m[1])
			}
			if open == &base {
				baseLine = i
			}
			*open = strings.TrimSpace(m[2])
		} else if text := strings.TrimSpace(line); text == "" || line == "---" {
			open = nil
		} else if open != nil {
			*open += " " + text
		}
	}
	if base != "" && base != "plain" {
		return 0, fmt.Errorf("%d: Base: %s: the tree is golden, or with Base: plain as it is; nothing else", baseLine+1, base)
	}
	p.Plain = base == "plain"
	return i, nil
}

// opens says that line i and the one after it name a file's two sides.
func opens(lines []string, i int) bool {
	return strings.HasPrefix(lines[i], "--- ") && i+1 < len(lines) && strings.HasPrefix(lines[i+1], "+++ ")
}

// below is a path of a diff without its first element and without a time stamp; "" for /dev/null.
func below(path string) string {
	path, _, _ = strings.Cut(path, "\t")
	if path == "/dev/null" {
		return ""
	}
	_, rest, _ := strings.Cut(path, "/")
	return rest
}

// body goes through the hunk at line i by the counts in its head. It gives the line after the hunk, how many lines
// change, and what is wrong with it.
func body(lines []string, i int) (end, changed int, reason string) {
	m := hunk.FindStringSubmatch(lines[i])
	if m == nil {
		return 0, 0, "no head of a hunk"
	}
	count := func(s string) int {
		if s == "" {
			return 1
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return -1
		}
		return n
	}
	old, fresh := count(m[1]), count(m[2])
	for i++; old > 0 || fresh > 0; i++ {
		if i == len(lines) {
			return 0, 0, "the file ends within a hunk"
		}
		switch line := lines[i]; {
		case line == "" || line[0] == ' ': // an editor may have taken the space of an empty line
			old, fresh = old-1, fresh-1
		case line[0] == '-':
			old, changed = old-1, changed+1
		case line[0] == '+':
			fresh, changed = fresh-1, changed+1
		case line[0] != '\\': // no newline at the end of the file
			return 0, 0, fmt.Sprintf("a hunk has %q", line)
		}
	}
	if old < 0 || fresh < 0 {
		return 0, 0, "a hunk has other lines than its head counts"
	}
	if i < len(lines) && lines[i] != "" && strings.ContainsRune(" +-", rune(lines[i][0])) && !strings.HasPrefix(lines[i], "-- ") &&
		lines[i] != "--" && !opens(lines, i) {
		return 0, 0, "a hunk has more lines than its head counts"
	}
	return i, changed, ""
}
