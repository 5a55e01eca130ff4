package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/snapshot"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/images/control"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"

	_ "github.com/nestbed/nestbed/scenarios"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// payload builds the guest's programs, once.
var payload = sync.OnceValues(func() (p struct{ init, agent []byte }, err error) {
	dir, err := os.MkdirTemp("", "nestbed-payload-")
	if err != nil {
		return p, err
	}
	defer os.RemoveAll(dir)
	if err := images.BuildPayload(context.Background(), "../..", dir); err != nil {
		return p, err
	}
	p.init, p.agent, err = images.ReadPayload(os.DirFS(dir), ".")
	return p, err
})

// fault is a progress that hurts the guest as soon as its agent has announced its first step.
type fault struct {
	*pool.Pool
	t     *testing.T
	hurt  func(*testing.T, *pool.Guest)
	times int    // how many guests are hurt
	agent []byte // nil: ours

	mu    sync.Mutex
	guest *pool.Guest
}

func (f *fault) Get(ctx context.Context, s pool.Spec) (*pool.Guest, error) {
	g, err := f.Pool.Get(ctx, s)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.guest = g
	return g, err
}

func (f *fault) Begin(int, string)     {}
func (f *fault) End(int, results.Cell) {}
func (f *fault) Phase(_ int, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if text == "boot" || f.guest == nil || f.times == 0 {
		return
	}
	f.times--
	f.hurt(f.t, f.guest)
	f.guest = nil
}

// agentPID asks the guest for the process that runs the scenario.
func agentPID(t *testing.T, g *pool.Guest) string {
	t.Helper()
	out, err := g.SSH.Output(t.Context(), "ps")
	assert.NilError(t, err)
	for line := range strings.Lines(out) {
		if strings.Contains(line, AgentPath+" run") {
			return strings.Fields(line)[0]
		}
	}
	t.Fatalf("no agent among the guest's processes:\n%s", out)
	return ""
}

func signalAgent(signal string) func(*testing.T, *pool.Guest) {
	return func(t *testing.T, g *pool.Guest) {
		_, err := g.SSH.Output(t.Context(), "kill -"+signal+" "+agentPID(t, g))
		assert.NilError(t, err)
	}
}

func killQEMU(t *testing.T, g *pool.Guest) { assert.NilError(t, unix.Kill(g.QEMU.PID(), unix.SIGKILL)) }

// Whatever dies in the middle of a cell has a verdict and words of its own.
func TestFaultsInACell(t *testing.T) {
	for _, c := range []struct {
		name     string
		hurt     func(*testing.T, *pool.Guest)
		times    int
		verdict  record.Verdict
		says     string
		attempts int
	}{
		{"nothing", func(*testing.T, *pool.Guest) {}, 1, record.Pass, "", 1},
		{"agent killed", signalAgent("KILL"), 1, record.Hang, "agent killed by SIGKILL in step", 1},
		{"agent stopped", signalAgent("STOP"), 1, record.Hang, "no progress in step", 1},
		{"ssh lost", func(t *testing.T, g *pool.Guest) {
			assert.NilError(t, g.QEMU.Conn(control.PortSSH).Close())
		}, 1, record.Hang, "connection to the guest lost in step", 1},
		{"QEMU killed twice", killQEMU, 2, record.Error, "QEMU ended early", 2},
		{"QEMU killed once", killQEMU, 1, record.Pass, "QEMU ended early", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fault{t: t, hurt: c.hurt, times: c.times}
			cell := runOne(t, f)
			assert.Check(t, cmp.Equal(cell.Verdict, c.verdict), "%s; %s", cell.Title, cell.Reason)
			assert.Check(t, cmp.Contains(cell.Title+cell.Retried, c.says))
			assert.Check(t, cmp.Equal(cell.Attempts, c.attempts))
			assert.Check(t, cmp.Equal(f.times, 0), "the fault was not injected")
			if c.name == "agent stopped" {
				console, err := os.ReadFile(filepath.Join(cell.Dir, machine.ConsoleLog))
				assert.NilError(t, err)
				assert.Check(t, cmp.Contains(string(console), "sysrq: Show Blocked State"), "evidence was taken")
				assert.Check(t, cmp.Contains(string(console), "NMI: Not continuing"), "evidence was taken")
			}
		})
	}
}

// An agent that has lost its mind in a guest that is up is our error, tried twice, with words of its own, and no
// hang: none is waited for until a deadline.
func TestBadAgents(t *testing.T) {
	if testing.Short() {
		t.Skip("needs QEMU and a kernel; -short leaves it out")
	}
	program := filepath.Join(t.TempDir(), "badagent")
	assert.NilError(t, images.BuildProgram(t.Context(), "../..", "./harness/runner/testdata/badagent", program))
	agent, err := os.ReadFile(program)
	assert.NilError(t, err)
	const broke = "the agent broke the record protocol"
	for how, want := range map[string]struct{ title, reason string }{
		"garbage":  {broke, "record 1: "},
		"long":     {broke, "line of more than 65536 bytes"},
		"disorder": {broke, "record 1: seq 2, want 1"},
		"flood":    {"the guest flooded its console: the log is at its limit", "the host could not do its work"},
	} {
		t.Run(how, func(t *testing.T) {
			began := time.Now()
			cell := runOne(t, &fault{t: t, agent: append(agent[:len(agent):len(agent)], "\n"+how...)})
			t.Logf("%.1f s: %s: %s", time.Since(began).Seconds(), cell.Title, cell.Reason)
			assert.Check(t, cmp.Equal(cell.Verdict, record.Error))
			assert.Check(t, cmp.Equal(cell.Title, want.title))
			assert.Check(t, cmp.Contains(cell.Reason, want.reason))
			assert.Check(t, len(cell.Reason) < 1000, "what the guest wrote is not repeated at length")
			assert.Check(t, cmp.Equal(cell.Attempts, 2))
			size := int64(0)
			assert.Check(t, filepath.Walk(cell.Dir, func(_ string, info os.FileInfo, err error) error {
				if err == nil {
					size += info.Size()
				}
				return err
			}))
			assert.Check(t, size < 4<<20, "%d bytes on the host's disk", size)
		})
	}
}

// runOne runs a scenario of some seconds on the default kernel with a fault in it. Dir is absolute in the
// cell that it returns.
func runOne(t *testing.T, f *fault) results.Cell {
	t.Helper()
	if testing.Short() {
		t.Skip("needs QEMU and a kernel; -short leaves it out")
	}
	p, err := payload()
	assert.NilError(t, err)
	caches, err := os.UserCacheDir()
	assert.NilError(t, err)
	cache, err := kernels.Open(filepath.Join(caches, "nestbed", "v1", "kernels"))
	assert.NilError(t, err)
	k, err := cache.Resolve(t.Context(), "debian:6.1", func(s string) { t.Log(s) })
	assert.NilError(t, err)
	m, err := machine.Named("intel")
	assert.NilError(t, err)
	s, ok := lab.Lookup("detach-sigkill-owner")
	assert.Assert(t, ok)

	pl, err := plan.Make(plan.Request{Catalogue: []lab.Scenario{s}, Kernels: []kernels.Kernel{k}, Machines: []machine.Machine{m}})
	assert.NilError(t, err)
	run, err := results.Create(t.TempDir(), results.Header{Cells: []results.Planned{Planned(pl.Cells[0])}})
	assert.NilError(t, err)
	defer run.Close()
	f.Pool = &pool.Pool{BootFiles: t.TempDir(), Init: p.init, Snapshots: &snapshot.Store{Dir: filepath.Join(caches, "nestbed", "v1", "snapshots"), Limit: 4 << 30}}
	agent := p.agent
	if f.agent != nil {
		// It would not let itself be prepared; and what it does is done to a guest that booted.
		agent, f.ConsoleLimit, f.Snapshots = f.agent, 256<<10, nil
	}
	var cells []results.Cell
	r := &Runner{Guests: f, Agent: agent, Run: run, Progress: f, Workers: 1}
	q := NewLocal(pl.Cells, func(c results.Cell) error { cells = append(cells, c); return run.Append(c) })
	assert.NilError(t, r.Go(t.Context(), q))
	assert.Equal(t, len(cells), 1, fmt.Sprint(q.Unfinished()))
	cells[0].Dir = filepath.Join(run.Dir(), cells[0].Dir)
	return cells[0]
}
