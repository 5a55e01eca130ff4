package series

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/flock"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// storeSchema is in every line; a line of another is passed over, and its cell is run again.
const storeSchema = "nestbed/series-cell/1"

// Store remembers the runs of cells, by all that decides how they end: the content of the kernel, the machine, the
// scenario and this nestbed. A file for each kernel, a line for each run, appended; a run whose evidence is gone is
// not remembered.
type Store struct {
	dir      string // "": nothing is kept
	runs     string // folder of runs
	identity string
	fresh    bool

	loaded  map[string]bool     // kernels
	cells   map[string][]sample // by key
	reused  map[string]bool     // keys that Reuse has counted
	written map[string]bool     // keys with a line of this process
	built   map[string]string   // kernels' hashes
}

type sample struct {
	run  string
	old  bool // of an earlier series
	cell results.Cell
}

// line is a line of a kernel's file.
type line struct {
	Schema string       `json:"schema"`
	Key    string       `json:"key"`
	Reset  bool         `json:"reset,omitempty"` // what came before of this key counts no more: --fresh
	Run    string       `json:"run"`
	Cell   results.Cell `json:"cell"`
}

// NewStore opens the store in dir, which is made when it is first written to. identity is a hash of what else
// decides than kernel, machine and scenario: agent, catalogue, QEMU, reproducer. With fresh, nothing is remembered.
func NewStore(dir, runs, identity string, fresh bool) *Store {
	return &Store{
		dir: dir, runs: runs, identity: identity, fresh: fresh, loaded: map[string]bool{}, cells: map[string][]sample{},
		reused: map[string]bool{}, written: map[string]bool{},
	}
}

// Key names a cell by its content.
func (s *Store) Key(c plan.Cell) string {
	m := c.Machine
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%+v\n", s.identity, c.Kernel.Hash, cellName(c), m))
	return fmt.Sprintf("%x", sum[:16])
}

// Runs gives what is known of a cell, oldest first.
func (s *Store) Runs(c plan.Cell) []results.Cell {
	s.load(c.Kernel.Hash)
	var out []results.Cell
	for _, x := range s.cells[s.Key(c)] {
		out = append(out, x.cell)
	}
	return out
}

// Reuse is how many runs of the cell an earlier series made, when it is asked for the first time, and then 0.
func (s *Store) Reuse(c plan.Cell) int {
	key := s.Key(c)
	if s.reused[key] {
		return 0
	}
	s.reused[key] = true
	n := 0
	for _, x := range s.cells[key] {
		if x.old {
			n++
		}
	}
	return n
}

// Where is the run that a cell which Runs gave is from.
func (s *Store) Where(c results.Cell) string {
	for _, all := range s.cells {
		for _, x := range all {
			if x.cell.Dir == c.Dir && x.cell.Started.Equal(c.Started) && x.cell.ID() == c.ID() && x.cell.KernelHash == c.KernelHash {
				return x.run
			}
		}
	}
	return ""
}

// Add remembers a run of a cell.
func (s *Store) Add(c plan.Cell, run string, verdict results.Cell) error {
	s.load(c.Kernel.Hash)
	key := s.Key(c)
	s.cells[key] = append(s.cells[key], sample{run: run, cell: verdict})
	err := s.append(c.Kernel.Hash, line{Schema: storeSchema, Key: key, Reset: s.fresh && !s.written[key], Run: run, Cell: verdict})
	s.written[key] = true
	return err
}

func (s *Store) file(name string) string { return filepath.Join(s.dir, name+".jsonl") }

// append adds one line in one write, so that series on two trees do not mix theirs.
func (s *Store) append(name string, v any) error {
	if s.dir == "" {
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	held, err := flock.Share(context.Background(), filepath.Join(s.dir, lockFile), nil)
	if err != nil {
		return err
	}
	defer held.Unlock()
	f, err := os.OpenFile(s.file(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	return errors.Join(err, f.Close())
}

// lockFile is what all who append hold together, and Prune for itself.
const lockFile = "lock"

// maxLine is more than a cell's line has.
const maxLine = 1 << 20

// lines calls each with every line of a file that may not exist. What is unreadable is not remembered: its cells
// are run again.
func (s *Store) lines(name string, each func([]byte)) {
	if s.dir == "" {
		return
	}
	f, err := os.Open(s.file(name))
	if err != nil {
		return
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, maxLine)
	for scan.Scan() {
		each(bytes.Clone(scan.Bytes()))
	}
}

func (s *Store) load(kernel string) {
	if s.loaded[kernel] {
		return
	}
	s.loaded[kernel] = true
	if s.fresh {
		return
	}
	s.lines(kernel, func(data []byte) {
		var l line
		if json.Unmarshal(data, &l) != nil || l.Schema != storeSchema {
			return
		}
		if l.Reset {
			delete(s.cells, l.Key)
		}
		judged := l.Cell.Verdict.Bad() || l.Cell.Verdict == record.Pass || l.Cell.Verdict == record.Skip
		if judged && s.evidence(l) {
			s.cells[l.Key] = append(s.cells[l.Key], sample{run: l.Run, old: true, cell: l.Cell})
		}
	})
}

// Pruned is what Prune removed from a store.
type Pruned struct {
	Cells  int // notes of a cell's run
	Builds int // notes of a kernel that was built
}

// Prune removes from the store in dir, which need not exist, what no series will take from it: cells whose run's folder is gone, or
// that --fresh has put others in the place of, and kernels that there says are not in the cache.
func Prune(ctx context.Context, dir, runs string, there func(hash string) bool) (p Pruned, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(names) == 0 {
		return p, err
	}
	held, err := flock.Take(ctx, filepath.Join(dir, lockFile), nil)
	if err != nil {
		return p, err
	}
	defer held.Unlock()
	s := NewStore(dir, runs, "", false)
	for _, file := range names {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		var kept [][]byte
		gone := 0
		if name == builds {
			kept, gone = s.liveBuilds(there)
			p.Builds += gone
		} else {
			kept, gone = s.liveCells(name)
			p.Cells += gone
		}
		switch {
		case len(kept) == 0:
			err = os.Remove(file)
		case gone > 0:
			err = kernels.WriteFile(file, append(bytes.Join(kept, []byte("\n")), '\n'))
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// liveCells gives the lines of a kernel's file that load would take, and how many others there are.
func (s *Store) liveCells(name string) (kept [][]byte, gone int) {
	type cell struct {
		line
		text []byte
	}
	var cells []cell
	all := 0
	s.lines(name, func(text []byte) {
		all++
		var l line
		if json.Unmarshal(text, &l) != nil || l.Schema != storeSchema {
			return
		}
		if l.Reset {
			cells = slices.DeleteFunc(cells, func(c cell) bool { return c.Key == l.Key })
		}
		cells = append(cells, cell{l, text})
	})
	for _, c := range cells {
		if s.evidence(c.line) {
			kept = append(kept, c.text)
		}
	}
	return kept, all - len(kept)
}

// liveBuilds gives the lines of the file of kernels that Built would answer by.
func (s *Store) liveBuilds(there func(hash string) bool) (kept [][]byte, gone int) {
	last := map[string][]byte{}
	var order []string
	all := 0
	s.lines(builds, func(text []byte) {
		all++
		var b build
		if json.Unmarshal(text, &b) != nil || b.Schema != buildSchema {
			return
		}
		if !there(b.Hash) {
			delete(last, b.Key)
			return
		}
		if last[b.Key] == nil {
			order = append(order, b.Key)
		}
		last[b.Key] = text
	})
	for _, key := range order {
		if text := last[key]; text != nil {
			kept = append(kept, text)
			delete(last, key)
		}
	}
	return kept, all - len(kept)
}

// evidence says whether the run's folder is still there.
func (s *Store) evidence(l line) bool {
	if !filepath.IsLocal(l.Run) || !filepath.IsLocal(l.Cell.Dir) {
		return false
	}
	_, err := os.Stat(filepath.Join(s.runs, l.Run, l.Cell.Dir))
	return !errors.Is(err, fs.ErrNotExist)
}

// builds is the file of kernels that were built, a line for each.
const builds = "builds"

type build struct {
	Schema string `json:"schema"`
	Key    string `json:"key"`
	Hash   string `json:"hash"`
}

const buildSchema = "nestbed/series-build/1"

// Built gives the hash of the kernel that was built of what key names.
func (s *Store) Built(key string) (hash string, ok bool) {
	if s.built == nil {
		s.built = map[string]string{}
		s.lines(builds, func(data []byte) {
			var b build
			if json.Unmarshal(data, &b) == nil && b.Schema == buildSchema {
				s.built[b.Key] = b.Hash
			}
		})
	}
	if s.fresh {
		return "", false
	}
	hash, ok = s.built[key]
	return hash, ok
}

// SaveBuilt remembers a kernel that was built.
func (s *Store) SaveBuilt(key, hash string) error {
	if old, ok := s.Built(key); ok && old == hash {
		return nil
	}
	s.built[key] = hash
	return s.append(builds, build{Schema: buildSchema, Key: key, Hash: hash})
}
