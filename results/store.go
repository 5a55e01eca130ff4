package results

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nestbed/nestbed/results/record"
)

// The names of the files of a run, and those in a cell's folder that nestbed writes itself.
const (
	RunFile     = "run.json"
	CellsFile   = "cells.jsonl"
	RecordsFile = "records.jsonl"
	OutcomeFile = "outcome.json"
	ConsoleFile = "console.log"
	OutputFile  = "output.log" // of the program that nestbed exec ran
)

const (
	maxRunFile  = 256 << 20
	maxCellLine = 1 << 20
	maxOutcome  = 16 << 20
)

// Run is a run on disk. It is safe for concurrent use within one process.
type Run struct {
	dir    string
	header Header

	mu    sync.Mutex
	cells *os.File // cells.jsonl, opened by the first Append
}

// Create makes a new run in root, which is made when missing. Schema, ID and Started are filled in.
func Create(root string, h Header) (*Run, error) {
	if h.Started.IsZero() {
		h.Started = time.Now().UTC()
	}
	h.Schema = RunSchema
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("create run: %w", err)
	}
	for {
		h.ID = newID(h.Started)
		dir := filepath.Join(root, h.ID)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("create run: %w", err)
		}
		data, err := json.MarshalIndent(h, "", "  ")
		if err == nil {
			err = writeFile(filepath.Join(dir, RunFile), append(data, '\n'))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("create run %s: %w", h.ID, err), os.RemoveAll(dir))
		}
		return &Run{dir: dir, header: h}, nil
	}
}

// newID sorts by time, in UTC: local time goes back an hour in autumn. The last four digits tell apart runs of one second.
func newID(t time.Time) string {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return t.UTC().Format("20060102-150405-") + hex.EncodeToString(b[:])
}

// RefError is a reference to a run or a cell that names none, or more than one.
type RefError struct {
	What string // "run" or "cell"
	Ref  string
	Hint string // what to type
}

func (e *RefError) Error() string { return fmt.Sprintf("no %s %q: %s", e.What, e.Ref, e.Hint) }

// Open finds a run: ref is an id, a unique prefix, "last" or a folder. An unfit ref is a *RefError.
func Open(root, ref string) (*Run, error) {
	if strings.ContainsRune(ref, filepath.Separator) || ref == "." || ref == ".." {
		return openDir(ref)
	}
	ids, err := runIDs(root)
	if err != nil {
		return nil, err
	}
	if ref == "last" && len(ids) > 0 {
		return openLast(root, ids)
	}
	var found []string
	for _, id := range ids {
		if id == ref {
			return openDir(filepath.Join(root, id))
		}
		if ref != "" && strings.HasPrefix(id, ref) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) == 1:
		return openDir(filepath.Join(root, found[0]))
	case len(found) > 1:
		return nil, &RefError{What: "run", Ref: ref, Hint: fmt.Sprintf("%d runs start so, among them %s", len(found), strings.Join(found[:2], " and "))}
	case len(ids) == 0:
		return nil, &RefError{What: "run", Ref: ref, Hint: "there is none yet; nestbed run makes one"}
	}
	return nil, &RefError{What: "run", Ref: ref, Hint: "nestbed list runs shows them"}
}

// openLast tells runs of one second apart by their exact start.
func openLast(root string, ids []string) (*Run, error) {
	newest := slices.Max(ids)
	second := newest[:len(newest)-len("-0000")]
	var last *Run
	var first error
	for _, id := range ids {
		if !strings.HasPrefix(id, second) {
			continue
		}
		r, err := openDir(filepath.Join(root, id))
		if err != nil {
			first = cmp.Or(first, err)
			continue
		}
		if last == nil || r.header.Started.After(last.header.Started) {
			last = r
		}
	}
	if last == nil {
		return nil, first
	}
	return last, nil
}

// Runs lists the runs in root, oldest first. Folders that hold no readable run are left out.
func Runs(root string) ([]*Run, error) {
	ids, err := runIDs(root)
	if err != nil {
		return nil, err
	}
	var out []*Run
	for _, id := range ids {
		if r, err := openDir(filepath.Join(root, id)); err == nil {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b *Run) int { return a.header.Started.Compare(b.header.Started) })
	return out, nil
}

func runIDs(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) == len("20060102-150405-0000") {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

func openDir(dir string) (*Run, error) {
	f, err := os.Open(filepath.Join(dir, RunFile))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &RefError{What: "run", Ref: dir, Hint: "the folder holds no " + RunFile}
		}
		return nil, fmt.Errorf("open run: %w", err)
	}
	defer f.Close()
	data, err := readBounded(f, maxRunFile)
	if err != nil {
		return nil, fmt.Errorf("open run %s: %w", dir, err)
	}
	var h Header
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, fmt.Errorf("open run %s: %s is damaged, the plan is lost (the cells' folders may still tell): %w", dir, RunFile, err)
	}
	if err := checkSchema(h.Schema, RunSchema); err != nil {
		return nil, fmt.Errorf("open run %s: %w", dir, err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open run %s: %w", dir, err)
	}
	return &Run{dir: abs, header: h}, nil
}

// Header is the plan.
func (r *Run) Header() Header { return r.header }

// ID is the run's name.
func (r *Run) ID() string { return r.header.ID }

// Dir is the run's folder.
func (r *Run) Dir() string { return r.dir }

// Path is a cell's folder, "" when it has none.
func (r *Run) Path(c Cell) string {
	if c.Dir == "" || !filepath.IsLocal(c.Dir) {
		return ""
	}
	return filepath.Join(r.dir, c.Dir)
}

// CellDir makes the folder of a cell's attempt (1, 2 ...) and gives its name relative to the run's folder.
func (r *Run) CellDir(p Planned, attempt int) (string, error) {
	name := folder(p)
	if attempt > 1 {
		name += ".attempt" + strconv.Itoa(attempt)
	}
	if err := os.Mkdir(filepath.Join(r.dir, name), 0o755); err != nil {
		return "", fmt.Errorf("create cell: %w", err)
	}
	return name, nil
}

// folder is the cell's id as one file name. When that is not the same for a person and for a file system,
// or could be another cell's, a hash tells them apart.
func folder(p Planned) string {
	parts := []string{p.Name(), p.Kernel, p.Machine}
	hash := false
	for i, part := range parts {
		parts[i] = strings.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-.+@", c) {
				return c
			}
			hash = true // "_" too: it separates the parts
			return '_'
		}, part)
	}
	name := strings.Join(parts, "_")
	if p.Repeat > 0 {
		name += "#" + strconv.Itoa(p.Repeat)
	}
	if hash || len(name) > 120 || strings.HasPrefix(name, ".") {
		name = "cell-" + name[:min(len(name), 100)] + "-" + exactHash(p.ID())
	}
	return name
}

// Append adds a verdict to cells.jsonl: one write, so that a reader and a second writer see whole lines.
func (r *Run) Append(c Cell) error {
	if c.Verdict == record.Invalid {
		return fmt.Errorf("append cell %s: no verdict", c.ID())
	}
	c.Schema = CellSchema
	line, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("append cell %s: %w", c.ID(), err)
	}
	if len(line) >= maxCellLine {
		return fmt.Errorf("append cell %s: line of %d bytes, limit %d", c.ID(), len(line), maxCellLine)
	}
	line = append(line, '\n')

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells == nil {
		f, err := openAppend(filepath.Join(r.dir, CellsFile))
		if err != nil {
			return fmt.Errorf("append cell %s: %w", c.ID(), err)
		}
		r.cells = f
	}
	if _, err := r.cells.Write(line); err != nil {
		return fmt.Errorf("append cell %s: %w", c.ID(), err)
	}
	return nil
}

// openAppend opens a file of lines for appending. A last line that was cut is ended first, so that only
// it is lost.
func openAppend(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size > 0 {
		var last [1]byte
		if _, err = f.ReadAt(last[:], size-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte{'\n'})
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close ends writing.
func (r *Run) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells == nil {
		return nil
	}
	f := r.cells
	r.cells = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("close run %s: %w", r.header.ID, err)
	}
	return nil
}

// Cells gives the cells that the plan skipped, then those with a verdict on disk, in the order in which
// they came. A cell with two verdicts keeps the last.
func (r *Run) Cells() ([]Cell, error) {
	var out []Cell
	for _, s := range r.header.Skips {
		c := s.Cell()
		c.Started = r.header.Started
		out = append(out, c)
	}
	f, err := os.Open(filepath.Join(r.dir, CellsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", r.header.ID, err)
	}
	defer f.Close()
	cells, err := ReadCells(f)
	if err != nil {
		return nil, fmt.Errorf("read run %s: %s: %w", r.header.ID, CellsFile, err)
	}
	at := map[string]int{}
	for i, c := range out {
		at[c.ID()] = i
	}
	for _, c := range cells {
		if i, ok := at[c.ID()]; ok {
			out[i] = c
			continue
		}
		at[c.ID()] = len(out)
		out = append(out, c)
	}
	return out, nil
}

// ReadCells reads the lines of a cells.jsonl. A line that is cut, at the end or where a dead writer left
// it, is passed over: its cell is unfinished. A newer schema is an error.
func ReadCells(in io.Reader) ([]Cell, error) {
	var out []Cell
	lines := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := readLine(lines, maxCellLine)
		if len(line) > 0 {
			var c Cell
			if json.Unmarshal(line, &c) == nil && c.Schema != "" {
				if err := checkSchema(c.Schema, CellSchema); err != nil {
					return nil, err
				}
				if c.Verdict != record.Invalid {
					out = append(out, c)
				}
			} else if err := newerSchema(line); err != nil {
				return nil, err
			}
		}
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// newerSchema tells a line of a newer nestbed, which may have changed the type of a field, from a cut one.
func newerSchema(line []byte) error {
	var c struct {
		Schema string `json:"schema"`
	}
	if json.Unmarshal(line, &c) != nil || c.Schema == "" {
		return nil
	}
	return checkSchema(c.Schema, CellSchema)
}

// readLine reads one line without its newline; a longer one is consumed and given as empty.
func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	over := false
	for {
		part, err := in.ReadSlice('\n')
		if !over {
			line = append(line, part...)
		}
		if len(line) > limit {
			line, over = nil, true
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		return bytes.TrimRight(line, "\r\n"), err
	}
}

// Unfinished gives the planned cells that have no verdict on disk.
func (r *Run) Unfinished() ([]Planned, error) {
	cells, err := r.Cells()
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, c := range cells {
		has[c.ID()] = true
	}
	var out []Planned
	for _, p := range r.header.Cells {
		if !has[p.ID()] {
			out = append(out, p)
		}
	}
	return out, nil
}

// AllCells is Cells and, without a verdict, those that are unfinished.
func (r *Run) AllCells() ([]Cell, error) {
	cells, err := r.Cells()
	if err != nil {
		return nil, err
	}
	unfinished, err := r.Unfinished()
	if err != nil {
		return nil, err
	}
	for _, p := range unfinished {
		cells = append(cells, NewCell(p, Outcome{Title: "unfinished"}))
	}
	return cells, nil
}

// Find gives a cell by CELL: its id, or as much of its start as is unique. It is a *RefError otherwise.
func (r *Run) Find(ref string) (Cell, error) {
	cells, err := r.AllCells()
	if err != nil {
		return Cell{}, err
	}
	var found []Cell
	for _, c := range cells {
		if c.ID() == ref {
			return c, nil
		}
		if ref != "" && strings.HasPrefix(c.ID(), ref) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Cell{}, &RefError{What: "cell", Ref: ref, Hint: "nestbed show " + r.ID() + " lists them"}
	}
	return Cell{}, &RefError{What: "cell", Ref: ref, Hint: fmt.Sprintf("%d cells start so, among them %s and %s", len(found), found[0].ID(), found[1].ID())}
}

// SaveOutcome writes a cell's outcome into its folder, given by its name relative to the run's.
func (r *Run) SaveOutcome(cellDir string, o Outcome) error {
	o.Schema = OutcomeSchema
	data, err := json.MarshalIndent(o, "", "  ")
	if err == nil && !filepath.IsLocal(cellDir) {
		err = fmt.Errorf("%q leaves the run's folder", cellDir)
	}
	if err == nil {
		err = writeFile(filepath.Join(r.dir, cellDir, OutcomeFile), append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("save outcome: %w", err)
	}
	return nil
}

// Outcome reads what SaveOutcome wrote. A cell that never ran has none: fs.ErrNotExist.
func (r *Run) Outcome(c Cell) (Outcome, error) {
	dir := r.Path(c)
	if dir == "" {
		return Outcome{}, fmt.Errorf("outcome of %s: %w", c.ID(), fs.ErrNotExist)
	}
	f, err := os.Open(filepath.Join(dir, OutcomeFile))
	if err != nil {
		return Outcome{}, fmt.Errorf("outcome of %s: %w", c.ID(), err)
	}
	defer f.Close()
	var o Outcome
	data, err := readBounded(f, maxOutcome)
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	if err == nil {
		err = checkSchema(o.Schema, OutcomeSchema)
	}
	if err != nil {
		return Outcome{}, fmt.Errorf("outcome of %s: %w", c.ID(), err)
	}
	return o, nil
}

// RecordLog appends records to a cell's records.jsonl as they arrive, and a program's output to a file of its
// own besides. It is for one goroutine.
type RecordLog struct {
	f      *os.File
	output *os.File // opened by the first piece
	bytes  int64
}

// NewRecordLog opens dir/records.jsonl.
func NewRecordLog(dir string) (*RecordLog, error) {
	f, err := openAppend(filepath.Join(dir, RecordsFile))
	if err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	return &RecordLog{f: f}, nil
}

// Append writes one record as one line.
func (l *RecordLog) Append(rec record.Record) error {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false) // else a line may outgrow record.MaxLine
	err := enc.Encode(rec)
	if err == nil {
		var n int
		n, err = l.f.Write(line.Bytes())
		l.bytes += int64(n)
	}
	if err == nil && rec.Log != nil && rec.Log.From == record.FromProgram {
		err = l.appendOutput(rec.Log.Text)
	}
	if err != nil {
		return fmt.Errorf("append record %d: %w", rec.Seq, err)
	}
	return nil
}

func (l *RecordLog) appendOutput(text string) (err error) {
	if l.output == nil {
		name := filepath.Join(filepath.Dir(l.f.Name()), OutputFile)
		if l.output, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644); err != nil {
			return err
		}
	}
	_, err = l.output.WriteString(text)
	return err
}

// Bytes is how much Append has written.
func (l *RecordLog) Bytes() int64 { return l.bytes }

// Close ends writing.
func (l *RecordLog) Close() error {
	err := l.f.Close()
	if l.output != nil {
		err = errors.Join(err, l.output.Close())
	}
	return err
}

// ReadRecords reads dir/records.jsonl up to the first line that breaks the stream's rules, which a cut
// last line does too. No file is no records.
func ReadRecords(dir string) ([]record.Record, error) {
	f, err := os.Open(filepath.Join(dir, RecordsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	defer f.Close()
	var out []record.Record
	var stream record.Reader
	lines := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := readLine(lines, record.MaxLine)
		if err != nil && err != io.EOF {
			return out, fmt.Errorf("read records: %w", err)
		}
		if len(line) > 0 {
			rec, bad := stream.Parse(line)
			if bad != nil {
				return out, nil
			}
			out = append(out, rec)
		}
		if err == io.EOF {
			return out, nil
		}
	}
}

// ReadOutput gives the last bytes of dir/output.log, at most so many. No file is no output.
func ReadOutput(dir string, limit int64) (string, error) {
	f, err := os.Open(filepath.Join(dir, OutputFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read output: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		_, err = f.Seek(max(0, info.Size()-limit), io.SeekStart)
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, limit))
	}
	if err != nil {
		return "", fmt.Errorf("read output: %w", err)
	}
	return string(text), nil
}

// checkSchema accepts want and what shares its name and major version, with or without a minor.
func checkSchema(have, want string) error {
	if have == want || strings.HasPrefix(have, want+".") {
		return nil
	}
	name, _, _ := strings.Cut(want, "/1")
	if major, ok := strings.CutPrefix(have, name+"/"); ok {
		if n, err := strconv.Atoi(strings.SplitN(major, ".", 2)[0]); err == nil && n > 1 {
			return fmt.Errorf("schema %q is newer than this nestbed, which reads %q: update nestbed", clip(have), want)
		}
	}
	return fmt.Errorf("schema %q, want %q", clip(have), want)
}

func clip(s string) string { return s[:min(len(s), 64)] }

// writeFile writes by temporary file and rename: a reader sees all of it or nothing.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func readBounded(in io.Reader, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return data, err
}
