package results

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/results/record"
)

// finished is a run whose cells all have a verdict and their files.
func finished(t *testing.T, root string) *Run {
	t.Helper()
	run := create(t, root)
	for _, p := range run.Header().Cells {
		dir, err := run.CellDir(p, 1)
		assert.NilError(t, err)
		assert.NilError(t, run.SaveOutcome(dir, Outcome{Verdict: record.Pass}))
		assert.NilError(t, os.WriteFile(filepath.Join(run.Dir(), dir, ConsoleFile), nil, 0o600))
		c := verdict(p, record.Pass)
		c.Dir = dir
		assert.NilError(t, run.Append(c))
	}
	return run
}

func TestDamageIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		hurt func(t *testing.T, run *Run, cells string)
		want []string
	}{
		"nothing": {func(*testing.T, *Run, string) {}, nil},
		"no verdicts": {func(t *testing.T, _ *Run, cells string) { assert.NilError(t, os.Remove(cells)) },
			[]string{"has a verdict in ", "none in cells.jsonl"}},
		"cut line": {func(t *testing.T, _ *Run, cells string) {
			info, err := os.Stat(cells)
			assert.NilError(t, err)
			assert.NilError(t, os.Truncate(cells, info.Size()-20))
		}, []string{"1 line of cells.jsonl cannot be read", "none in cells.jsonl"}},
		"garbage": {func(t *testing.T, _ *Run, cells string) {
			f, err := os.OpenFile(cells, os.O_APPEND|os.O_WRONLY, 0)
			assert.NilError(t, err)
			_, err = f.WriteString("\x00\xff\n{}\n" + strings.Repeat("x", 100) + "\n")
			assert.NilError(t, err)
			assert.NilError(t, f.Close())
		}, []string{"3 lines of cells.jsonl cannot be read"}},
		"no console": {func(t *testing.T, run *Run, _ string) {
			assert.NilError(t, os.Remove(filepath.Join(run.Dir(), folder(run.Header().Cells[0]), ConsoleFile)))
		}, []string{"files of 1 cell are missing, among them "}},
	} {
		t.Run(name, func(t *testing.T) {
			run := finished(t, t.TempDir())
			c.hurt(t, run, filepath.Join(run.Dir(), CellsFile))
			damage, err := run.Damage()
			assert.NilError(t, err)
			text := strings.Join(damage, "\n")
			assert.Equal(t, text == "", len(c.want) == 0, text)
			for _, want := range c.want {
				assert.Check(t, is.Contains(text, want))
			}
		})
	}
}

// A run that was ended before its first verdict is unfinished and not damaged.
func TestUnfinishedIsNoDamage(t *testing.T) {
	damage, err := create(t, t.TempDir()).Damage()
	assert.NilError(t, err)
	assert.Equal(t, len(damage), 0)
}

func TestUnreadableRunsAreNamed(t *testing.T) {
	root := t.TempDir()
	none, cut, whole := create(t, root), create(t, root), create(t, root)
	assert.NilError(t, os.Remove(filepath.Join(none.Dir(), RunFile)))
	assert.NilError(t, os.Truncate(filepath.Join(cut.Dir(), RunFile), 30))
	runs, err := Runs(root)
	assert.NilError(t, err)
	assert.Equal(t, len(runs), 1)
	assert.Equal(t, runs[0].ID(), whole.ID())
	unreadable, err := Unreadable(root)
	assert.NilError(t, err)
	var text string
	for _, u := range unreadable {
		text += u.Error() + "\n"
	}
	assert.Equal(t, len(unreadable), 2, text)
	assert.Check(t, is.Contains(text, none.ID()+`": the folder holds no run.json`))
	assert.Check(t, is.Contains(text, cut.ID()+": run.json is damaged, the plan is lost"))
}
