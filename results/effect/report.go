package effect

import (
	"slices"
	"time"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// Schema names the version of series.json.
const Schema = "nestbed/series/1"

// Report is series.json: a patch series, what was run of it and what it did.
type Report struct {
	Schema      string           `json:"schema"`
	ID          string           `json:"id"`
	Started     time.Time        `json:"started"`
	Seconds     float64          `json:"seconds"`
	Args        []string         `json:"args"`
	Version     string           `json:"version"`
	Host        results.Host     `json:"host"`
	QEMU        string           `json:"qemu"`
	Accelerator string           `json:"accelerator"`
	Catalogue   string           `json:"catalogue"`
	NotCovered  []string         `json:"not_covered,omitempty"`
	Program     *results.Program `json:"program,omitempty"` // the reproducer

	Title    string   `json:"title,omitempty"`
	Revision int      `json:"revision,omitempty"` // n of [PATCH vn]
	Tree     string   `json:"tree"`               // a path of this host's
	Dirty    int      `json:"dirty,omitempty"`    // files with uncommitted changes in the tree, which are in nothing that ran
	Globs    []string `json:"globs,omitempty"`
	Flavours []string `json:"flavours"`
	Machines []string `json:"machines"`
	Each     string   `json:"each"`
	Fresh    bool     `json:"fresh,omitempty"`

	Patches int      `json:"patches"`           // of the series; Stages ends at one that does not apply
	Stages  []Stage  `json:"stages"`            // the base, then after each patch
	Changes []Change `json:"changes"`           // from the base to the end
	Steps   []Change `json:"steps,omitempty"`   // from one patch to the next, where both were run; without those unchanged
	Runs    []string `json:"runs,omitempty"`    // ids, in order
	Ran     int      `json:"ran"`               // cells that were run
	Reused  int      `json:"reused"`            // runs of cells that earlier series had made of the same kernels
	Trouble []string `json:"trouble,omitempty"` // why it is not complete, and what is no fault of the series
	// NotDone says what a series that was ended did not come to. Cells that were not run on both sides are in no change then.
	NotDone []string `json:"not_done,omitempty"`
}

// Stage is the tree after some of the patches.
type Stage struct {
	Patch   int    `json:"patch"` // 0: the base
	Subject string `json:"subject"`
	Commit  string `json:"commit,omitempty"`
	Name    string `json:"name,omitempty"` // of the base: v6.12-3-g0123456789ab
	// Rejected says why the patch does not apply; nothing comes after it then.
	Rejected string  `json:"rejected,omitempty"`
	Builds   []Build `json:"builds,omitempty"`
	Ran      int     `json:"ran,omitempty"` // cells that have a verdict
	Bad      int     `json:"bad,omitempty"` // those of them that ended badly at least once
}

// Build is one flavour of a stage.
type Build struct {
	Flavour string  `json:"flavour"`
	Release string  `json:"release,omitempty"`
	Hash    string  `json:"hash,omitempty"` // of the kernel's content; "" when it does not build
	Seconds float64 `json:"seconds,omitempty"`
	Failure string  `json:"failure,omitempty"` // the compiler's first error
	Log     string  `json:"log,omitempty"`
}

// Change is what became of a cell between two stages.
type Change struct {
	Effect
	Flavour   string         `json:"flavour"`
	Scenario  string         `json:"scenario"` // with its variant; a reproducer's name
	Machine   string         `json:"machine"`
	From      int            `json:"from"` // stages
	To        int            `json:"to"`
	Verdict   record.Verdict `json:"verdict,omitempty"` // of the finding
	Title     string         `json:"title,omitempty"`
	Signature string         `json:"signature,omitempty"`
	Was       string         `json:"was,omitempty"`    // worse: the title before
	Reason    string         `json:"reason,omitempty"` // skipped, no verdict: why
	Run       string         `json:"run,omitempty"`    // where the finding is: nestbed show RUN CELL
	Cell      string         `json:"cell,omitempty"`
	// Turned is the first patch after which it is so, 0 if that was not looked for. Since is the last stage before
	// it that is as before: further away than one where what lies between does not build.
	Turned int `json:"turned,omitempty"`
	Since  int `json:"since,omitempty"`
}

// Sort orders changes and steps for a reader.
func (r *Report) Sort() {
	slices.SortStableFunc(r.Changes, order)
	slices.SortStableFunc(r.Steps, order)
}

// Count is how many changes are of one kind.
func (r Report) Count(k Kind) int {
	n := 0
	for _, c := range r.Changes {
		if c.Kind == k {
			n++
		}
	}
	return n
}

// ExitStatus is 2 if the report is not complete or a cell has no verdict, else 1 if a patch does not apply or
// does not build, or if something is worse at the end or between two patches, else 0.
func (r Report) ExitStatus() int {
	bad := func(c Change) bool { return c.Bad() }
	unknown := func(c Change) bool { return c.Kind == Unknown }
	if len(r.Trouble) > 0 || slices.ContainsFunc(r.Changes, unknown) || slices.ContainsFunc(r.Steps, unknown) {
		return 2
	}
	for _, s := range r.Stages {
		if s.Rejected != "" || slices.ContainsFunc(s.Builds, func(b Build) bool { return b.Failure != "" }) {
			return 1
		}
	}
	if slices.ContainsFunc(r.Changes, bad) || slices.ContainsFunc(r.Steps, bad) {
		return 1
	}
	return 0
}
