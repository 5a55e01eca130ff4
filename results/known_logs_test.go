package results

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/console"
	"github.com/nestbed/nestbed/results/record"
)

// knownLogs are console logs of cells that known.yaml explains, cut to the reports.
var knownLogs = map[string]struct{ scenario, variant, kernel, known string }{
	"mapped-bar-debian-6.12.117.log":          {"unload-vendor-single-fd-matrix", "bar", "6.12.117+deb12-amd64", "kvm-vendor-unpinned"},
	"stats-fd-debian-6.12.117.log":            {"unload-vendor-stats-fd", "", "6.12.117+deb12-amd64", "kvm-vendor-unpinned-stats"},
	"stats-fd-debian-6.12.117-uevent.log":     {"unload-vendor-stats-fd", "", "6.12.117+deb12-amd64", "kvm-vendor-unpinned-stats"},
	"stats-fd-debian-6.12.117-uevent-env.log": {"unload-vendor-stats-fd", "", "6.12.117+deb12-amd64", "kvm-vendor-unpinned-stats"},
	"stats-fd-debian-6.12.117-amd-gpf.log":    {"unload-vendor-stats-fd", "", "6.12.117+deb12-amd64", "kvm-vendor-unpinned-stats"},
	"stats-fd-debian-7.2.12.log":              {"unload-vendor-stats-fd", "", "7.2.12+deb13-amd64", "kvm-vendor-unpinned-stats"},
	"stats-fd-debian-7.3.4.log":               {"unload-vendor-stats-fd", "", "7.3.4+deb13-amd64", "kvm-vendor-unpinned-stats"},
	"debugfs-file-debian-6.12.117.log":        {"unload-vendor-debugfs-file", "", "6.12.117+deb12-amd64", "kvm-vendor-unpinned-debugfs"},
	"debugfs-file-debian-7.2.12.log":          {"unload-vendor-debugfs-file", "", "7.2.12+deb13-amd64", "kvm-vendor-unpinned-debugfs"},
	"pciehp-reset-lock-6.12.117-lockdep.log":  {"hotplug-del-open", "pciehp", "6.12.117-lockdep", "pciehp-reset-lock"},
	"debugfs-file-debian-7.3.4.log":           {"unload-vendor-debugfs-file", "", "7.3.4+deb13-amd64", "kvm-vendor-unpinned-debugfs"},
}

// outcome judges a log of a guest that did not answer any more.
func outcome(t *testing.T, log string) Outcome {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/known", log))
	assert.NilError(t, err)
	return Judge(Input{Records: script("step:close"), Reports: console.Parse(text), Exit: exit(func(x *Exit) { x.AgentLost = true })})
}

func TestShippedKnownExplainsRealLogs(t *testing.T) {
	known, err := ShippedKnown()
	assert.NilError(t, err)
	files, err := os.ReadDir("testdata/known")
	assert.NilError(t, err)
	assert.Equal(t, len(files), len(knownLogs), "each log has its entry")
	for name, c := range knownLogs {
		cell := cellOf(c.scenario, c.kernel)
		cell.Variant = c.variant
		o := known.Explain(cell, outcome(t, name))
		assert.Check(t, o.Verdict == record.Known && o.Known == c.known, "%s: %v %q", name, o.Verdict, o.Title)

		// No entry excuses the same log of another scenario, or of a kernel without the bug.
		for other, d := range knownLogs {
			cell.Scenario, cell.Variant = d.scenario, d.variant
			o := known.Explain(cell, outcome(t, name))
			assert.Check(t, (o.Verdict == record.Known) == (d.known == c.known), "%s as %s", name, other)
		}
		cell = cellOf(c.scenario, "6.1.0-56-amd64")
		cell.Variant = c.variant
		assert.Equal(t, known.Explain(cell, outcome(t, name)).Verdict, record.Crash)
	}
}

// A further report that is known by its title alone has no frames; with frames it is another bug.
func TestKnownReportWithoutFrames(t *testing.T) {
	known, err := ShippedKnown()
	assert.NilError(t, err)
	o := outcome(t, "debugfs-file-debian-6.12.117.log")
	assert.Equal(t, len(o.Reports), 2)
	cell := cellOf("unload-vendor-debugfs-file", "6.12.117+deb12-amd64")
	assert.Equal(t, known.Explain(cell, o).Verdict, record.Known)
	o.Reports[1].Frames, o.Reports[1].Modules = []string{"kvm_mmu_zap_all"}, []string{"kvm"}
	assert.Equal(t, known.Explain(cell, o).Verdict, record.Crash)
}

// The memory of /dev/kvm's device may hold something else when the VM's end is announced. Only the statistics'
// log shows it; the other ways to the same function differ in the caller.
func TestShippedKnownExplainsTheUeventOfEveryCaller(t *testing.T) {
	known, err := ShippedKnown()
	assert.NilError(t, err)
	for _, c := range []struct{ scenario, variant, caller, known string }{
		{"unload-vendor-while-vfio-holds-kvm", "", "vfio_device_put_kvm", "kvm-vendor-unpinned"},
		{"unload-vendor-single-fd-matrix", "bar", "vfio_device_put_kvm", "kvm-vendor-unpinned"},
		{"unload-vendor-stats-fd", "", "kvm_vm_stats_release", "kvm-vendor-unpinned-stats"},
	} {
		o := outcome(t, "stats-fd-debian-6.12.117-uevent.log")
		cell := cellOf(c.scenario, "6.12.117+deb12-amd64")
		cell.Variant = c.variant
		for n := range o.Reports {
			i := slices.Index(o.Reports[n].Frames, "kvm_vm_stats_release")
			assert.Assert(t, i > 0)
			o.Reports[n].Frames[i] = c.caller
		}
		assert.Equal(t, known.Explain(cell, o).Known, c.known, c.scenario)
		o.Reports[0].Frames = slices.Delete(o.Reports[0].Frames, 3, 4)
		o.Reports[0].Modules = slices.Delete(o.Reports[0].Modules, 3, 4)
		assert.Equal(t, known.Explain(cell, o).Verdict, record.Crash, "not from the announcement")
	}
}

// RCU may say that it saw no progress before the bug shows. The fatal report behind it still decides what the
// crash is, and only that: a stall alone, or before a report that ended nothing, is explained by no entry.
func TestKnownBehindStall(t *testing.T) {
	known, err := ShippedKnown()
	assert.NilError(t, err)
	stall, err := os.ReadFile("../harness/console/testdata/classes/rcu-stall.log")
	assert.NilError(t, err)
	log, err := os.ReadFile("testdata/known/stats-fd-debian-6.12.117.log")
	assert.NilError(t, err)
	reports := console.Parse(slices.Concat(stall, []byte("\n"), log))
	cell := cellOf("unload-vendor-stats-fd", "6.12.117+deb12-amd64")
	judge := func(reports []record.Report) Outcome {
		in := Input{Records: script("step:close"), Reports: reports, Exit: exit(func(x *Exit) { x.AgentLost = true })}
		return known.Explain(cell, Judge(in))
	}
	o := judge(reports)
	assert.Assert(t, stalled(o.Reports[0]), o.Reports[0].Title)
	assert.Equal(t, o.Known, "kvm-vendor-unpinned-stats", "%s; %s", o.Title, o.Reason)
	assert.Equal(t, o.Signature, outcome(t, "stats-fd-debian-6.12.117.log").Signature)

	flat := Flatten(reports)
	assert.Equal(t, judge(flat[:1]).Verdict, record.Crash, "the stall alone")
	for i := range flat {
		flat[i].Fatal = false
	}
	assert.Equal(t, judge(flat).Verdict, record.Crash, "nothing ended the kernel")
	cell.Scenario = "unload-type1-container"
	assert.Equal(t, judge(reports).Verdict, record.Crash, "another scenario")
}
