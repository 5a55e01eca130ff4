package results

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// The files of a run may have been cut, or come from somebody else: reading them ends with words or with what
// they hold, and leads nowhere outside the run's folder.
func FuzzRunFolder(f *testing.F) {
	h := header()
	h.Schema, h.ID = RunSchema, "20261122-151000-abcd"
	run, err := json.Marshal(h)
	assert.NilError(f, err)
	cell := verdict(plan[1], 1)
	cell.Schema, cell.Dir = CellSchema, "../../etc"
	cells, err := json.Marshal(cell)
	assert.NilError(f, err)
	record := []byte(`{"seq":1,"t":0,"kind":"hello","hello":{"schema":"nestbed/record/1","scenario":"s","catalogue":"c","kernel":"6.12","machine":"x86_64","pid":7}}`)
	f.Add(run, cells, []byte(`{"schema":"nestbed/outcome/1","verdict":"pass"}`), record)
	f.Add(run[:len(run)/2], cells, []byte("{"), record[:20])
	f.Add([]byte(`{"schema":"nestbed/run/2"}`), []byte("\n{}\n\xff"), []byte("null"), []byte("\n\n"))
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, run, cells, outcome, records []byte) {
		dir := filepath.Join(root, "20261122-151000-abcd")
		folder := filepath.Join(dir, folder(plan[1]))
		assert.NilError(t, os.MkdirAll(folder, 0o700))
		for name, data := range map[string][]byte{
			filepath.Join(dir, RunFile): run, filepath.Join(dir, CellsFile): cells,
			filepath.Join(folder, OutcomeFile): outcome, filepath.Join(folder, RecordsFile): records,
		} {
			assert.NilError(t, os.WriteFile(name, data, 0o600))
		}
		_, err := ReadRecords(folder)
		assert.NilError(t, err, "a cut record ends the list")
		r, err := openDir(dir)
		if err != nil {
			return
		}
		all, err := r.Cells()
		if err != nil {
			return
		}
		for _, c := range all {
			if at := r.Path(c); at != "" {
				rel, err := filepath.Rel(dir, at)
				assert.NilError(t, err)
				assert.Assert(t, filepath.IsLocal(rel), "%q", c.Dir)
			}
			_, _ = r.Outcome(c)
			_ = r.Gone(c)
		}
		_, err = r.Damage()
		assert.NilError(t, err)
		_, _ = r.Find("x")
	})
}
