package results

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results/record"
)

// script makes records: words are step:TEXT ok:CLAIM no:CLAIM inv:CLAIM fault expect:TITLE dies:TITLE skip:WHY broken:WHY
// done, or done:lie to lie, or done:bare without the closing invariant.
func script(words ...string) []record.Record {
	recs := []record.Record{{Kind: record.KindHello, Hello: &record.Hello{Schema: record.Schema}}}
	checks, failed := 0, 0
	add := func(r record.Record) { recs = append(recs, r) }
	for _, w := range words {
		word, arg, _ := strings.Cut(w, ":")
		switch word {
		case "step":
			add(record.Record{Kind: record.KindStep, Step: &record.Step{Text: arg}})
		case "ok", "no", "inv":
			checks++
			if word != "ok" {
				failed++
			}
			add(record.Record{Kind: record.KindCheck, Check: &record.Check{
				OK: word == "ok", Claim: arg, Op: "close", Want: "0", Got: "1", Site: "a.go:7", Invariant: word == "inv",
			}})
		case "fault":
			add(record.Record{Kind: record.KindExpect, Expect: &record.Expect{Fault: true, Why: "provoked"}})
		case "expect":
			add(record.Record{Kind: record.KindExpect, Expect: &record.Expect{Title: arg, Class: record.ClassWarn, Why: "provoked"}})
		case "dies":
			add(record.Record{Kind: record.KindExpect, Expect: &record.Expect{Title: arg, Class: record.ClassOops, Fatal: true, Why: "provoked"}})
		case "skip":
			add(record.Record{Kind: record.KindSkip, Skip: &record.SkipReason{Reason: arg, Remedy: "another kernel"}})
		case "broken":
			add(record.Record{Kind: record.KindBroken, Broken: &record.Broken{Reason: arg}})
		case "done":
			if arg != "bare" { // the closing invariant holds
				checks++
				add(record.Record{Kind: record.KindCheck, Check: &record.Check{OK: true, Claim: "all is back", Invariant: true}})
			}
			d := record.Done{Checks: checks, Failed: failed}
			if arg == "lie" {
				d.Checks++
			}
			add(record.Record{Kind: record.KindDone, Done: &d})
		default:
			panic(word)
		}
	}
	return recs
}

func report(title string, class record.Class, fatal bool, line int) record.Report {
	return record.Report{Title: title, Class: class, Fatal: fatal, Line: line, EndLine: line + 1, Signature: "sig " + title}
}

// That RCU saw no progress in a guest that had no CPU is the host's, if that is all; anything else is still the kernel's.
func TestStarvedGuest(t *testing.T) {
	stallReport := report("INFO: rcu detected stall in clocksource_watchdog", record.ClassRCU, false, 10)
	oops := report("BUG: unable to handle kernel NULL pointer dereference in f", record.ClassOops, true, 20)
	exit := Exit{Booted: true, BootProven: true, Starved: 30}
	for _, c := range []struct {
		name    string
		words   []string
		reports []record.Report
		exit    Exit
		want    record.Verdict
		title   string
	}{
		{"no CPU", []string{"ok:a", "done"}, []record.Report{stallReport}, exit, record.Error, "the host starved the guest: INFO: rcu detected stall"},
		{"a CPU", []string{"ok:a", "done"}, []record.Report{stallReport}, Exit{Booted: true, Starved: 3, BootProven: true}, record.Crash, "INFO: rcu detected stall"},
		{"the oops after it counts", []string{"ok:a"}, []record.Report{stallReport, oops}, exit, record.Crash, oops.Title},
		{"so does what came before the oops", []string{"ok:a"}, []record.Report{stallReport, warn, oops}, exit, record.Crash, warn.Title},
		{"a warning after it ended nothing", []string{"ok:a"}, []record.Report{stallReport, report("WARNING in g", record.ClassWarn, false, 20)}, exit, record.Crash, stallReport.Title},
		{"a false claim counts", []string{"no:a", "done"}, []record.Report{stallReport}, exit, record.Crash, "INFO: rcu detected stall"},
		{"so does no progress", []string{"ok:a"}, []record.Report{stallReport}, Exit{Booted: true, BootProven: true, Starved: 30, TimedOut: true}, record.Crash, "INFO: rcu detected stall"},
		{"a hung task is believed", []string{"ok:a", "done"}, []record.Report{report("INFO: task hung in f", record.ClassHung, false, 1)}, exit, record.Crash, "INFO: task hung"},
		{"misuse of RCU is no stall", []string{"ok:a", "done"}, []record.Report{report("WARNING: suspicious RCU usage", record.ClassRCU, false, 1)}, exit, record.Crash, "WARNING: suspicious"},
	} {
		o := Judge(Input{Records: script(c.words...), Reports: c.reports, Exit: c.exit})
		assert.Equal(t, o.Verdict, c.want, c.name)
		assert.Assert(t, strings.HasPrefix(o.Title, c.title), "%s: %s", c.name, o.Title)
	}
}

var (
	warn = report("WARNING in kvm_put_kvm", record.ClassWarn, false, 10)
	oops = report("BUG: unable to handle kernel paging request in f", record.ClassOops, true, 20)
	dmar = report("IOMMU fault: DMAR: DMA Write", record.ClassIOMMU, false, 5)
	oom  = report("Out of memory", record.ClassOOM, false, 6)
	fine = Exit{Booted: true, BootProven: true}
)

func exit(change func(*Exit)) Exit {
	x := fine
	change(&x)
	return x
}

func TestJudge(t *testing.T) {
	lost := exit(func(x *Exit) { x.AgentLost = true; x.SilentAfter = "last words" })
	killed := exit(func(x *Exit) { x.AgentSignal = "KILL" })
	late := exit(func(x *Exit) { x.TimedOut = true })
	dead := exit(func(x *Exit) { x.QEMUExited, x.QEMUStatus = true, "killed by SIGKILL" })
	group := warn
	group.Followers = []record.Report{oops}

	for name, c := range map[string]struct {
		in     Input
		want   record.Verdict
		title  string
		reason string // a part of it
	}{
		"pass":                                 {Input{Records: script("step:a", "ok:x", "done"), Exit: fine}, record.Pass, "", ""},
		"pass without checks":                  {Input{Records: script("done"), Exit: fine}, record.Pass, "", ""},
		"no closing invariant":                 {Input{Records: script("ok:x", "done:bare"), Exit: fine}, record.Error, "the closing invariant is missing", ""},
		"nothing at all":                       {Input{}, record.Error, "does not boot: silent from the start of the boot", "no kernel was seen to boot"},
		"no done":                              {Input{Records: script("ok:x"), Exit: fine}, record.Error, "agent exited with status 0 without done", ""},
		"no records":                           {Input{Exit: fine}, record.Error, "agent exited with status 0 without done", ""},
		"a record was lost":                    {Input{Records: script("ok:x", "done:lie"), Exit: fine}, record.Error, "a record was lost", "counted 3 checks"},
		"exit after done":                      {Input{Records: script("done"), Exit: exit(func(x *Exit) { x.AgentCode = 3; x.AgentStderr = "boom" })}, record.Error, "agent exited with status 3 after done", "boom"},
		"lost after done":                      {Input{Records: script("done"), Exit: lost}, record.Hang, "connection to the guest lost", ""},
		"killed after done":                    {Input{Records: script("done"), Exit: killed}, record.Hang, "agent killed by SIGKILL", ""},
		"QEMU gone after done":                 {Input{Records: script("done"), Exit: dead}, record.Pass, "", ""},
		"deadline after done":                  {Input{Records: script("done"), Exit: late}, record.Hang, "no progress", ""},
		"reset after done":                     {Input{Records: script("done"), Exit: exit(func(x *Exit) { x.Reset = true })}, record.Crash, "the guest reset itself", ""},
		"fail":                                 {Input{Records: script("step:a", "ok:x", "no:refs back", "step:b", "no:y", "done"), Exit: exit(func(x *Exit) { x.AgentCode = 1 })}, record.Fail, "refs back", "close: want 0, got 1 (a.go:7); 2 of 4 claims are false"},
		"invariant":                            {Input{Records: script("ok:x", "inv:kvm refcount", "done"), Exit: fine}, record.Fail, "closing invariant: kvm refcount", "close"},
		"crash":                                {Input{Records: script("done"), Reports: []record.Report{warn}, Exit: fine}, record.Crash, warn.Title, ""},
		"crash over hang":                      {Input{Records: script("step:a"), Reports: []record.Report{oops}, Exit: lost}, record.Crash, oops.Title, ""},
		"crash over fail":                      {Input{Records: script("no:x", "done"), Reports: []record.Report{group}, Exit: fine}, record.Crash, warn.Title, "then " + oops.Title},
		"crash over error":                     {Input{Records: script("broken:x"), Reports: []record.Report{warn}, Exit: dead}, record.Crash, warn.Title, ""},
		"crash over skip":                      {Input{Records: script("skip:x", "done"), Reports: []record.Report{warn}, Exit: fine}, record.Crash, warn.Title, ""},
		"panic without a report":               {Input{Records: script("ok:x"), Exit: exit(func(x *Exit) { x.Panicked = true; x.AgentLost = true })}, record.Crash, "kernel panic", "no report"},
		"reset":                                {Input{Records: script("ok:x"), Exit: exit(func(x *Exit) { x.Reset = true; x.AgentLost = true })}, record.Crash, "the guest reset itself", ""},
		"fault":                                {Input{Records: script("done"), Faults: 2, Exit: fine}, record.Crash, "unexpected IOMMU fault", "QEMU traced 2 IOMMU faults"},
		"fault in the console":                 {Input{Records: script("done"), Reports: []record.Report{dmar}, Exit: fine}, record.Crash, "unexpected IOMMU fault", dmar.Title},
		"fault declared":                       {Input{Records: script("fault", "done"), Reports: []record.Report{dmar}, Faults: 2, Exit: fine}, record.Pass, "", ""},
		"out of memory":                        {Input{Records: script("ok:x", "done"), Reports: []record.Report{oom}, Exit: fine}, record.Pass, "", ""},
		"killed for want of memory":            {Input{Records: script("step:a"), Reports: []record.Report{oom}, Exit: killed}, record.Hang, `agent killed by SIGKILL in step "a"`, ""},
		"crash after the want of memory":       {Input{Records: script("done"), Reports: []record.Report{oom, warn}, Exit: fine}, record.Crash, warn.Title, ""},
		"expected":                             {Input{Records: script("expect:^WARNING in kvm_", "done"), Reports: []record.Report{warn}, Exit: fine}, record.Pass, "", ""},
		"expected, not this":                   {Input{Records: script("expect:^WARNING in vfio_", "done"), Reports: []record.Report{warn}, Exit: fine}, record.Crash, warn.Title, ""},
		"expected leader, unexpected follower": {Input{Records: script("expect:WARNING", "done"), Reports: []record.Report{group}, Exit: fine}, record.Crash, oops.Title, ""},
		"not a regexp":                         {Input{Records: script("expect:(", "done"), Exit: fine}, record.Error, "the agent declared an expectation that is no regular expression", "missing closing"},
		"deadline":                             {Input{Records: script("step:unload", "ok:x"), Exit: late}, record.Hang, `no progress in step "unload"`, "deadline"},
		"deadline, never a pass":               {Input{Exit: late}, record.Hang, "no progress", ""},
		"lost":                                 {Input{Records: script("step:a"), Exit: lost}, record.Hang, `connection to the guest lost in step "a"`, `"last words"`},
		"agent killed":                         {Input{Records: script("step:a"), Exit: killed}, record.Hang, `agent killed by SIGKILL in step "a"`, "guest still runs"},
		"hang over fail":                       {Input{Records: script("no:x"), Exit: lost}, record.Hang, "connection to the guest lost", ""},
		"QEMU killed":                          {Input{Records: script("ok:x"), Exit: dead}, record.Error, "QEMU ended early", "killed by SIGKILL"},
		"QEMU killed, so is SSH":               {Input{Records: script("ok:x"), Exit: exit(func(x *Exit) { x.QEMUExited, x.QEMUStatus, x.AgentLost = true, "exit status 1: bad", true })}, record.Error, "QEMU ended early", "exit status 1: bad"},
		"error over fail":                      {Input{Records: script("no:x"), Exit: dead}, record.Error, "QEMU ended early", ""},
		"broken":                               {Input{Records: script("no:x", "broken:edu is dead", "done"), Exit: fine}, record.Error, "edu is dead", ""},
		"broken and gone":                      {Input{Records: script("broken:edu is dead"), Exit: lost}, record.Error, "edu is dead", ""},
		"host":                                 {Input{Exit: exit(func(x *Exit) { x.HostError = "push agent: disk full"; x.AgentLost = true })}, record.Error, "push agent: disk full", ""},
		"host does not hide time":              {Input{Exit: exit(func(x *Exit) { x.HostError = "ssh: closed"; x.TimedOut = true })}, record.Hang, "no progress", ""},
		"protocol":                             {Input{Records: script("ok:x"), Exit: exit(func(x *Exit) { x.Protocol = "record 3: seq 9"; x.AgentSignal = "KILL" })}, record.Error, "the agent broke the record protocol", "seq 9"},
		"agent panics":                         {Input{Records: script("ok:x"), Exit: exit(func(x *Exit) { x.AgentCode = 2; x.AgentStderr = "panic: nil" })}, record.Error, "agent exited with status 2 without done", "panic: nil"},
		"silent boot":                          {Input{Exit: Exit{BootProven: true, SilentAfter: "ACPI: x", TimedOut: true}}, record.Hang, `silent after "ACPI: x"`, "never reached userspace"},
		"silent boot, unproven":                {Input{Exit: Exit{SilentAfter: "ACPI: x", TimedOut: true}}, record.Error, `does not boot: silent after "ACPI: x"`, "no kernel was seen"},
		"panic at boot":                        {Input{Reports: []record.Report{oops}, Exit: Exit{BootProven: true}}, record.Crash, oops.Title, ""},
		"panic at boot, unproven":              {Input{Reports: []record.Report{oops}, Exit: Exit{Panicked: true}}, record.Error, "does not boot: " + oops.Title, ""},
		"skip":                                 {Input{Records: script("ok:x", "skip:no IOMMUFD", "done"), Exit: fine}, record.Skip, "no IOMMUFD", "no IOMMUFD"},
		"skip without done":                    {Input{Records: script("skip:no IOMMUFD"), Exit: fine}, record.Skip, "no IOMMUFD", ""},
		"skip and exit 2":                      {Input{Records: script("skip:no IOMMUFD"), Exit: exit(func(x *Exit) { x.AgentCode = 2 })}, record.Error, "agent skipped and did not end well", ""},
		"skip ruled out":                       {Input{Records: script("skip:no IOMMUFD", "done"), Exit: fine, SkipRefuted: "the configuration says y"}, record.Fail, "a skip without its cause: no IOMMUFD", "the configuration says y"},
		"fail over skip":                       {Input{Records: script("no:x", "skip:y", "done"), Exit: fine}, record.Fail, "x", ""},
		"cancelled":                            {Input{Records: script("done"), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.Cancelled = true })}, record.Invalid, "", "cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Judge(c.in)
			assert.Equal(t, o.Verdict, c.want, "%s: %s", o.Title, o.Reason)
			assert.Equal(t, o.Title, c.title)
			assert.Assert(t, strings.Contains(o.Reason, c.reason), "reason %q", o.Reason)
			assert.Equal(t, o.Signature != "", o.Verdict.Bad())
			assert.Equal(t, o.Schema, OutcomeSchema)
			if c.want != record.Pass && c.want != record.Invalid {
				assert.Assert(t, o.Title != "")
			}
		})
	}
}

// Whatever is missing, cut or contradictory, only a stream with done and nothing else against it is green.
func TestJudgeIsNeverGreenByAccident(t *testing.T) {
	whole := script("step:a", "ok:x", "ok:y", "done")
	for n := range len(whole) {
		o := Judge(Input{Records: whole[:n], Exit: fine})
		assert.Assert(t, o.Verdict != record.Pass, "after %d records", n)
	}
	for _, change := range []func(*Exit){
		func(x *Exit) { x.HostError = "x" }, func(x *Exit) { x.Protocol = "x" }, func(x *Exit) { x.Panicked = true },
		func(x *Exit) { x.Booted = false }, func(x *Exit) { x.Cancelled = true }, func(x *Exit) { x.AgentCode = 1 },
	} {
		assert.Assert(t, Judge(Input{Records: whole, Exit: exit(change)}).Verdict != record.Pass)
	}
}

func TestJudgeKeepsTheStepOfTheFirstFalseClaim(t *testing.T) {
	o := Judge(Input{Records: script("step:one", "no:x", "step:two", "ok:y", "done"), Exit: fine})
	assert.Equal(t, o.Step, "one")
	assert.Equal(t, o.Check.Claim, "x")
	assert.Equal(t, o.Checks, 3)
	o = Judge(Input{Records: script("step:one", "no:x", "step:two"), Reports: []record.Report{warn}, Exit: fine})
	assert.Equal(t, o.Step, "two")
	assert.Equal(t, o.Signature, warn.Signature)
}

func TestSignatureIsStableOverNumbers(t *testing.T) {
	assert.Equal(t, signature("refcount 3, want 0x1f"), signature("refcount 12, want 0x2"))
	assert.Assert(t, signature("a") != signature("b"))
}

// A report that a scenario declares must come, as it was declared and with nothing beside it; one that ends the
// kernel stands for the done that cannot come any more, and for nothing else.
func TestJudgeDeclaredReports(t *testing.T) {
	later := report("WARNING in g", record.ClassWarn, false, 30)
	early := report("WARNING in g", record.ClassWarn, false, 15)
	soft := report(oops.Title, record.ClassOops, false, 20)
	wrongClass := report(oops.Title, record.ClassBug, true, 20)
	fault := report(dmar.Title, record.ClassIOMMU, false, 25)
	grouped := oops
	grouped.Followers = []record.Report{later}
	dying, panics := []string{"step:a", "ok:x", "dies:paging request"}, exit(func(x *Exit) { x.Panicked, x.Reset, x.QEMUExited = true, true, true })
	with := func(more ...string) []record.Record { return script(append(append([]string{}, dying...), more...)...) }

	for name, c := range map[string]struct {
		in     Input
		want   record.Verdict
		title  string
		reason string // a part of it
	}{
		"it ended the kernel":            {Input{Records: with(), Reports: []record.Report{oops}, Exit: fine}, record.Pass, "", "reported, as declared: " + oops.Title},
		"and the agent lived":            {Input{Records: with("done"), Reports: []record.Report{oops}, Exit: fine}, record.Pass, "", oops.Title},
		"and took the agent along":       {Input{Records: with(), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.AgentSignal = "SEGV" })}, record.Pass, "", oops.Title},
		"and the connection":             {Input{Records: with(), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.AgentLost = true })}, record.Pass, "", oops.Title},
		"and the agent's status":         {Input{Records: with("done"), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.AgentCode = 2 })}, record.Pass, "", oops.Title},
		"and panicked":                   {Input{Records: with(), Reports: []record.Report{oops}, Exit: panics}, record.Pass, "", oops.Title},
		"and what followed":              {Input{Records: with(), Reports: []record.Report{oops, later}, Exit: fine}, record.Pass, "", oops.Title},
		"and what followed, grouped":     {Input{Records: with(), Reports: []record.Report{grouped}, Exit: fine}, record.Pass, "", oops.Title},
		"nothing came":                   {Input{Records: with("done"), Exit: fine}, record.Fail, `not reported: a report "paging request" of class oops that ends the kernel`, "must report"},
		"nothing came, nor done":         {Input{Records: with(), Exit: fine}, record.Error, "agent exited with status 0 without done", ""},
		"nothing came, no progress":      {Input{Records: with(), Exit: exit(func(x *Exit) { x.TimedOut = true })}, record.Hang, `no progress in step "a"`, ""},
		"nothing came, the agent gone":   {Input{Records: with(), Exit: exit(func(x *Exit) { x.AgentLost = true })}, record.Hang, `connection to the guest lost in step "a"`, ""},
		"nothing came, but a panic":      {Input{Records: with(), Exit: exit(func(x *Exit) { x.Panicked = true })}, record.Crash, "kernel panic", ""},
		"nothing came, but a reset":      {Input{Records: with(), Exit: exit(func(x *Exit) { x.Reset = true })}, record.Crash, "the guest reset itself", ""},
		"another came":                   {Input{Records: with("done"), Reports: []record.Report{warn}, Exit: fine}, record.Crash, warn.Title, `declared, and not reported: a report "paging request"`},
		"another came before it":         {Input{Records: with(), Reports: []record.Report{early, oops}, Exit: fine}, record.Crash, early.Title, ""},
		"another class":                  {Input{Records: with(), Reports: []record.Report{wrongClass}, Exit: fine}, record.Crash, oops.Title, "of class oops"},
		"it did not end the kernel":      {Input{Records: with("done"), Reports: []record.Report{soft}, Exit: fine}, record.Crash, oops.Title, "that ends the kernel"},
		"an IOMMU fault":                 {Input{Records: with(), Reports: []record.Report{oops}, Faults: 1, Exit: fine}, record.Crash, "unexpected IOMMU fault", ""},
		"an IOMMU fault before it":       {Input{Records: with(), Reports: []record.Report{dmar, oops}, Exit: fine}, record.Crash, "unexpected IOMMU fault", ""},
		"an IOMMU fault behind it":       {Input{Records: with(), Reports: []record.Report{oops, fault}, Exit: fine}, record.Pass, "", ""},
		"the reset of no panic":          {Input{Records: with(), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.Reset, x.QEMUExited = true, true })}, record.Crash, "the guest reset itself", ""},
		"a false claim before it":        {Input{Records: script("no:y", "dies:paging request"), Reports: []record.Report{oops}, Exit: fine}, record.Fail, "y", ""},
		"a false claim behind it":        {Input{Records: with("no:y", "done"), Reports: []record.Report{oops}, Exit: fine}, record.Fail, "y", ""},
		"the agent could not":            {Input{Records: with("broken:no debugfs"), Reports: []record.Report{oops}, Exit: fine}, record.Error, "no debugfs", ""},
		"the host could not":             {Input{Records: with(), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.HostError = "disk full" })}, record.Error, "disk full", ""},
		"the protocol is broken":         {Input{Records: with(), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.Protocol = "seq 9" })}, record.Error, "the agent broke the record protocol", ""},
		"a record was lost":              {Input{Records: with("done:lie"), Reports: []record.Report{oops}, Exit: fine}, record.Error, "a record was lost", ""},
		"QEMU was killed":                {Input{Records: with(), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.QEMUExited, x.QEMUStatus = true, "killed by SIGKILL" })}, record.Error, "QEMU ended early", "SIGKILL"},
		"no progress behind it":          {Input{Records: with(), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.TimedOut = true })}, record.Hang, `no progress in step "a"`, ""},
		"cancelled":                      {Input{Records: with(), Reports: []record.Report{oops}, Exit: exit(func(x *Exit) { x.Cancelled = true })}, record.Invalid, "", ""},
		"a warning was declared":         {Input{Records: script("expect:^WARNING in kvm_", "done"), Reports: []record.Report{warn}, Exit: fine}, record.Pass, "", "reported, as declared: " + warn.Title},
		"a warning, and no done":         {Input{Records: script("expect:^WARNING in kvm_"), Reports: []record.Report{warn}, Exit: fine}, record.Error, "agent exited with status 0 without done", ""},
		"a warning did not come":         {Input{Records: script("expect:^WARNING in kvm_", "done"), Exit: fine}, record.Fail, `not reported: a report "^WARNING in kvm_" of class warn`, ""},
		"a false claim over none":        {Input{Records: script("no:x", "expect:^WARNING in kvm_", "done"), Exit: fine}, record.Fail, "x", ""},
		"skipped, so none is owed":       {Input{Records: script("expect:^WARNING in kvm_", "skip:not here", "done"), Exit: fine}, record.Skip, "not here", ""},
		"a warning that ends the kernel": {Input{Records: script("expect:paging", "done"), Reports: []record.Report{report(oops.Title, record.ClassWarn, true, 20)}, Exit: fine}, record.Crash, oops.Title, "of class warn"},
		"one of two came":                {Input{Records: script("expect:^WARNING in kvm_", "expect:^WARNING in g", "done"), Reports: []record.Report{warn}, Exit: fine}, record.Fail, `not reported: a report "^WARNING in g" of class warn`, ""},
		"two came":                       {Input{Records: script("expect:^WARNING in kvm_", "expect:^WARNING in g", "done"), Reports: []record.Report{warn, later}, Exit: fine}, record.Pass, "", "reported, as declared: " + warn.Title + "; " + later.Title},
		"a warning, then the end":        {Input{Records: script("expect:^WARNING in kvm_", "dies:paging"), Reports: []record.Report{warn, oops}, Exit: fine}, record.Pass, "", warn.Title + "; " + oops.Title},
		"the end, no warning before it":  {Input{Records: script("expect:^WARNING in g", "dies:paging"), Reports: []record.Report{oops, later}, Exit: fine}, record.Fail, `not reported: a report "^WARNING in g" of class warn`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := Judge(c.in)
			assert.Equal(t, o.Verdict, c.want, "%s: %s", o.Title, o.Reason)
			assert.Equal(t, o.Title, c.title)
			assert.Assert(t, strings.Contains(o.Reason, c.reason), "reason %q", o.Reason)
		})
	}
}
