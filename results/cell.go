package results

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/nestbed/nestbed/results/record"
)

// The schemas of the files of a run.
const (
	RunSchema     = "nestbed/run/1"
	CellSchema    = "nestbed/cell/1"
	OutcomeSchema = "nestbed/outcome/1"
	KnownSchema   = "nestbed/known/1"
)

// Header is run.json: the plan, written once and never again.
type Header struct {
	Schema      string    `json:"schema"`
	ID          string    `json:"id"`
	Started     time.Time `json:"started"`
	Args        []string  `json:"args"` // the command line, program first
	Version     string    `json:"version"`
	Catalogue   string    `json:"catalogue,omitempty"` // hash of the scenarios
	Host        Host      `json:"host"`
	QEMU        string    `json:"qemu"`                  // version
	QEMUBinary  string    `json:"qemu_binary,omitempty"` // as the user named it; empty: the one in PATH
	Accelerator string    `json:"accelerator"`
	Kernels     []Kernel  `json:"kernels"`
	Cells       []Planned `json:"cells"`
	Skips       []Skip    `json:"skips,omitempty"`
	NotCovered  []string  `json:"not_covered,omitempty"` // what a green result does not say, one phrase each
	Program     *Program  `json:"program,omitempty"`     // what nestbed exec ran in the place of scenarios
}

// Host is where a run ran.
type Host struct {
	Name     string `json:"name,omitempty"`
	Kernel   string `json:"kernel,omitempty"`
	CPU      string `json:"cpu,omitempty"`
	CPUs     int    `json:"cpus,omitempty"`
	MemoryMB int    `json:"memory_mb,omitempty"`
}

// Kernel is a kernel under test, as the user named it and as it was found.
type Kernel struct {
	Spec    string `json:"spec"`
	Release string `json:"release"`
	Hash    string `json:"hash"`
}

// Planned is a cell before it ran.
type Planned struct {
	Scenario    string `json:"scenario"`
	Variant     string `json:"variant,omitempty"`
	Kernel      string `json:"kernel"` // release
	KernelSpec  string `json:"kernel_spec"`
	KernelHash  string `json:"kernel_hash,omitempty"`
	Machine     string `json:"machine"`
	Accelerator string `json:"accelerator,omitempty"`
	Repeat      int    `json:"repeat,omitempty"` // 1, 2, 3 ... when asked for repeats, else 0
}

// ID is SCENARIO[@VARIANT]/KERNEL/MACHINE, and #N for the N-th repeat.
func (p Planned) ID() string {
	var b strings.Builder
	b.WriteString(p.Name())
	b.WriteString("/" + p.Kernel + "/" + p.Machine)
	if p.Repeat > 0 {
		fmt.Fprintf(&b, "#%d", p.Repeat)
	}
	return b.String()
}

// Name is SCENARIO[@VARIANT].
func (p Planned) Name() string {
	if p.Variant == "" {
		return p.Scenario
	}
	return p.Scenario + "@" + p.Variant
}

// Skip is a cell that the plan ruled out, and why.
type Skip struct {
	Planned
	Reason string `json:"reason"`
	Remedy string `json:"remedy,omitempty"` // what would make it run
}

// Cell is a cell with its verdict: one line of cells.jsonl and one object of --json.
type Cell struct {
	Schema      string         `json:"schema"`
	Scenario    string         `json:"scenario"`
	Variant     string         `json:"variant"`
	Kernel      string         `json:"kernel"`
	KernelSpec  string         `json:"kernel_spec"`
	KernelHash  string         `json:"kernel_hash"`
	Machine     string         `json:"machine"`
	Accelerator string         `json:"accelerator"`
	Repeat      int            `json:"repeat,omitempty"`
	Verdict     record.Verdict `json:"verdict"`
	Title       string         `json:"title"`
	Signature   string         `json:"signature"`
	Reason      string         `json:"reason"`
	Remedy      string         `json:"remedy,omitempty"`
	Step        string         `json:"step,omitempty"`
	Claim       string         `json:"claim,omitempty"`
	Known       string         `json:"known,omitempty"` // id of the known issue, with verdict known
	Attempts    int            `json:"attempts"`
	Retried     string         `json:"retried,omitempty"` // why the attempt before the last one was an error
	Started     time.Time      `json:"started"`
	Duration    float64        `json:"duration_s"`
	Dir         string         `json:"dir"` // on disk relative to the run's folder
	Timing      *Timing        `json:"timing,omitempty"`
}

// Timing is where a cell's time went, of its last attempt, in seconds.
type Timing struct {
	Restored bool    `json:"restored"` // the guest was, and has not booted
	Guest    float64 `json:"guest_s"`  // to an SSH connection
	Push     float64 `json:"push_s"`   // agent and files
	Agent    float64 `json:"agent_s"`  // from its start to its end, the scenario and the closing invariant
	End      float64 `json:"end_s"`    // the kernel's last words, the end of QEMU, reading the logs
	CPU      float64 `json:"cpu_s"`    // of QEMU
}

// Planned is the cell without its verdict.
func (c Cell) Planned() Planned {
	return Planned{
		Scenario: c.Scenario, Variant: c.Variant, Kernel: c.Kernel, KernelSpec: c.KernelSpec,
		KernelHash: c.KernelHash, Machine: c.Machine, Accelerator: c.Accelerator, Repeat: c.Repeat,
	}
}

// ID is SCENARIO[@VARIANT]/KERNEL/MACHINE, and #N for the N-th repeat.
func (c Cell) ID() string { return c.Planned().ID() }

// Name is SCENARIO[@VARIANT].
func (c Cell) Name() string { return c.Planned().Name() }

// NewCell puts a cell and its outcome together. The caller adds Attempts, Started, Duration, Dir and Timing.
func NewCell(p Planned, o Outcome) Cell {
	c := Cell{
		Schema: CellSchema, Scenario: p.Scenario, Variant: p.Variant, Kernel: p.Kernel,
		KernelSpec: p.KernelSpec, KernelHash: p.KernelHash, Machine: p.Machine, Accelerator: p.Accelerator,
		Repeat: p.Repeat, Verdict: o.Verdict, Title: o.Title, Signature: o.Signature, Reason: o.Reason,
		Remedy: o.Remedy, Step: o.Step, Known: o.Known,
	}
	if o.Check != nil {
		c.Claim = o.Check.Claim
	}
	return c
}

// Cell is the skip as a cell with the verdict skip.
func (s Skip) Cell() Cell {
	return NewCell(s.Planned, Outcome{Verdict: record.Skip, Title: s.Reason, Reason: s.Reason, Remedy: s.Remedy})
}

// FindingsFirst orders cells for a reader: what needs a look comes first.
func FindingsFirst(a, b Cell) int {
	return cmp.Or(
		cmp.Compare(rank(a.Verdict), rank(b.Verdict)),
		cmp.Compare(a.Scenario, b.Scenario),
		cmp.Compare(a.Variant, b.Variant),
		cmp.Compare(a.Kernel, b.Kernel),
		cmp.Compare(a.Machine, b.Machine),
		cmp.Compare(a.Repeat, b.Repeat),
	)
}

func rank(v record.Verdict) int {
	switch v {
	case record.Crash:
		return 0
	case record.Hang:
		return 1
	case record.Fail:
		return 2
	case record.Error:
		return 3
	case record.Invalid:
		return 4
	case record.Known:
		return 5
	case record.Skip:
		return 6
	}
	return 7
}
