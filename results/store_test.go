package results

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/nestbed/nestbed/results/record"
)

var plan = []Planned{
	{Scenario: "attach-group-container", Kernel: "6.12.117+deb12-amd64", KernelSpec: "debian:6.12", KernelHash: "ab12", Machine: "intel", Accelerator: "tcg"},
	{Scenario: "attach-cdev", Variant: "iommufd", Kernel: "6.12.117+deb12-amd64", KernelSpec: "debian:6.12", KernelHash: "ab12", Machine: "amd", Accelerator: "tcg"},
	{Scenario: "l2-runs", Kernel: "6.12.117+deb12-amd64", KernelSpec: "debian:6.12", KernelHash: "ab12", Machine: "intel", Accelerator: "tcg", Repeat: 2},
}

func header() Header {
	return Header{
		Started: time.Date(2026, 11, 22, 15, 10, 0, 0, time.UTC), Args: []string{"nestbed", "run"}, Version: "1", Catalogue: "c0ffee",
		Host: Host{Name: "here", Kernel: "6.1", CPU: "a CPU", CPUs: 2, MemoryMB: 4096}, QEMU: "7.2.19", Accelerator: "tcg",
		Kernels: []Kernel{{Spec: "debian:6.12", Release: "6.12.117+deb12-amd64", Hash: "ab12"}}, Cells: plan,
		Skips:      []Skip{{Planned: Planned{Scenario: "attach-x", Kernel: "6.1", Machine: "none"}, Reason: "no IOMMU", Remedy: "-m intel"}},
		NotCovered: []string{"SVM only, emulated"},
	}
}

func create(t *testing.T, root string) *Run {
	t.Helper()
	r, err := Create(root, header())
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, r.Close()) })
	return r
}

func verdict(p Planned, v record.Verdict) Cell {
	c := NewCell(p, Outcome{Verdict: v, Title: "t <&> \u2028 \x1b", Reason: "r", Step: "s", Check: &record.Check{Claim: "c"}})
	c.Attempts, c.Started, c.Duration = 1, time.Date(2026, 11, 22, 15, 10, 5, 0, time.UTC), 1.5
	return c
}

func TestIDs(t *testing.T) {
	assert.Equal(t, plan[0].ID(), "attach-group-container/6.12.117+deb12-amd64/intel")
	assert.Equal(t, plan[1].ID(), "attach-cdev@iommufd/6.12.117+deb12-amd64/amd")
	assert.Equal(t, plan[2].ID(), "l2-runs/6.12.117+deb12-amd64/intel#2")
	assert.Equal(t, verdict(plan[2], record.Pass).ID(), plan[2].ID())
}

func TestRunRoundTrip(t *testing.T) {
	root := filepath.Join(t.TempDir(), "not", "yet")
	r := create(t, root)
	assert.Assert(t, len(r.ID()) == len("20261122-151000-abcd") && strings.HasPrefix(r.ID(), "20261122-151000-"))

	left, err := r.Unfinished()
	assert.NilError(t, err)
	assert.DeepEqual(t, left, plan)

	dir, err := r.CellDir(plan[0], 1)
	assert.NilError(t, err)
	c := verdict(plan[0], record.Crash)
	c.Dir = dir
	o := Judge(Input{Records: script("step:a", "no:x"), Reports: []record.Report{warn}, Exit: fine})
	assert.NilError(t, r.SaveOutcome(dir, o))
	assert.NilError(t, r.Append(c))
	assert.NilError(t, r.Append(verdict(plan[2], record.Pass)))
	assert.ErrorContains(t, r.Append(verdict(plan[1], record.Invalid)), "no verdict")

	for _, ref := range []string{r.ID(), r.ID()[:17], "last", r.Dir(), r.Dir() + "/"} {
		got, err := Open(root, ref)
		assert.NilError(t, err, ref)
		assert.Equal(t, got.ID(), r.ID())
		assert.DeepEqual(t, got.Header().Cells, plan)
		cells, err := got.Cells()
		assert.NilError(t, err)
		assert.Equal(t, len(cells), 3)
		assert.Equal(t, cells[0].Verdict, record.Skip)
		assert.Equal(t, cells[0].Remedy, "-m intel")
		c.Schema = CellSchema
		assert.DeepEqual(t, cells[1], c)
		left, err := got.Unfinished()
		assert.NilError(t, err)
		assert.DeepEqual(t, left, plan[1:2])
		back, err := got.Outcome(cells[1])
		assert.NilError(t, err)
		assert.DeepEqual(t, back, o)
		_, err = got.Outcome(cells[2])
		assert.Assert(t, errors.Is(err, fs.ErrNotExist))
	}
	_, err = os.Stat(filepath.Join(r.Dir(), ".tmp"))
	assert.Assert(t, errors.Is(err, fs.ErrNotExist))
	entries, err := os.ReadDir(r.Dir())
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 3, "run.json, cells.jsonl, one cell: no leftovers")
}

// Runs that start at once in one folder have a folder of their own each.
func TestManyRunsOfOneMoment(t *testing.T) {
	root := t.TempDir()
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			run, err := Create(root, header())
			if !assert.Check(t, err) {
				return
			}
			for i, p := range run.Header().Cells {
				_, err := run.CellDir(p, 1)
				assert.Check(t, err, "%d", i)
				assert.Check(t, run.Append(verdict(p, record.Pass)))
			}
			assert.Check(t, run.Close())
		})
	}
	wg.Wait()
	runs, err := Runs(root)
	assert.NilError(t, err)
	assert.Equal(t, len(runs), 40)
	for _, r := range runs {
		left, err := r.Unfinished()
		assert.NilError(t, err)
		assert.Equal(t, len(left), 0)
	}
}

func TestOpenSaysWhatToType(t *testing.T) {
	root := t.TempDir()
	want := func(ref, text string) {
		t.Helper()
		_, err := Open(root, ref)
		var bad *RefError
		assert.Assert(t, errors.As(err, &bad), "%v", err)
		assert.ErrorContains(t, err, text)
	}
	want("last", "nestbed run makes one")
	want("x", "nestbed run makes one")
	create(t, root)
	create(t, root)
	want("2026", "2 runs start so")
	want("1999", "nestbed list runs shows them")
	want("", "nestbed list runs shows them")
	want("./nowhere", "holds no run.json")

	r, err := Open(root, "last")
	assert.NilError(t, err)
	_, err = r.Find("attach")
	assert.ErrorContains(t, err, "start so, among them attach-")
	_, err = r.Find("zzz")
	assert.ErrorContains(t, err, "nestbed show "+r.ID())
	c, err := r.Find("l2")
	assert.NilError(t, err)
	assert.Equal(t, c.ID(), plan[2].ID())
	assert.Equal(t, c.Verdict, record.Invalid)
	c, err = r.Find("attach-x")
	assert.NilError(t, err)
	assert.Equal(t, c.Verdict, record.Skip)
}

func TestLastOfOneSecondIsTheNewest(t *testing.T) {
	root := t.TempDir()
	h := header()
	var want string
	for i := range 8 {
		h.Started = time.Date(2026, 11, 22, 15, 10, 0, i*1000, time.UTC)
		r, err := Create(root, h)
		assert.NilError(t, err)
		want = r.ID()
	}
	r, err := Open(root, "last")
	assert.NilError(t, err)
	assert.Equal(t, r.ID(), want)

	runs, err := Runs(root)
	assert.NilError(t, err)
	assert.Equal(t, len(runs), 8)
	assert.Equal(t, runs[7].ID(), want)
	none, err := Runs(filepath.Join(root, "none"))
	assert.NilError(t, err)
	assert.Equal(t, len(none), 0)
}

// A killed writer leaves half a line; the next one must not continue it.
func TestACutLineLosesOnlyItself(t *testing.T) {
	root := t.TempDir()
	r := create(t, root)
	assert.NilError(t, r.Append(verdict(plan[0], record.Pass)))
	assert.NilError(t, r.Close())
	file := filepath.Join(r.Dir(), CellsFile)
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	for cut := 1; cut < len(data)-1; cut += 7 {
		assert.NilError(t, os.WriteFile(file, append(data[:len(data):len(data)], data[:cut]...), 0o644))
		cells, err := r.Cells()
		assert.NilError(t, err)
		assert.Equal(t, len(cells), 2, "cut at %d", cut)

		again, err := Open(root, r.ID())
		assert.NilError(t, err)
		assert.NilError(t, again.Append(verdict(plan[1], record.Fail)))
		assert.NilError(t, again.Close())
		cells, err = again.Cells()
		assert.NilError(t, err)
		assert.Equal(t, len(cells), 3, "cut at %d", cut)
		assert.Equal(t, cells[2].Verdict, record.Fail)
	}
}

func TestAppendFromManyGoroutinesAndWriters(t *testing.T) {
	root := t.TempDir()
	a := create(t, root)
	b, err := Open(root, a.ID())
	assert.NilError(t, err)
	defer b.Close()
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			p := plan[0]
			p.Repeat = n + 1
			r := a
			if n%2 == 0 {
				r = b
			}
			assert.Check(t, r.Append(verdict(p, record.Pass)))
		})
	}
	all.Wait()
	cells, err := a.Cells()
	assert.NilError(t, err)
	assert.Equal(t, len(cells), 51)
}

func TestCellDirs(t *testing.T) {
	r := create(t, t.TempDir())
	first, err := r.CellDir(plan[2], 1)
	assert.NilError(t, err)
	assert.Equal(t, first, "l2-runs_6.12.117+deb12-amd64_intel#2")
	second, err := r.CellDir(plan[2], 2)
	assert.NilError(t, err)
	assert.Equal(t, second, first+".attempt2")
	_, err = r.CellDir(plan[2], 1)
	assert.ErrorContains(t, err, "create cell")

	seen := map[string]bool{}
	for _, kernel := range []string{"../../etc", "a/b", "a_b", "a b", "a\x00b", "\x1b[2J", strings.Repeat("long", 100), strings.Repeat("long", 101), ".hidden", "ä"} {
		for _, scenario := range []string{"s", "../s", "."} {
			dir, err := r.CellDir(Planned{Scenario: scenario, Kernel: kernel, Machine: "intel"}, 1)
			assert.NilError(t, err, kernel)
			assert.Assert(t, filepath.IsLocal(dir) && !strings.Contains(dir, "/") && len(dir) < 150 && !seen[dir], dir)
			seen[dir] = true
		}
	}
	assert.Equal(t, r.Path(Cell{Dir: "../x"}), "")
	assert.ErrorContains(t, r.SaveOutcome("../x", Outcome{}), "leaves the run's folder")
}

func TestRecordLog(t *testing.T) {
	dir := t.TempDir()
	none, err := ReadRecords(dir)
	assert.NilError(t, err)
	assert.Equal(t, len(none), 0)

	recs := script("step:a", "ok:x", "no:x\u2028", "done")
	angles := strings.Repeat("<", 8<<10) // six times as long as \u003c, and the line longer than a record may be
	recs[2].Check.Claim, recs[2].Check.Got = angles, angles
	for i := range recs {
		recs[i].Seq = i + 1
	}
	l, err := NewRecordLog(dir)
	assert.NilError(t, err)
	for _, r := range recs {
		assert.NilError(t, l.Append(r))
	}
	assert.NilError(t, l.Close())
	got, err := ReadRecords(dir)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, recs)

	file := filepath.Join(dir, RecordsFile)
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(file, data[:len(data)-9], 0o644))
	got, err = ReadRecords(dir)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, recs[:len(recs)-1])
}

// The files of version 1, as they were first written: they must stay readable.
func TestVersion1(t *testing.T) {
	r, err := Open("testdata", "./testdata/v1")
	assert.NilError(t, err)
	assert.Equal(t, r.ID(), "20261122-151000-abcd")
	cells, err := r.Cells()
	assert.NilError(t, err)
	left, err := r.Unfinished()
	assert.NilError(t, err)
	var b strings.Builder
	for _, c := range cells {
		fmt.Fprintf(&b, "%s %s %q %q %s %.1f %s\n", c.ID(), c.Verdict, c.Title, c.Known, c.Started.Format(time.RFC3339), c.Duration, c.Dir)
	}
	fmt.Fprintf(&b, "left %v\n", left)
	o, err := r.Outcome(cells[1])
	assert.NilError(t, err)
	text, err := json.MarshalIndent(o, "", " ")
	assert.NilError(t, err)
	fmt.Fprintf(&b, "%s\n", text)
	golden.Assert(t, b.String(), "v1.golden")
}

func TestSchemas(t *testing.T) {
	for have, want := range map[string]string{
		"nestbed/run/1": "", "nestbed/run/1.7": "", "nestbed/run/2": "newer than this nestbed", "nestbed/run/10": "newer than this nestbed",
		"nestbed/run/0": "want", "nestbed/cell/1": "want", "": "want", "nestbed/run/": "want", "nestbed/run/x": "want",
	} {
		err := checkSchema(have, RunSchema)
		assert.Check(t, (err == nil) == (want == "") && (err == nil || strings.Contains(err.Error(), want)), "%q: %v", have, err)
	}

	root := t.TempDir()
	r := create(t, root)
	file := filepath.Join(r.Dir(), RunFile)
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	change := func(old, new string) error {
		assert.NilError(t, os.WriteFile(file, []byte(strings.Replace(string(data), old, new, 1)), 0o644))
		_, err := Open(root, r.ID())
		return err
	}
	assert.NilError(t, change(`"id"`, `"unknown_field": [1], "id"`))
	assert.ErrorContains(t, change("nestbed/run/1", "nestbed/run/2"), "update nestbed")
	assert.ErrorContains(t, change("{", "["), RunFile)

	newer := `{"schema":"nestbed/cell/2","scenario":{"name":"x"},"verdict":"pass"}` + "\n"
	_, err = ReadCells(strings.NewReader(newer))
	assert.ErrorContains(t, err, "newer than this nestbed")
}

// The design's number: 100,000 cells from 100 runs in half a second.
func BenchmarkReadCells(b *testing.B) {
	var lines strings.Builder
	for range 1000 {
		line, err := json.Marshal(verdict(plan[0], record.Pass))
		assert.NilError(b, err)
		lines.Write(append(line, '\n'))
	}
	text := lines.String()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := ReadCells(strings.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReadCells(f *testing.F) {
	line, err := json.Marshal(verdict(plan[1], record.Known))
	assert.NilError(f, err)
	line = []byte(strings.Replace(string(line), `"schema":""`, `"schema":"`+CellSchema+`"`, 1))
	f.Add(append(line, '\n'))
	f.Add(append(append(line, '\n'), line[:len(line)/2]...))
	f.Add([]byte(`{"schema":"nestbed/cell/2"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cells, err := ReadCells(strings.NewReader(string(data)))
		for _, c := range cells {
			assert.Assert(t, c.Verdict != record.Invalid && checkSchema(c.Schema, CellSchema) == nil)
		}
		if err != nil {
			return
		}
		// A line cut behind a whole file takes nothing away from it.
		whole := string(data)
		if whole != "" && !strings.HasSuffix(whole, "\n") {
			whole += "\n"
		}
		again, err := ReadCells(strings.NewReader(whole + `{"schema":"nestbed/ce`))
		assert.NilError(t, err)
		assert.Equal(t, len(again), len(cells))
	})
}

// Names of runs sort as the runs began, also of the two that a clock on the wall dates alike.
func TestRunIDIsUTC(t *testing.T) {
	berlin := func(offset int) *time.Location { return time.FixedZone("", offset*3600) }
	summer := newID(time.Date(2026, 10, 25, 2, 59, 59, 0, berlin(2)))
	winter := newID(time.Date(2026, 10, 25, 2, 0, 1, 0, berlin(1)))
	assert.Equal(t, summer[:15], "20261025-005959")
	assert.Equal(t, winter[:15], "20261025-010001")
	assert.Assert(t, summer < winter)
}
