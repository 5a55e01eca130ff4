package bench

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/runner"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/scenarios/lab"

	_ "github.com/nestbed/nestbed/scenarios" // the catalogue
)

// BenchmarkScale drives plan, queue, runner and store with 1,000 and with 10,000 cells whose guests never come up (with
// NESTBED_ALL=1 10,000 and 100,000, for some minutes): what is left is nestbed's own work, which must not grow with the number of cells.
func BenchmarkScale(b *testing.B) {
	k := kernel(b, stock)
	m, err := machine.Named("intel")
	assert.NilError(b, err)
	m.Accel = machine.KVM // under TCG a kernel that does not boot is tried twice
	var micros, bytes [2]float64
	s := spin(b)
	few, many := 1_000, 10_000
	if os.Getenv("NESTBED_ALL") != "" {
		few, many = 10_000, 100_000
	}
	for i, want := range []int{few, many} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		var ks []kernels.Kernel
		for n := range want / 50 {
			one := k
			one.Release, one.Hash = fmt.Sprintf("%s-%d", k.Release, n), fmt.Sprintf("%064x", n)
			ks = append(ks, one)
		}
		p, err := plan.Make(plan.Request{Catalogue: lab.All(), Kernels: ks, Machines: []machine.Machine{m}})
		assert.NilError(b, err)
		cells := p.Runs()
		cells = cells[:min(want, len(cells))]
		assert.Assert(b, len(cells) > want*9/10, "%d cells", len(cells))
		var header results.Header
		for _, c := range cells {
			header.Cells = append(header.Cells, runner.Planned(c))
		}
		run, err := results.Create(b.TempDir(), header)
		assert.NilError(b, err)
		r := &runner.Runner{Guests: noGuests{}, Run: run, Progress: silent{}, Workers: 2}
		assert.NilError(b, r.Go(b.Context(), runner.NewLocal(cells, run.Append)))
		read, err := run.Cells()
		assert.NilError(b, err)
		assert.Equal(b, len(read), len(cells))
		micros[i] = float64(time.Since(start).Microseconds()) / float64(len(cells))
		runtime.GC()
		runtime.ReadMemStats(&after)
		bytes[i] = float64(after.HeapAlloc-before.HeapAlloc) / float64(len(cells))
		runtime.KeepAlive(read)
		runtime.KeepAlive(cells)
		assert.NilError(b, run.Close())
	}
	s.report(b)
	b.ReportMetric(micros[1], "us/cell")
	b.ReportMetric(micros[1]/micros[0], "us/cell-many/few")
	b.ReportMetric(bytes[1], "B/cell")
	b.ReportMetric(bytes[1]/bytes[0], "B/cell-many/few")
	b.ReportMetric(0, "ns/op")
}

// noGuests are guests whose kernel panics before it has said a word.
type noGuests struct{}

func (noGuests) Get(context.Context, pool.Spec) (*pool.Guest, error) {
	return nil, &pool.BootError{Panicked: true}
}

type silent struct{}

func (silent) Begin(int, string)     {}
func (silent) Phase(int, string)     {}
func (silent) End(int, results.Cell) {}
