package results

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results/record"
)

// Input is everything that a verdict depends on.
type Input struct {
	Records []record.Record // as received, in order; may stop anywhere
	Reports []record.Report // found in the console, grouped or not
	Faults  int             // IOMMU faults that QEMU traced
	Exit    Exit
	// SkipRefuted says why what the scenario's skip rests on is not so, from what the host knows of kernel and
	// machine: such a skip is a false claim. It is empty when nothing speaks against the skip.
	SkipRefuted string
}

// Exit says how the attempt ended, in facts. The zero value is a guest that never booted.
type Exit struct {
	Cancelled bool   // the user ended the run; the cell gets no verdict
	HostError string // what the host could not do: "push agent: ..."

	Booted      bool     // init said ready
	BootProven  bool     // another kernel boots on this machine here, so a boot that fails is the kernel's fault
	SilentAfter string   // the console's last line before it fell silent, or before the deadline
	Tail        []string // the console's last lines

	TimedOut bool // no progress until the deadline
	// Starved is how long QEMU waited for a CPU of the host, in seconds.
	Starved  float64
	Panicked bool // QEMU saw the guest panic (pvpanic)
	Reset    bool // QEMU saw the guest reset itself

	QEMUExited bool   // before it was told to
	QEMUStatus string // "killed by SIGKILL", "exit status 1: its last words"

	Protocol    string // how the agent's stream broke its rules
	AgentCode   int
	AgentSignal string // without the SIG: "KILL"
	AgentLost   bool   // the connection ended and gave no exit status
	AgentStderr string // its tail
}

// Outcome is a verdict with its reasons.
type Outcome struct {
	Schema    string          `json:"schema"`
	Verdict   record.Verdict  `json:"verdict"`
	Was       record.Verdict  `json:"was,omitzero"` // with verdict known: what it is without the known-issues file
	Title     string          `json:"title"`
	Signature string          `json:"signature,omitempty"`
	Reason    string          `json:"reason,omitempty"`
	Remedy    string          `json:"remedy,omitempty"`
	Step      string          `json:"step,omitempty"` // the step in which it ended or failed
	Known     string          `json:"known,omitempty"`
	Check     *record.Check   `json:"check,omitempty"`   // the first false claim
	Failed    int             `json:"failed,omitempty"`  // number of false claims
	Checks    int             `json:"checks"`            // number of claims
	Reports   []record.Report `json:"reports,omitempty"` // those that count: nobody expected them
	Tail      []string        `json:"tail,omitempty"`    // the console's last lines, where no report says more
}

// Judge gives the verdict. It is pure: what it is told is all it knows. A cancelled attempt gets Invalid,
// which belongs in no file. Known issues are applied afterwards, by Known.Explain.
func Judge(in Input) Outcome {
	s := read(in.Records)
	o := Outcome{Schema: OutcomeSchema, Step: s.step, Check: s.firstFalse, Checks: s.checks, Failed: s.failed}
	if in.Exit.Cancelled {
		o.Reason = "cancelled"
		return o
	}
	if err := s.compile(); err != nil {
		return o.end(record.Error, "the agent declared an expectation that is no regular expression", err.Error())
	}
	o.Reports = s.settle(in.Reports)
	for _, rule := range []func(Input, said, Outcome) (Outcome, bool){starved, crash, hang, broken, fail, skip} {
		if judged, ok := rule(in, s, o); ok {
			if v := judged.Verdict; len(judged.Reports) == 0 && (v == record.Crash || v == record.Hang || v == record.Error) {
				judged.Tail = in.Exit.Tail
			}
			return judged
		}
	}
	return o.end(record.Pass, "", s.provoked())
}

// end sets what an outcome is called and why.
func (o Outcome) end(v record.Verdict, title, reason string) Outcome {
	o.Verdict, o.Title, o.Reason = v, title, reason
	if v.Bad() {
		o.Signature = signature(title)
	}
	return o
}

func crash(in Input, s said, o Outcome) (Outcome, bool) {
	switch {
	case !in.Exit.Booted && !in.Exit.BootProven:
		return o, false // perhaps no kernel boots here
	case len(o.Reports) > 0:
		telling := behindStall(o.Reports)
		first := telling[0]
		o = o.end(record.Crash, first.Title, then(telling[1:]))
		if n := len(o.Reports) - len(telling); n > 0 {
			o.Reason = join(o.Reason, "before it "+o.Reports[0].Title)
		}
		if first.Class == record.ClassIOMMU {
			o.Title, o.Reason = "unexpected IOMMU fault", join(first.Title, o.Reason)
		}
		o.Signature = first.Signature
		if missing := s.missing(); missing != "" {
			o.Reason = join(o.Reason, "declared, and not reported: "+missing)
		}
	case in.Exit.Panicked && !s.ended:
		o = o.end(record.Crash, "kernel panic", "QEMU saw the guest panic; the console holds no report of it")
	case in.Exit.Reset && !(in.Exit.Panicked && s.ended): // a kernel that has panicked resets itself
		o = o.end(record.Crash, "the guest reset itself", lastLine(in.Exit))
	case in.Faults > 0 && !s.faultExpected:
		o = o.end(record.Crash, "unexpected IOMMU fault",
			fmt.Sprintf("QEMU traced %s that no expect declared", count(in.Faults, "IOMMU fault")))
	default:
		return o, false
	}
	return o, true
}

func hang(in Input, s said, o Outcome) (Outcome, bool) {
	x := in.Exit
	switch {
	case x.QEMUExited:
		return o, false // not a hang: QEMU's end explains it
	case x.TimedOut && x.Booted:
		return o.end(record.Hang, "no progress"+s.where(), join("nothing was heard until the deadline", lastLine(x))), true
	case x.HostError != "" || x.Protocol != "" || s.broken != "":
		return o, false // what follows is the consequence
	case !x.Booted && x.BootProven:
		return o.end(record.Hang, silent(x), "the kernel never reached userspace; another one boots on this machine"), true
	case !x.Booted, s.ended:
		return o, false
	case x.AgentSignal != "":
		return o.end(record.Hang, "agent killed by SIG"+x.AgentSignal+s.where(),
			join("the guest still runs, nothing of nestbed sent the signal", lastLine(x))), true
	case x.AgentLost:
		return o.end(record.Hang, "connection to the guest lost"+s.where(), join("QEMU still runs", lastLine(x))), true
	}
	return o, false
}

// broken finds what is our fault. A stream that ends without done is one of those unless it says skip, or the
// kernel has ended as the scenario declared that it would, which leaves the agent nothing to say.
func broken(in Input, s said, o Outcome) (Outcome, bool) {
	x := in.Exit
	var title, reason string
	switch {
	case s.broken != "":
		title, reason = s.broken, "the agent could not do its work"
	case x.Protocol != "":
		title, reason = "the agent broke the record protocol", x.Protocol
	case x.HostError != "":
		title, reason = x.HostError, "the host could not do its work"
	case x.QEMUExited && s.done == nil && !(x.Reset && s.ended):
		title, reason = "QEMU ended early", x.QEMUStatus
	case !x.Booted:
		title, reason = "does not boot: "+silent(x), "no kernel was seen to boot on this machine, so this says nothing about this one"
		if len(o.Reports) > 0 {
			title = "does not boot: " + o.Reports[0].Title
		}
	case s.done == nil && s.skip == nil && !s.ended:
		title, reason = fmt.Sprintf("agent exited with status %d without done", x.AgentCode), x.AgentStderr
	case s.done == nil && s.skip != nil && (x.AgentCode != 0 || x.AgentLost || x.AgentSignal != ""):
		title, reason = "agent skipped and did not end well", x.AgentStderr
	case s.done != nil && (s.done.Checks != s.checks || s.done.Failed != s.failed):
		title = "a record was lost"
		reason = fmt.Sprintf("the agent counted %d checks, %d of them false; here are %d and %d",
			s.done.Checks, s.done.Failed, s.checks, s.failed)
	case s.done != nil && s.skip == nil && s.invariants == 0:
		title, reason = "the closing invariant is missing", "the agent said done and claimed nothing of it"
	case x.AgentCode != 0 && s.failed == 0 && !s.ended:
		title, reason = fmt.Sprintf("agent exited with status %d after done", x.AgentCode), x.AgentStderr
	default:
		return o, false
	}
	return o.end(record.Error, title, reason), true
}

func fail(in Input, s said, o Outcome) (Outcome, bool) {
	switch {
	case s.firstFalse != nil:
		c := s.firstFalse
		o.Step = s.falseStep
		title := c.Claim
		if c.Invariant {
			title = "closing invariant: " + c.Claim
		}
		o = o.end(record.Fail, title, compared(c))
		if s.failed > 1 {
			o.Reason = join(o.Reason, fmt.Sprintf("%d of %d claims are false", s.failed, s.checks))
		}
	case s.skip != nil && in.SkipRefuted != "":
		o = o.end(record.Fail, "a skip without its cause: "+s.skip.Reason, in.SkipRefuted)
	case s.skip == nil && s.missing() != "":
		o = o.end(record.Fail, "not reported: "+s.missing(), "the scenario did what the kernel must report")
	default:
		return o, false
	}
	return o, true
}

// stalled tells RCU's word that it saw no progress from its word on misuse.
func stalled(r record.Report) bool {
	return r.Class == record.ClassRCU && strings.Contains(r.Title, "stall")
}

// behindStall gives the reports by which a crash is called and known: all of them, unless they begin with
// stalls and one behind these ended the kernel. A stall is about time, and comes before the report of the bug
// as by chance; without such a report it is all that there is.
func behindStall(reports []record.Report) []record.Report {
	at := slices.IndexFunc(reports, func(r record.Report) bool { return !stalled(r) })
	if at <= 0 || !slices.ContainsFunc(reports[at:], func(r record.Report) bool { return r.Fatal }) {
		return reports
	}
	return reports[at:]
}

// starvation is how long a guest may have had no CPU, in seconds, before a stall that its kernel reports is
// doubted: half of the time that RCU waits.
const starvation = 10

// starved finds a guest whose host did not let it run and in which nothing else was wrong: it ended its
// scenario, every claim was true, and all that its kernel said is that RCU saw no progress, by a clock that
// runs on while the guest does not.
func starved(in Input, s said, o Outcome) (Outcome, bool) {
	switch x := in.Exit; {
	case x.Starved < starvation || len(o.Reports) == 0 || s.done == nil || s.failed > 0 || s.broken != "" || x.TimedOut || x.Panicked:
		return o, false
	case slices.ContainsFunc(o.Reports, func(r record.Report) bool { return !stalled(r) }):
		return o, false
	}
	return o.end(record.Error, "the host starved the guest: "+o.Reports[0].Title,
		fmt.Sprintf("QEMU waited %.0f s for a CPU, and the report is about time: fewer guests at once (-j), or a quieter host", in.Exit.Starved)), true
}

func skip(_ Input, s said, o Outcome) (Outcome, bool) {
	if s.skip == nil {
		return o, false
	}
	o = o.end(record.Skip, s.skip.Reason, s.skip.Reason)
	o.Remedy = s.skip.Remedy
	return o, true
}

// said is what the records say, summed up.
type said struct {
	step          string
	checks        int
	invariants    int // of them, those of the closing invariant
	failed        int
	firstFalse    *record.Check
	falseStep     string
	faultExpected bool
	expected      []expectation
	ended         bool // the kernel has, as declared
	skip          *record.SkipReason
	broken        string
	done          *record.Done
}

// expectation is a kernel report that the scenario has declared.
type expectation struct {
	record.Expect
	title *regexp.Regexp
	came  string // the title of the first report that met it
}

// meets says whether a report is the declared one. One that ends the kernel is declared as such or not at all:
// neither is the other's excuse.
func (e expectation) meets(r record.Report) bool {
	return e.title.MatchString(r.Title) && (e.Class == "" || e.Class == r.Class) && e.Fatal == r.Fatal
}

func read(records []record.Record) said {
	var s said
	for _, r := range records {
		switch {
		case r.Step != nil:
			s.step = r.Step.Text
		case r.Check != nil:
			s.checks++
			if r.Check.Invariant {
				s.invariants++
			}
			if !r.Check.OK {
				s.failed++
				if s.firstFalse == nil {
					s.firstFalse, s.falseStep = r.Check, s.step
				}
			}
		case r.Expect != nil:
			s.faultExpected = s.faultExpected || r.Expect.Fault
			if r.Expect.Title != "" {
				s.expected = append(s.expected, expectation{Expect: *r.Expect})
			}
		case r.Skip != nil:
			s.skip = r.Skip
		case r.Broken != nil && s.broken == "":
			s.broken = r.Broken.Reason
		case r.Done != nil:
			s.done = r.Done
		}
	}
	return s
}

func (s *said) compile() error {
	for i, e := range s.expected {
		re, err := regexp.Compile(e.Title)
		if err != nil {
			return fmt.Errorf("expect %q: %w", e.Title, err)
		}
		s.expected[i].title = re
	}
	return nil
}

// expects says whether a report was declared, and notes that it came.
func (s *said) expects(r record.Report) bool {
	met := r.Class == record.ClassIOMMU && s.faultExpected
	for i := range s.expected {
		if e := &s.expected[i]; e.meets(r) {
			met = true
			e.came = cmp.Or(e.came, r.Title)
		}
	}
	return met
}

// settle gives the reports that count, in the order of the log and one beside the other: a group is
// for a reader, and an expected leader must not take its followers along. Only what follows an expected
// report that ended the kernel is its consequence.
func (s *said) settle(reports []record.Report) []record.Report {
	var out []record.Report
	for _, r := range Flatten(reports) {
		switch {
		case r.Class == record.ClassOOM: // the scenario wants more memory than its guest has; what a lost agent makes of that is judged
		case !s.expects(r):
			out = append(out, r)
		case r.Fatal:
			s.ended = true
			return out
		}
	}
	return out
}

// missing describes the first declared report that did not come, "" when all did.
func (s said) missing() string {
	for _, e := range s.expected {
		if e.came == "" {
			text := fmt.Sprintf("a report %q", e.Title)
			if e.Class != "" {
				text += fmt.Sprintf(" of class %s", e.Class)
			}
			if e.Fatal {
				text += " that ends the kernel"
			}
			return text
		}
	}
	return ""
}

// provoked names the declared reports that came, "" when none was declared.
func (s said) provoked() string {
	var titles []string
	for _, e := range s.expected {
		if !slices.Contains(titles, e.came) {
			titles = append(titles, e.came)
		}
	}
	if len(titles) == 0 {
		return ""
	}
	return "reported, as declared: " + strings.Join(titles, "; ")
}

func (s said) where() string {
	if s.step == "" {
		return ""
	}
	return " in step \"" + s.step + "\""
}

// Flatten gives leaders and followers as one list in the order of the log, each without followers.
func Flatten(reports []record.Report) []record.Report {
	var out []record.Report
	for _, r := range reports {
		followers := r.Followers
		r.Followers = nil
		out = append(append(out, r), Flatten(followers)...)
	}
	slices.SortStableFunc(out, func(a, b record.Report) int { return a.Line - b.Line })
	return out
}

func then(rest []record.Report) string {
	if len(rest) == 0 {
		return ""
	}
	next := rest[0]
	if i := slices.IndexFunc(rest, func(r record.Report) bool { return r.Fatal }); i >= 0 {
		next = rest[i]
	}
	text := "then " + next.Title
	if n := len(rest) - 1; n > 0 {
		text += fmt.Sprintf(" and %s", count(n, "more report"))
	}
	return text
}

func compared(c *record.Check) string {
	var parts []string
	if c.Want != "" || c.Got != "" {
		parts = append(parts, fmt.Sprintf("want %s, got %s", c.Want, c.Got))
	}
	text := strings.Join(parts, ", ")
	if c.Op != "" {
		if text != "" {
			text = ": " + text
		}
		text = c.Op + text
	}
	if c.Site != "" {
		text = strings.TrimSpace(text + " (" + c.Site + ")")
	}
	return text
}

func silent(x Exit) string {
	if x.SilentAfter == "" {
		return "silent from the start of the boot"
	}
	return fmt.Sprintf("silent after %q", x.SilentAfter)
}

func lastLine(x Exit) string {
	if x.SilentAfter == "" {
		return ""
	}
	return fmt.Sprintf("last console line %q", x.SilentAfter)
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "; ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

var digits = regexp.MustCompile(`0x[0-9a-f]+|[0-9]+`)

// signature is stable over the numbers in a title.
func signature(title string) string {
	sum := sha256.Sum256([]byte(digits.ReplaceAllString(title, "N")))
	return hex.EncodeToString(sum[:8])
}

func exactHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}
