package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/snapshot"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// light is the scenario that is measured: it attaches a device in every way that most others begin with.
const light = "attach-group-container"

// BenchmarkIsolated measures what a light scenario in a guest of its own takes, restored against booted, on the stock
// kernel and on base, one at a time and two at once; how far that is from the floor (a restore, a handshake, a
// command, and the agent's own time); and what a guest occupies. It writes bench.json at the top.
func BenchmarkIsolated(b *testing.B) {
	figures := map[string]float64{}
	for _, spec := range []string{stock, built + "base"} {
		name := "stock"
		if spec != stock {
			name = "base"
		}
		cells(b, spec, 1, 1) // saves the guest
		s := spin(b)
		restored := cells(b, spec, 1, repeats)
		booted := cells(b, spec, 1, repeats, "--boot")
		s.report(b)
		figures["isolated_scenario_seconds_"+name] = restored.seconds
		figures["isolated_cpu_seconds_"+name] = restored.cpu
		figures["vs_boot_"+name] = booted.seconds / restored.seconds
		figures["overhead_percent_"+name] = restored.overhead
		floor, private, saved := floor(b, spec)
		figures["floor_seconds_"+name] = floor + restored.agent
		figures["over_floor_"+name] = restored.seconds / (floor + restored.agent)
		figures["guest_private_mb_"+name] = private
		figures["snapshot_mb_"+name] = saved

		one, two := cells(b, spec, 1, 2*repeats), cells(b, spec, 2, 2*repeats)
		figures["j2_over_j1_"+name] = two.rate / one.rate
		figures["cpu_j2_over_j1_"+name] = two.cpu / one.cpu
		figures["scenarios_per_second_j2_"+name] = two.rate
	}
	alone := startSpinner().after(time.Second)
	first, second := startSpinner(), startSpinner()
	figures["two_spinners_over_one"] = (first.after(time.Second) + second.end()) / alone

	if vng, err := exec.LookPath("vng"); err == nil {
		figures["vs_vng"] = median(b, vng) / figures["isolated_scenario_seconds_stock"]
	} else {
		b.Log("vng is not installed: apt-get install virtme-ng")
	}
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		b.Logf("%-36s %8.3f", name, figures[name])
	}
	b.ReportMetric(figures["isolated_scenario_seconds_base"], "isolated-s")
	b.ReportMetric(figures["vs_boot_base"], "vs-boot-base")
	b.ReportMetric(figures["vs_boot_stock"], "vs-boot-stock")
	b.ReportMetric(figures["over_floor_base"], "over-floor")
	b.ReportMetric(0, "ns/op")
	text, err := json.MarshalIndent(figures, "", "  ")
	assert.NilError(b, err)
	assert.NilError(b, os.WriteFile(filepath.Join(root, "bench.json"), append(text, '\n'), 0o644))
}

// after ends the spinner after a while and gives its rounds per second.
func (s *spinner) after(d time.Duration) float64 {
	<-time.After(d)
	return s.end()
}

// measured is a run of equal cells.
type measured struct {
	seconds  float64 // a cell, median
	agent    float64 // of that the agent's, median
	cpu      float64 // a cell, nestbed's own and QEMU's
	overhead float64 // nestbed's own CPU time in percent of QEMU's
	rate     float64 // cells a second
}

// cells runs the light scenario so often. What the command takes to begin and to end is taken off by the time between the
// first cell's begin and the last one's end.
func cells(b *testing.B, spec string, jobs, repeat int, more ...string) measured {
	b.Helper()
	args := append([]string{"run", "--output", b.TempDir(), "-k", spec, "-j", fmt.Sprint(jobs), "--repeat", fmt.Sprint(repeat), "--json", light}, more...)
	cmd := exec.Command(program(b), args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	assert.NilError(b, err, errs.String())
	var took, agent []time.Duration
	var qemu float64
	var begin, end time.Time
	for line := range strings.Lines(string(out)) {
		var c results.Cell
		assert.NilError(b, json.Unmarshal([]byte(line), &c), line)
		assert.Equal(b, c.Verdict, record.Pass, line)
		assert.Equal(b, c.Timing.Restored, len(more) == 0, line)
		d := time.Duration(c.Duration * float64(time.Second))
		took, agent = append(took, d), append(agent, time.Duration(c.Timing.Agent*float64(time.Second)))
		qemu += c.Timing.CPU
		if begin.IsZero() || c.Started.Before(begin) {
			begin = c.Started
		}
		if c.Started.Add(d).After(end) {
			end = c.Started.Add(d)
		}
	}
	assert.Equal(b, len(took), repeat)
	n := float64(repeat)
	state := cmd.ProcessState
	all := (state.UserTime() + state.SystemTime()).Seconds() // its guests' is in it
	return measured{
		seconds: seconds(took), agent: seconds(agent), cpu: all / n,
		overhead: 100 * (all - qemu) / qemu, rate: n / end.Sub(begin).Seconds(),
	}
}

// floor is what a restored guest takes to answer one command, in seconds, what memory it then has for itself, and
// what it occupies on disk, in MB.
func floor(b *testing.B, spec string) (took, private, saved float64) {
	b.Helper()
	init, agent, err := images.Payload()
	assert.NilError(b, err)
	m, err := machine.Named("intel")
	assert.NilError(b, err)
	store := &snapshot.Store{Dir: b.TempDir(), Limit: 1 << 30}
	p := &pool.Pool{BootFiles: b.TempDir(), Init: init, Snapshots: store}
	prepare := &pool.Preparation{
		Files:   []guest.File{{Name: "/bin/agent", Mode: 0o755, Data: agent}},
		Command: []string{"/bin/agent", "prepare", "kvm", "vfio_pci"},
	}
	var all []time.Duration
	for n := range repeats + 1 {
		start := time.Now()
		g, err := p.Get(b.Context(), pool.Spec{Kernel: kernel(b, spec), Machine: m, Dir: b.TempDir(), Prepare: prepare})
		assert.NilError(b, err)
		_, err = g.SSH.Output(b.Context(), "uname")
		assert.NilError(b, err)
		if took := time.Since(start); n > 0 { // the first one is saved
			all = append(all, took)
			private = privateMB(b, g.QEMU.PID())
		}
		assert.Assert(b, g.Restored && g.Prepared)
		assert.NilError(b, g.Close())
	}
	used, err := store.Usage()
	assert.NilError(b, err)
	return seconds(all), private, float64(used) / (1 << 20) / 2 // of two tiers
}

// privateMB is the memory that nobody shares with a process.
func privateMB(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	assert.NilError(b, err)
	sum := 0
	for line := range strings.Lines(string(text)) {
		var kb int
		if _, rest, ok := strings.Cut(line, "Private_"); ok {
			_, rest, _ = strings.Cut(rest, ":")
			_, err := fmt.Sscan(rest, &kb)
			assert.NilError(b, err)
			sum += kb
		}
	}
	return float64(sum) / 1024
}

// median is what vng takes to run true on the stock kernel, in seconds.
func median(b *testing.B, vng string) float64 {
	b.Helper()
	k := kernel(b, stock)
	var took []time.Duration
	for range 3 {
		start := time.Now()
		out, err := exec.Command(vng, "--disable-kvm", "-r", k.Vmlinuz(), "--", "true").CombinedOutput()
		assert.NilError(b, err, string(out))
		took = append(took, time.Since(start))
	}
	return seconds(took)
}
