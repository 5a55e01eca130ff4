package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

var started = time.Date(2026, 11, 22, 15, 10, 0, 0, time.UTC)

func planned(scenario string) results.Planned {
	return results.Planned{
		Scenario: scenario, Kernel: "6.12.117+deb12-amd64", KernelSpec: "debian:6.12", KernelHash: "abc", Machine: "intel", Accelerator: "tcg",
	}
}

// evil is what a guest may try.
const evil = "\x1b[2J\x1b]0;pwned\a\u202e\xff\r\nnext line"

func crashed() results.Outcome {
	head := []string{
		"BUG kvm_vcpu (Not tainted): Objects remaining on __kmem_cache_shutdown()",
		"CPU: 0 UID: 0 PID: 1 Comm: init Tainted: G    B              6.12.117+deb12-amd64 #1  Debian 6.12.117-1~deb12u1 and more",
		"Call Trace:",
		" kvm_exit+0x7a/0xa0 [kvm]",
		" svm_exit+0x9/0x10 [kvm_amd]",
	}
	return results.Judge(results.Input{
		Records: []record.Record{
			{Seq: 1, Kind: record.KindHello, Hello: &record.Hello{Schema: record.Schema}},
			{Seq: 2, Kind: record.KindStep, Step: &record.Step{Text: "close the VM, keep the device"}},
			{Seq: 3, Kind: record.KindCheck, Check: &record.Check{
				Claim: "unload while VFIO holds the VM", Op: "delete_module kvm_amd", Want: "EWOULDBLOCK", Got: "success",
				Site: "unload_vendor_while_vfio_holds_kvm.go:31",
			}},
		},
		Reports: []record.Report{{
			Title: "BUG: Objects remaining in kvm_vcpu on __kmem_cache_shutdown()", Class: record.ClassBug, Signature: "bb5f44702ae28a64",
			Line: 408, EndLine: 454, Head: head,
			Followers: []record.Report{
				{Title: "WARNING in kvm_exit", Class: record.ClassWarn, Line: 455, EndLine: 494, Signature: "x"},
				{Title: "BUG: unable to handle kernel NULL pointer dereference in simple_recursive_removal", Class: record.ClassOops, Fatal: true, Line: 684, EndLine: 739, Signature: "y"},
			},
		}},
		Exit: results.Exit{Booted: true, BootProven: true, AgentLost: true},
	})
}

// example is a run on disk with one cell of each kind.
func example(t *testing.T) (*results.Run, Summary) {
	t.Helper()
	names := []string{"attach-group-container", "unload-vendor-while-vfio-holds-kvm", "detach-sigkill-owner", "iommu-dma-after-unmap", "l2-runs", "detach-file-del-bound", "unload-kvm-while-vfio-holds-kvm", "attach-add-before-vs-after-open"}
	h := results.Header{
		Started: started, Args: []string{"nestbed", "run"}, Kernels: []results.Kernel{{Spec: "debian:6.12", Release: "6.12.117+deb12-amd64"}},
		Skips: []results.Skip{{Planned: planned("attach-cdev-iommufd"), Reason: "the kernel has no CONFIG_IOMMUFD", Remedy: "a kernel with CONFIG_IOMMUFD=m, such as one of your own build"}},
	}
	for _, n := range names {
		h.Cells = append(h.Cells, planned(n))
	}
	run, err := results.Create(t.TempDir(), h)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, run.Close()) })

	known := crashed()
	known.Verdict, known.Was, known.Known = record.Known, record.Crash, "L1"
	known.Reason = "crash, known as L1: the vendor module does not wait for VFIO"
	outcomes := map[string]results.Outcome{
		names[0]: {Verdict: record.Pass, Checks: 9},
		names[1]: crashed(),
		names[2]: {Verdict: record.Hang, Title: "silent after \"" + evil + "\"", Reason: "the kernel never reached userspace; another one boots on this machine"},
		names[3]: {Verdict: record.Fail, Title: "no DMA arrives after unmap", Step: "unmap, then DMA", Reason: "want unchanged, got 0xdeadbeef (iommu_dma_after_unmap.go:40); 2 of 9 claims are false",
			Check: &record.Check{Claim: "no DMA arrives after unmap", Want: "unchanged", Got: evil + "0xdeadbeef", Site: "iommu_dma_after_unmap.go:40"}, Checks: 9, Failed: 2},
		names[4]: {Verdict: record.Error, Title: "QEMU ended early", Reason: "killed by SIGKILL"},
		names[5]: {Verdict: record.Pass, Reason: "reported, as declared: WARNING in " + evil},
		names[6]: known,
	}
	for i, n := range names {
		o, ok := outcomes[n]
		if !ok {
			continue // unfinished
		}
		dir, err := run.CellDir(planned(n), 1)
		assert.NilError(t, err)
		assert.NilError(t, run.SaveOutcome(dir, o))
		assert.NilError(t, os.WriteFile(filepath.Join(run.Dir(), dir, results.ConsoleFile), nil, 0o600))
		c := results.NewCell(planned(n), o)
		c.Attempts, c.Duration, c.Dir, c.Started = 1, 5.25+float64(i)*20, dir, started
		if c.Verdict == record.Error {
			c.Attempts, c.Retried = 2, "QEMU ended early"
		}
		assert.NilError(t, run.Append(c))
	}
	cells, err := run.Cells()
	assert.NilError(t, err)
	left, err := run.Unfinished()
	assert.NilError(t, err)
	return run, Summary{
		RunID: "20261122-151000-abcd", Cells: cells, Unfinished: left, Elapsed: 83 * time.Second,
		NotCovered: []string{"SVM only, emulated", "no VMX, no posted interrupts, no real DMA ordering"},
		Passes:     []results.UnexpectedPass{{Cell: results.NewCell(planned("l2-runs"), results.Outcome{}), Known: "L9"}},
	}
}

// sane holds for everything that is written: harmless, and as wide as a terminal.
func sane(t *testing.T, out string) {
	t.Helper()
	assert.Assert(t, utf8.ValidString(out))
	for line := range strings.SplitSeq(out, "\n") {
		for _, c := range line {
			assert.Assert(t, c == ' ' || unicode.IsPrint(c), "%q", line)
		}
		if !strings.HasPrefix(line, "files ") && !strings.HasPrefix(line, "again ") {
			assert.Assert(t, utf8.RuneCountInString(line) < 100, "%d columns: %s", utf8.RuneCountInString(line), line)
		}
		assert.Assert(t, !strings.HasSuffix(line, " "), "%q", line)
	}
}

func TestTable(t *testing.T) {
	_, s := example(t)
	var out bytes.Buffer
	assert.NilError(t, Table(&out, s))
	sane(t, out.String())
	golden.Assert(t, out.String(), "table.golden")
	order := []string{"crash ", "hang ", "fail ", "error ", "unfinished ", "known ", "skip ", "pass "}
	at := 0
	for _, v := range order {
		i := strings.Index(out.String()[at:], "\n"+v)
		assert.Assert(t, i >= 0, "%s is not below the one before", v)
		at += i
	}
}

func TestTableOfNothing(t *testing.T) {
	var out bytes.Buffer
	assert.NilError(t, Table(&out, Summary{}))
	assert.Assert(t, strings.Contains(out.String(), "0 cells"))
}

func TestDetail(t *testing.T) {
	run, s := example(t)
	for _, c := range s.Cells {
		t.Run(c.Scenario, func(t *testing.T) {
			var out bytes.Buffer
			assert.NilError(t, Detail(&out, run, c))
			sane(t, out.String())
			assert.Assert(t, strings.Contains(out.String(), "\nagain       nestbed run "+c.Scenario+" -k debian:6.12 -m intel\n"))
			golden.Assert(t, strings.ReplaceAll(out.String(), run.Dir(), "/runs/20261122-151000-abcd"), "detail-"+c.Scenario+".golden")
		})
	}
}

func TestDetailWithoutAFolder(t *testing.T) {
	run, s := example(t)
	var out bytes.Buffer
	assert.NilError(t, Detail(&out, run, results.NewCell(s.Unfinished[0], results.Outcome{})))
	sane(t, out.String())
	assert.Assert(t, strings.HasPrefix(out.String(), "unfinished  attach-add-before-vs-after-open/6.12.117+deb12-amd64/intel\n"), out.String())

	for _, c := range s.Cells {
		if c.Verdict == record.Crash {
			assert.NilError(t, os.WriteFile(filepath.Join(run.Path(c), results.OutcomeFile), []byte("{"), 0o644))
			out.Reset()
			assert.NilError(t, Detail(&out, run, c))
			assert.Assert(t, strings.Contains(out.String(), "\noutcome     outcome of unload-vendor"), out.String())
		}
	}
}

func TestJSON(t *testing.T) {
	run, s := example(t)
	for _, c := range s.Cells {
		var out bytes.Buffer
		assert.NilError(t, JSON(&out, run, c))
		assert.Equal(t, strings.Count(out.String(), "\n"), 1)
		assert.Assert(t, !strings.ContainsFunc(out.String(), func(c rune) bool { return c < ' ' && c != '\n' }))
		var got map[string]any
		assert.NilError(t, json.Unmarshal(out.Bytes(), &got))
		for _, key := range []string{"schema", "scenario", "variant", "kernel", "kernel_spec", "kernel_hash", "machine", "accelerator", "verdict", "title", "signature", "reason", "attempts", "started", "duration_s", "dir"} {
			_, ok := got[key]
			assert.Check(t, ok, "no %s", key)
		}
		if c.Verdict != record.Skip {
			assert.Assert(t, filepath.IsAbs(got["dir"].(string)))
		}
	}
}

// What is missing is said, and the rest is shown.
func TestDetailNamesWhatIsMissing(t *testing.T) {
	run, s := example(t)
	for _, c := range s.Cells {
		if c.Verdict != record.Hang {
			continue
		}
		for _, step := range []struct{ remove, want string }{
			{"/" + results.ConsoleFile, "missing     console.log\n"},
			{"/" + results.OutcomeFile, "missing     outcome.json, console.log\n"},
			{"", "missing     the whole folder\n"},
		} {
			assert.NilError(t, os.RemoveAll(run.Path(c)+step.remove))
			var out bytes.Buffer
			assert.NilError(t, Detail(&out, run, c))
			sane(t, out.String())
			assert.Check(t, cmp.Contains(out.String(), step.want))
			assert.Check(t, cmp.Contains(out.String(), "never reached userspace"))
		}
	}
	damage, err := run.Damage()
	assert.NilError(t, err)
	s.Damage = append(damage, "evil "+evil)
	var out bytes.Buffer
	assert.NilError(t, Table(&out, s))
	sane(t, out.String())
	assert.Check(t, cmp.Contains(out.String(), "damaged: files of 1 cell are missing, among them detach-sigkill-owner/"))
}

func TestDetailShowsTheConsolesEnd(t *testing.T) {
	run, s := example(t)
	c := s.Cells[1]
	assert.NilError(t, run.SaveOutcome(c.Dir, results.Outcome{Verdict: record.Hang, Tail: []string{"first", evil, strings.Repeat("x", 300)}}))
	var out bytes.Buffer
	assert.NilError(t, Detail(&out, run, c))
	sane(t, out.String())
	assert.Check(t, cmp.Contains(out.String(), "console     console.log, its end\n  first\n  "))
}

func TestEscapeJSON(t *testing.T) {
	for _, s := range []string{evil, "\x7f \u009b2J \u202e \U000e0001 \xff é 日本", "plain"} {
		data, err := json.Marshal(s)
		assert.NilError(t, err)
		safe := EscapeJSON(data)
		sane(t, string(safe))
		var before, after string
		assert.NilError(t, json.Unmarshal(data, &before))
		assert.NilError(t, json.Unmarshal(safe, &after))
		assert.Equal(t, after, before)
	}
}

func TestRuns(t *testing.T) {
	run, _ := example(t)
	var out bytes.Buffer
	assert.NilError(t, Runs(&out, []*results.Run{run}))
	sane(t, out.String())
	assert.Assert(t, strings.HasPrefix(out.String(), "RUN "), out.String())
	assert.Assert(t, strings.Contains(out.String(), run.ID()))
	assert.Assert(t, strings.Contains(out.String(), "1 crash, 1 hang, 1 fail"))
	assert.Assert(t, strings.Contains(out.String(), "debian:6.12"))
	out.Reset()
	assert.NilError(t, Runs(&out, nil))
	assert.Equal(t, out.String(), "no runs yet; nestbed run makes one\n")
}

func TestAgainOfAScenario(t *testing.T) {
	p := planned("attach-x")
	p.Variant = "iommufd"
	assert.Equal(t, Again(results.Header{}, p), "nestbed run attach-x@iommufd -k debian:6.12 -m intel")
	p.KernelSpec = "/tmp/my kernels/it's"
	assert.Equal(t, Again(results.Header{}, p), `nestbed run attach-x@iommufd -k '/tmp/my kernels/it'\''s' -m intel`)
	p.KernelSpec = "$(reboot)\x1b[2J"
	assert.Equal(t, Again(results.Header{}, p), `nestbed run attach-x@iommufd -k '$(reboot)\x1b[2J' -m intel`)
	p.KernelSpec = ""
	assert.Equal(t, Again(results.Header{}, p), "nestbed run attach-x@iommufd -k 6.12.117+deb12-amd64 -m intel")
	h := results.Header{QEMUBinary: "/opt/qemu 10/bin/qemu-system-x86_64"}
	assert.Equal(t, Again(h, p), "nestbed run attach-x@iommufd -k 6.12.117+deb12-amd64 -m intel --qemu '/opt/qemu 10/bin/qemu-system-x86_64'")
}

func TestEscape(t *testing.T) {
	assert.Equal(t, Escape(evil), `\x1b[2J\x1b]0;pwned\x07\u202e\xff\x0d next line`)
	assert.Equal(t, Escape("plain — 漢字"), "plain — 漢字")
	assert.Equal(t, EscapeLines("a\x1b\nb\n\nc"), "a\\x1b\nb\n\nc")
}

func FuzzEscape(f *testing.F) {
	f.Add(evil)
	f.Fuzz(func(t *testing.T, s string) {
		for _, line := range append(wrap(s, 40), fit(s, 40), Escape(s)) {
			for _, c := range line {
				assert.Assert(t, c == ' ' || unicode.IsPrint(c), "%q", line)
			}
		}
		assert.Assert(t, len(wrap(s, 40)) <= 3)
	})
}

func TestProgressPlain(t *testing.T) {
	_, s := example(t)
	var out bytes.Buffer
	p := NewProgress(&out, ProgressOptions{Total: 12, Workers: 2})
	for i, c := range s.Cells {
		p.Begin(i%2, c.ID())
		p.Phase(i%2, "boot "+evil)
		p.End(i%2, c)
	}
	p.Close()
	p.End(0, s.Cells[0])
	p.Close()
	sane(t, strings.TrimSuffix(out.String(), "\n"))
	golden.Assert(t, out.String(), "progress.golden")
}

// Live progress ends, leaves the finished lines, and nothing of a guest gets through it raw.
func TestProgressLive(t *testing.T) {
	_, s := example(t)
	var out lockedBuffer
	p := NewProgress(&out, ProgressOptions{Live: true, Total: 100, Workers: 2})
	var all sync.WaitGroup
	for w := range 2 {
		all.Go(func() {
			for i := range 20 {
				c := s.Cells[(i+w)%len(s.Cells)]
				p.Begin(w, c.ID())
				p.Phase(w, "step "+evil)
				p.End(w, c)
			}
		})
	}
	all.Wait()
	p.Phase(7, "no such worker")
	p.Close()
	p.Close()
	p.End(0, s.Cells[0])
	text := out.String()
	assert.Equal(t, strings.Count(text, "/100] "), 40, "none after Close")
	assert.Assert(t, !strings.Contains(text, "\x1b]0") && !strings.Contains(text, "\u202e") && !strings.Contains(text, "\a"))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no reader") }

func TestABrokenWriterIsAnErrorOfTheTableAndNotOfProgress(t *testing.T) {
	run, s := example(t)
	assert.ErrorContains(t, Table(brokenWriter{}, s), "no reader")
	assert.ErrorContains(t, Detail(brokenWriter{}, run, s.Cells[0]), "no reader")
	p := NewProgress(brokenWriter{}, ProgressOptions{Total: 1})
	p.End(0, s.Cells[0])
	p.Close()
}
