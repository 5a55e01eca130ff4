package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/results/record"
)

// A restored guest differs from one that has booted in nothing that a verdict can see: verdicts, each claim with
// what was wanted and seen, every reference count at rest, and of every device its id and configuration space. The
// scenarios here are some of each kind: references, DMA and faults, interrupts, hot-plug, nested guests, crashes.
func TestRestoredIsLikeBooted(t *testing.T) {
	bothWays(t, "debian:6.12", "attach-group-container", "attach-refcount-trace", "iommu-dma-after-unmap", "irq-msix-cycle",
		"hotplug-readd-same-bdf@acpi", "reset-flr", "l2-device-irq", unloadBug)
}

// The whole tier, on three kernels.
func TestRestoredIsLikeBootedEverywhere(t *testing.T) {
	if os.Getenv("NESTBED_ALL") == "" {
		t.Skip("make test-all runs the tier both ways on three kernels, for an hour")
	}
	for _, k := range []string{"debian:6.1", "debian:6.12", "debian:trixie-backports/7.3"} {
		t.Run(k, func(t *testing.T) { bothWays(t, k) })
	}
}

func bothWays(t *testing.T, kernel string, scenarios ...string) {
	t.Helper()
	crashed := map[string]bool{} // by folder
	run := func(more ...string) (string, map[string]string) {
		dir := t.TempDir()
		args := append(append([]string{"--no-known", "-k", kernel, "--output", dir}, more...), scenarios...)
		_, cells := suite(t, args...)
		verdicts := map[string]string{}
		for _, c := range cells {
			verdicts[c.ID()] = string(c.Verdict)
			if c.Verdict == record.Crash { // what such a kernel reports first, and what the agent still tells, is chance
				crashed[c.Dir] = true
				continue
			}
			verdicts[c.ID()] += "; " + c.Title
		}
		runs, err := os.ReadDir(dir)
		assert.NilError(t, err)
		assert.Equal(t, len(runs), 1)
		return filepath.Join(dir, runs[0].Name()), verdicts
	}
	restoredDir, restored := run()
	bootedDir, booted := run("--boot")
	assert.DeepEqual(t, restored, booted)
	folders, err := os.ReadDir(bootedDir)
	assert.NilError(t, err)
	compared := 0
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		a, b := story(t, filepath.Join(restoredDir, f.Name())), story(t, filepath.Join(bootedDir, f.Name()))
		if !crashed[f.Name()] {
			assert.Check(t, cmp.DeepEqual(a, b), f.Name())
		}
		assert.Check(t, wasRestored(t, filepath.Join(restoredDir, f.Name())), "%s was not restored", f.Name())
		assert.Check(t, !wasRestored(t, filepath.Join(bootedDir, f.Name())), "%s was restored", f.Name())
		compared++
	}
	assert.Assert(t, compared > 0)
}

// physical are addresses of the guest's memory in claims, which are anywhere.
var physical = regexp.MustCompile(`(0x\)\?)[0-9a-f]+`)

// story is what a cell's agent told, without its times.
func story(t *testing.T, dir string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "records.jsonl"))
	assert.NilError(t, err)
	var reader record.Reader
	for line := range bytes.Lines(text) {
		r, err := reader.Parse(bytes.TrimSuffix(line, []byte("\n")))
		assert.NilError(t, err)
		var part any
		switch {
		case r.Check != nil:
			part = r.Check
		case r.Step != nil:
			part = r.Step
		case r.Call != nil:
			part = r.Call
		case r.Skip != nil:
			part = r.Skip
		case r.Log != nil && (strings.HasPrefix(r.Log.Text, "at rest: ") || strings.Contains(r.Log.Text, "config space")):
			part = r.Log
		default:
			continue
		}
		text, err := json.Marshal(part)
		assert.NilError(t, err)
		lines = append(lines, fmt.Sprintf("%s %s", r.Kind, physical.ReplaceAll(text, []byte("${1}N"))))
	}
	return lines
}

// wasRestored tells by QEMU's arguments.
func wasRestored(t *testing.T, dir string) bool {
	t.Helper()
	args, err := os.ReadFile(filepath.Join(dir, "qemu.args"))
	assert.NilError(t, err)
	return strings.Contains(string(args), "\n-incoming\n")
}
