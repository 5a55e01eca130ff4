package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// perform runs nestbed exec --json and gives its cells and their tally.
func perform(t *testing.T, args ...string) (int, []results.Cell, results.Tally) {
	t.Helper()
	status, stdout, stderr := finish(t, nestbed(t, append([]string{"exec", "--json", "-k", "debian:6.12"}, args...)...))
	t.Log(stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var tally results.Tally
	assert.NilError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &tally), stdout)
	assert.Equal(t, tally.Schema, results.TallySchema)
	var cells []results.Cell
	for _, line := range lines[:len(lines)-1] {
		var c results.Cell
		assert.NilError(t, json.Unmarshal([]byte(line), &c), line)
		t.Logf("%-5s %s: %s %s", c.Verdict, c.ID(), c.Title, c.Reason)
		cells = append(cells, c)
	}
	return status, cells, tally
}

// falseClaims are those of the cell's records.
func falseClaims(t *testing.T, c results.Cell) []string {
	t.Helper()
	records, err := results.ReadRecords(c.Dir)
	assert.NilError(t, err)
	var claims []string
	for _, r := range records {
		if r.Check != nil && !r.Check.OK {
			claims = append(claims, r.Check.Claim)
		}
	}
	return claims
}

// A C program written from the bug's description reproduces it every time, and what it wrote before the
// kernel died under it is there.
func TestExecReproducer(t *testing.T) {
	status, cells, tally := perform(t, "--repeat", "2", "--expect", "simple_recursive_removal", "--", "testdata/l1.c")
	assert.Check(t, cmp.Equal(status, 0))
	assert.Check(t, tally.Hits == 2 && tally.Runs == 2 && tally.Undecided == 0, "%+v", tally)
	assert.Equal(t, len(cells), 2)
	for _, c := range cells {
		assert.Check(t, cmp.Equal(c.Verdict, record.Crash))
		assert.Check(t, cmp.Equal(c.Name(), "exec@l1"))
		output, err := results.ReadOutput(c.Dir, 4096)
		assert.NilError(t, err)
		assert.Check(t, strings.HasSuffix(output, "delete_module kvm_amd: success\n"), output)
	}

	run := filepath.Dir(cells[0].Dir)
	status, shown, _ := finish(t, nestbed(t, "show", run))
	assert.Check(t, cmp.Equal(status, 0), "show ends as the run did")
	assert.Check(t, cmp.Contains(shown, "reproduced 2 of 2: 100%, 95% confidence interval 34% to 100%"))
	_, shown, _ = finish(t, nestbed(t, "show", run, cells[0].ID()))
	assert.Check(t, cmp.Contains(shown, "nestbed exec -k debian:6.12 -m intel --device edu --timeout 1m --expect simple_recursive_removal -- /"))
}

// A bad exit status is the one false claim, although the program leaves a daemon behind that keeps a VM open.
func TestExecExitStatus(t *testing.T) {
	status, cells, tally := perform(t, "--", "testdata/modes.c", "exit", "3")
	assert.Check(t, cmp.Equal(status, 1))
	assert.Equal(t, len(cells), 1)
	assert.Check(t, cmp.Equal(cells[0].Verdict, record.Fail))
	assert.Check(t, cmp.Contains(cells[0].Reason, "want exit status 0, got exit status 3"))
	assert.Check(t, cmp.DeepEqual(falseClaims(t, cells[0]), []string{"the program exits with status 0"}))
	assert.Check(t, cmp.Equal(tally.Hits, 1))
	output, err := os.ReadFile(filepath.Join(cells[0].Dir, results.OutputFile))
	assert.NilError(t, err)
	assert.Check(t, cmp.Equal(string(output), "mode exit: \x1b[31mdevice 0000:01:00.0\x1b[0m\nthis is stderr\n"))

	// None of it reaches a terminal.
	_, shown, _ := finish(t, nestbed(t, "show", filepath.Dir(cells[0].Dir), cells[0].ID()))
	assert.Check(t, cmp.Contains(shown, `\x1b[31mdevice 0000:01:00.0`))
	assert.Check(t, cmp.Contains(shown, "exit status 3 after"))
}

func TestExecTimeLimit(t *testing.T) {
	status, cells, _ := perform(t, "--timeout", "2s", "--", "testdata/modes.c", "flood")
	assert.Check(t, cmp.Equal(status, 1))
	assert.Equal(t, len(cells), 1)
	assert.Check(t, cmp.Equal(cells[0].Verdict, record.Fail))
	assert.Check(t, cmp.Contains(cells[0].Reason, "no end within 2s"))
	assert.Check(t, cmp.DeepEqual(falseClaims(t, cells[0]), []string{"the program ends within 2s"}))
	info, err := os.Stat(filepath.Join(cells[0].Dir, results.OutputFile))
	assert.NilError(t, err)
	assert.Check(t, info.Size() > 100<<10 && info.Size() < 300<<10, "%d bytes are kept", info.Size())
}

func TestExecRefusesADynamicProgram(t *testing.T) {
	dynamic := filepath.Join(t.TempDir(), "dynamic")
	out, err := exec.Command("cc", "-o", dynamic, "testdata/modes.c").CombinedOutput()
	assert.NilError(t, err, string(out))
	status, _, stderr := finish(t, nestbed(t, "exec", "--", dynamic))
	assert.Check(t, cmp.Equal(status, 2))
	assert.Check(t, cmp.Contains(stderr, "dynamically linked"))
	assert.Check(t, cmp.Contains(stderr, "-static"))
}

// A script runs in the guest, which has no shell of its own, by the static busybox that is taken along; its
// environment, arguments and exit status are a program's.
func TestExecScript(t *testing.T) {
	status, cells, _ := perform(t, "--", "testdata/group.sh", "is there", "7")
	assert.Check(t, cmp.Equal(status, 1))
	assert.Equal(t, len(cells), 1)
	assert.Check(t, cmp.Equal(cells[0].Name(), "exec@group"))
	assert.Check(t, cmp.Equal(cells[0].Verdict, record.Fail))
	assert.Check(t, cmp.Contains(cells[0].Reason, "want exit status 0, got exit status 7"))
	output, err := os.ReadFile(filepath.Join(cells[0].Dir, results.OutputFile))
	assert.NilError(t, err)
	assert.Check(t, cmp.Equal(string(output), "device 0000:01:00.0, 1 of them, edu\ngroup is there\n"))
}
