package results

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nestbed/nestbed/results/record"
)

// Unreadable says of each folder in root that looks like a run and holds none that can be read what is wrong
// with it. Runs leaves those out.
func Unreadable(root string) ([]error, error) {
	ids, err := runIDs(root)
	if err != nil {
		return nil, err
	}
	var out []error
	for _, id := range ids {
		if _, err := openDir(filepath.Join(root, id)); err != nil {
			out = append(out, err)
		}
	}
	return out, nil
}

// Gone gives the names of the files that a cell with a verdict should have on disk and has not.
func (r *Run) Gone(c Cell) []string {
	dir := r.Path(c)
	if dir == "" || c.Verdict == record.Invalid {
		return nil
	}
	if missing(dir) {
		return []string{"the whole folder"}
	}
	var out []string
	for _, name := range []string{OutcomeFile, ConsoleFile} { // without records: a kernel may not boot
		if missing(filepath.Join(dir, name)) {
			out = append(out, name)
		}
	}
	return out
}

// Damage says in words which of the run's files are missing or cut. A run that was ended early is not damaged:
// its cells are unfinished.
func (r *Run) Damage() ([]string, error) {
	var out []string
	bad, err := r.badLines()
	if err != nil {
		return nil, err
	}
	if bad > 0 {
		out = append(out, fmt.Sprintf("%s of %s cannot be read", count(bad, "line"), CellsFile))
	}
	unfinished, err := r.Unfinished()
	if err != nil {
		return nil, err
	}
	for _, p := range unfinished {
		if dir := folder(p); !missing(filepath.Join(r.dir, dir, OutcomeFile)) {
			out = append(out, fmt.Sprintf("%s has a verdict in %s and none in %s", p.ID(), filepath.Join(dir, OutcomeFile), CellsFile))
		}
	}
	cells, err := r.Cells()
	if err != nil {
		return nil, err
	}
	n, first := 0, ""
	for _, c := range cells {
		if len(r.Gone(c)) > 0 {
			if n++; n == 1 {
				first = c.ID()
			}
		}
	}
	if n > 0 {
		out = append(out, fmt.Sprintf("files of %s are missing, among them %s", count(n, "cell"), first))
	}
	return out, nil
}

// badLines counts the lines of cells.jsonl that are no cell.
func (r *Run) badLines() (n int, err error) {
	f, err := os.Open(filepath.Join(r.dir, CellsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read run %s: %w", r.header.ID, err)
	}
	defer f.Close()
	for lines := bufio.NewReaderSize(f, 64<<10); ; {
		line, err := readLine(lines, maxCellLine)
		var c Cell
		if len(line) > 0 && (json.Unmarshal(line, &c) != nil || c.Schema == "" || c.Verdict == record.Invalid) {
			n++
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("read run %s: %s: %w", r.header.ID, CellsFile, err)
		}
	}
}

func missing(name string) bool {
	_, err := os.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}
