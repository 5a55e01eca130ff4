package results

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results/record"
)

// l1 is what harness/console makes of the unload bug's log on a stock kernel.
func l1() Outcome {
	r := func(title string, line int, fatal bool, class record.Class, frames ...string) record.Report {
		out := record.Report{Title: title, Line: line, Fatal: fatal, Class: class}
		for _, f := range frames {
			name, module, _ := strings.Cut(f, " ")
			out.Frames, out.Modules = append(out.Frames, name), append(out.Modules, module)
		}
		return out
	}
	reports := []record.Report{
		r("BUG: Objects remaining in kvm_vcpu on __kmem_cache_shutdown()", 408, false, record.ClassBug, "__kmem_cache_shutdown", "kmem_cache_destroy", "kvm_exit kvm", "svm_exit kvm_amd", "__do_sys_delete_module"),
		r("WARNING in kvm_exit", 455, false, record.ClassWarn, "kmem_cache_destroy", "kvm_exit kvm", "svm_exit kvm_amd", "__do_sys_delete_module"),
		r("BUG: Objects remaining in x86_emulator on __kmem_cache_shutdown()", 598, false, record.ClassBug, "kmem_cache_destroy", "kvm_x86_vendor_exit kvm", "__do_sys_delete_module"),
		r("WARNING in kvm_mmu_vendor_module_exit", 558, false, record.ClassWarn, "kmem_cache_destroy", "kvm_mmu_vendor_module_exit kvm", "kvm_x86_vendor_exit kvm"),
		r("BUG: unable to handle kernel NULL pointer dereference in simple_recursive_removal", 684, true, record.ClassOops, "down_write", "simple_recursive_removal", "debugfs_remove", "kvm_destroy_vm_debugfs kvm", "kvm_destroy_vm kvm", "vfio_device_put_kvm vfio"),
		r("BUG: unable to handle kernel paging request", 863, true, record.ClassOops, "oops_end"),
	}
	return Judge(Input{Records: script("step:unload", "no:unload while VFIO holds the VM"), Reports: reports, Exit: exit(func(x *Exit) { x.AgentLost = true })})
}

func cellOf(scenario, kernel string) Planned {
	return Planned{Scenario: scenario, Kernel: kernel, Machine: "intel"}
}

// withVCPU is the same bug of a VM that has a vCPU and memory: rmmod itself then finds objects in the
// caches. No scenario has such a VM yet, so the file that ships does not excuse it.
const withVCPU = `
  - id: kvm-vendor-unpinned
    scenario: unload-vendor-while-vfio-holds-kvm
    kernels: ">=6.7 <7.4"
    verdict: crash
    title: "BUG: Objects remaining in kvm_vcpu on __kmem_cache_shutdown()"
    frames: [kvm_exit, svm_exit]
    also:
      - title: '/BUG: Objects remaining in (kvm_mmu_page_header|pte_list_desc|x86_emulator) on __kmem_cache_shutdown\(\)/'
        frames: [kvm_x86_vendor_exit]
      - title: WARNING in kvm_exit
        frames: [kvm_exit, svm_exit]
      - title: /WARNING in kvm_(mmu|x86)_vendor_(module_)?exit/
        frames: [kvm_x86_vendor_exit]
      - title: '/BUG: unable to handle kernel NULL pointer dereference in (__)?simple_recursive_removal/'
        frames: [kvm_destroy_vm_debugfs, kvm_destroy_vm, vfio_device_put_kvm]
    why: As above; the caches of the VM's objects went with the module.
`

func TestShippedKnownExplainsTheUnloadBug(t *testing.T) {
	ships, err := ShippedKnown()
	assert.NilError(t, err)
	assert.Equal(t, ships.Explain(cellOf("unload-vendor-while-vfio-holds-kvm", "6.12.117+deb12-amd64"), l1()).Verdict, record.Crash)
	known, err := ParseKnown("known.yaml", append(slices.Clone(shipped), withVCPU...))
	assert.NilError(t, err)
	assert.Assert(t, known.Len() > 0)
	const scenario = "unload-vendor-while-vfio-holds-kvm"

	o := known.Explain(cellOf(scenario, "6.12.117+deb12-amd64"), l1())
	assert.Equal(t, o.Verdict, record.Known, o.Reason)
	assert.Equal(t, o.Known, "kvm-vendor-unpinned")
	assert.Equal(t, o.Was, record.Crash)
	assert.Assert(t, strings.HasPrefix(o.Reason, "crash, known as kvm-vendor-unpinned: "))
	assert.Equal(t, o.Title, l1().Title)

	// A VM without a vCPU leaves nothing in the caches: only closing the device is seen.
	short := l1()
	short = Judge(Input{Records: script("step:close"), Reports: short.Reports[4:], Exit: exit(func(x *Exit) { x.AgentLost = true })})
	for _, release := range []string{"6.12.117+deb12-amd64", "7.3.4+deb13-amd64"} {
		got := known.Explain(cellOf(scenario, release), short)
		assert.Equal(t, got.Known, "kvm-vendor-unpinned")
	}
	// Where VFIO or KVM is built in, its frames name no module.
	for n := range short.Reports[0].Modules {
		whole := short.Reports[0].Modules[n]
		short.Reports[0].Modules[n] = ""
		assert.Equal(t, known.Explain(cellOf(scenario, "6.12.117-vfio-y"), short).Known, "kvm-vendor-unpinned", "frame %d", n)
		short.Reports[0].Modules[n] = whole
	}
	short.Reports[0].Frames[5] = "kvm_vm_release"
	assert.Equal(t, known.Explain(cellOf(scenario, "6.12.117"), short).Verdict, record.Crash, "another way to the same title")

	for name, change := range map[string]func(*Planned, *Outcome){
		"another scenario":    func(p *Planned, _ *Outcome) { p.Scenario = "l2-runs" },
		"a kernel before it":  func(p *Planned, _ *Outcome) { p.Kernel = "6.6.30-amd64" },
		"a fixed kernel":      func(p *Planned, _ *Outcome) { p.Kernel = "7.4.0-rc1" },
		"not a release":       func(p *Planned, _ *Outcome) { p.Kernel = "next" },
		"another title":       func(_ *Planned, o *Outcome) { o.Title = "WARNING in kvm_exit" },
		"other frames":        func(_ *Planned, o *Outcome) { o.Reports[0].Frames[2] = "kvm_other" },
		"no frames":           func(_ *Planned, o *Outcome) { o.Reports[0].Frames, o.Reports[0].Modules = nil, nil },
		"another report":      func(_ *Planned, o *Outcome) { o.Reports[1].Title = "KASAN: slab-use-after-free Read in kvm_exit" },
		"another oops at end": func(_ *Planned, o *Outcome) { o.Reports[4].Frames[3] = "vfio_something" },
		"another verdict":     func(_ *Planned, o *Outcome) { o.Verdict = record.Hang },
	} {
		p, o := cellOf(scenario, "6.12.117+deb12-amd64"), l1()
		change(&p, &o)
		got := known.Explain(p, o)
		assert.Check(t, got.Verdict == o.Verdict, "%s is explained", name)
	}
	// What a dead kernel prints is a consequence, whatever it is.
	o = l1()
	o.Reports[5].Title = "anything"
	assert.Equal(t, known.Explain(cellOf(scenario, "7.3.4+deb13-amd64"), o).Verdict, record.Known)
}

// A false claim is known by its words, which are the scenario's.
func TestShippedKnownExplainsTheDoubleBind(t *testing.T) {
	known, err := ShippedKnown()
	assert.NilError(t, err)
	claims := 0
	for _, issue := range known.issues {
		if issue.verdict != record.Fail {
			continue
		}
		claims++
		text, err := os.ReadFile(filepath.Join("../scenarios", strings.ReplaceAll(issue.Scenario, "-", "_")+".go"))
		assert.NilError(t, err)
		assert.Check(t, strings.Contains(string(text), `"`+issue.Title+`"`), "%s does not claim %q", issue.Scenario, issue.Title)

		fails := func(claim string, reports ...record.Report) Outcome {
			return Judge(Input{Records: script("step:close", "no:"+claim, "inv:references of kvm are back", "done"), Reports: reports, Exit: fine})
		}
		o := known.Explain(cellOf(issue.Scenario, "6.12.117-base"), fails(issue.Title))
		assert.Check(t, o.Verdict == record.Known && o.Known == "vfio-cdev-double-bind" && o.Was == record.Fail, "%v %q", o.Verdict, o.Title)
		warn := record.Report{Title: "WARNING in kvm_put_kvm", Class: record.ClassWarn, Frames: []string{"kvm_put_kvm"}, Modules: []string{"kvm"}}
		for what, o := range map[string]Outcome{
			"another claim":      known.Explain(cellOf(issue.Scenario, "6.12.117-base"), fails("the VM lives on")),
			"another scenario":   known.Explain(cellOf("attach-cdev-iommufd", "6.12.117-base"), fails(issue.Title)),
			"a kernel before it": known.Explain(cellOf(issue.Scenario, "6.5.9"), fails(issue.Title)),
			"a kernel after it":  known.Explain(cellOf(issue.Scenario, "7.4.0-rc1"), fails(issue.Title)),
			"a report with it":   known.Explain(cellOf(issue.Scenario, "6.12.117-base"), fails(issue.Title, warn)),
		} {
			assert.Check(t, o.Verdict != record.Known, "%s is explained", what)
		}
	}
	assert.Equal(t, claims, 2)
}

const smallKnown = `schema: nestbed/known/1
issues:
  - id: X1
    scenario: "unload-*"
    variant: io*
    kernels: ">=6.7 <7.4"
    machine: intel
    verdict: fail
    title: /references .* baseline/
    why: the reason
`

func TestKnownFields(t *testing.T) {
	known, err := ParseKnown("x.yaml", []byte(smallKnown))
	assert.NilError(t, err)
	p := Planned{Scenario: "unload-a", Variant: "iommufd", Kernel: "6.12.1", Machine: "intel"}
	o := Outcome{Verdict: record.Fail, Title: "references back at the baseline"}
	assert.Equal(t, known.Explain(p, o).Verdict, record.Known)
	for name, change := range map[string]func(*Planned, *Outcome){
		"machine":           func(p *Planned, _ *Outcome) { p.Machine = "amd" },
		"variant":           func(p *Planned, _ *Outcome) { p.Variant = "" },
		"part of the title": func(_ *Planned, o *Outcome) { o.Title += " and more" },
		"pass":              func(_ *Planned, o *Outcome) { o.Verdict = record.Pass },
		"a report besides":  func(_ *Planned, o *Outcome) { o.Reports = []record.Report{warn} },
	} {
		p, o := p, o
		change(&p, &o)
		assert.Check(t, known.Explain(p, o).Known == "", name)
	}
	cells := []Cell{NewCell(p, Outcome{Verdict: record.Pass}), NewCell(p, o), NewCell(cellOf("l2-runs", "6.12"), Outcome{Verdict: record.Pass})}
	passes := known.UnexpectedPasses(cells)
	assert.Equal(t, len(passes), 1)
	assert.Equal(t, passes[0].Known, "X1")
	assert.Equal(t, Known{}.Explain(p, o).Verdict, record.Fail)
}

func TestKnownErrorsShowWhere(t *testing.T) {
	line := func(old, new string) string { return strings.Replace(smallKnown, old, new, 1) }
	for name, c := range map[string]struct{ text, want string }{
		"unknown field": {line("    why:", "    whence: x\n    why:"), `whence`},
		"caret":         {line("    why:", "    whence: x\n    why:"), "^"},
		"written over":  {line("    why:", "    id: X2\n    why:"), "already defined"},
		"wrong type":    {line("id: X1", "id: [1]"), "^"},
		"not YAML":      {"{", "known issues x.yaml"},
		"no why":        {line("why: the reason", `why: " "`), `issue 1 ("X1"): no why`},
		"bad range":     {line(">=6.7 <7.4", "6.7"), `"6.7" starts with none of < <= = >= >`},
		"bad version":   {line(">=6.7 <7.4", ">=six"), `"six" is not a version`},
		"bad verdict":   {line("verdict: fail", "verdict: green"), `unknown verdict "green"`},
		"green verdict": {line("verdict: fail", "verdict: pass"), "only fail, crash and hang"},
		"bad regexp":    {line("/references .* baseline/", "/(/"), "missing closing"},
		"half a regexp": {line("/references .* baseline/", "/references"), "between two slashes"},
		"bad pattern":   {line(`"unload-*"`, `"["`), "syntax error in pattern"},
		"no frames":     {line("verdict: fail", "verdict: crash"), "a crash is not known by its title alone"},
		"newer":         {line("known/1", "known/2"), "newer than this nestbed"},
		"other schema":  {line("known/1", "run/1"), `want "nestbed/known/1"`},
		"twice":         {smallKnown + strings.TrimPrefix(smallKnown, "schema: nestbed/known/1\nissues:\n"), `issue 2 ("X1"): written twice`},
		"empty":         {"", `schema ""`},
	} {
		_, err := ParseKnown("x.yaml", []byte(c.text))
		var bad *KnownError
		assert.Check(t, errors.As(err, &bad), name)
		assert.Check(t, err != nil && strings.Contains(err.Error(), c.want), "%s: %v", name, err)
	}
}

func TestLoadKnown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.yaml")
	_, err := LoadKnown(file)
	assert.Assert(t, errors.Is(err, os.ErrNotExist))
	assert.NilError(t, os.WriteFile(file, []byte(smallKnown), 0o644))
	known, err := LoadKnown(file)
	assert.NilError(t, err)
	assert.Equal(t, known.Len(), 1)
}

func TestKernelRange(t *testing.T) {
	for _, c := range []struct {
		text, release string
		want          bool
	}{
		{">=6.7 <7.4", "6.12.117+deb12-amd64", true},
		{">=6.7 <7.4", "7.3.4+deb13-amd64", true},
		{">=6.7 <7.4", "6.6.99", false},
		{">=6.7 <7.4", "7.4.0-rc1", false},
		{">=6.7", "6.7-rc5", true},
		{"<=6.12", "6.12.117", true},
		{">6.12", "6.12.117", false},
		{"=6.12", "6.12.117", true},
		{"=6.12.117", "6.12.118", false},
		{">=6.12.3", "6.12", false},
		{">=6", "10.0.1", true},
		{"<6.2", "6.10.1", false},
		{"=6.12", "next-20261122", false},
		{"=6.12", "", false},
		{">=5.10 <=5.10", "5.10.0-32-amd64", true},
	} {
		r, err := parseRange(c.text)
		assert.NilError(t, err)
		assert.Check(t, r.holds(c.release) == c.want, "%s of %s", c.text, c.release)
	}
}

func FuzzKnown(f *testing.F) {
	f.Add([]byte(smallKnown), "6.12.117")
	f.Add(shipped, "7.3")
	f.Add([]byte("schema: nestbed/known/1\nissues: [{id: &a x, scenario: *a}]"), "")
	f.Fuzz(func(t *testing.T, data []byte, release string) {
		if len(data) > 1<<14 {
			return
		}
		known, err := ParseKnown("x.yaml", data)
		if err != nil {
			var bad *KnownError
			assert.Assert(t, errors.As(err, &bad))
			return
		}
		o := known.Explain(cellOf("unload-vendor-while-vfio-holds-kvm", release), l1())
		assert.Assert(t, o.Verdict == record.Crash || o.Verdict == record.Known && o.Known != "")
	})
}
