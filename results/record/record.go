// Package record defines what an agent says and what a cell ends as: Record, Report, Verdict and
// their JSON schema.
//
// It owns the words that cross from the guest to the host and from a run to its reader, and the limits
// on them. It does not own how they are judged (package results), carried (harness/guest) or found in a
// console log (harness/console). Standard library only: the agent links it.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Schema names the version of the record stream; it stands in the first record, Hello.
// A reader accepts unknown fields and refuses another major version.
const Schema = "nestbed/record/1"

// Limits on what a guest may say. A line beyond MaxLine or a stream beyond MaxRecords is a protocol error.
const (
	MaxLine    = 64 << 10 // bytes, newline included
	MaxRecords = 100_000
	maxText    = 8 << 10 // bytes of any one text field
)

// Kind says which of Record's bodies is set.
type Kind string

// The kinds of record, in the order in which a run meets them.
const (
	KindHello  Kind = "hello"  // first, exactly once
	KindStep   Kind = "step"   // a new section of the scenario
	KindCheck  Kind = "check"  // a claim, true or false
	KindLog    Kind = "log"    // evidence
	KindCall   Kind = "call"   // a request to the host; answered by a Reply on the agent's stdin
	KindExpect Kind = "expect" // a kernel report or IOMMU fault that the scenario provokes on purpose
	KindBeat   Kind = "beat"   // once a second while a scenario runs: the agent is alive
	KindSkip   Kind = "skip"   // the scenario found in the guest that it cannot run there
	KindBroken Kind = "broken" // the agent could not do its work; says nothing about the kernel
	KindDone   Kind = "done"   // last, exactly once, after the closing invariant
)

// Record is one line of the stream. Exactly the body that Kind names is set; beat has none.
type Record struct {
	Seq    int         `json:"seq"` // 1, 2, 3 ... without gaps
	T      float64     `json:"t"`   // seconds since the agent started, guest monotonic clock
	Kind   Kind        `json:"kind"`
	Hello  *Hello      `json:"hello,omitempty"`
	Step   *Step       `json:"step,omitempty"`
	Check  *Check      `json:"check,omitempty"`
	Log    *Log        `json:"log,omitempty"`
	Call   *Call       `json:"call,omitempty"`
	Expect *Expect     `json:"expect,omitempty"`
	Skip   *SkipReason `json:"skip,omitempty"`
	Broken *Broken     `json:"broken,omitempty"`
	Done   *Done       `json:"done,omitempty"`
}

// Hello introduces the agent.
type Hello struct {
	Schema    string `json:"schema"`
	Scenario  string `json:"scenario"`
	Variant   string `json:"variant,omitempty"`
	Catalogue string `json:"catalogue"` // hash of scenarios/ and lab/ that the agent was built from
	Kernel    string `json:"kernel"`    // uname -r
	Machine   string `json:"machine"`   // uname -m
	PID       int    `json:"pid"`
}

// Step opens a section of the scenario; checks and calls that follow belong to it.
type Step struct {
	Text string `json:"text"`
}

// Check is a claim about the kernel. A false one makes the cell fail.
type Check struct {
	OK        bool   `json:"ok"`
	Claim     string `json:"claim"`               // what should hold: "references back at the baseline"
	Op        string `json:"op,omitempty"`        // the operation: "delete_module kvm_amd"
	Want      string `json:"want,omitempty"`      // as text: "EWOULDBLOCK"
	Got       string `json:"got,omitempty"`       // as text: "success"
	Site      string `json:"site,omitempty"`      // file:line of the claim
	Invariant bool   `json:"invariant,omitempty"` // part of the closing invariant, not of the scenario
}

// Log is evidence for a reader; it never changes a verdict.
type Log struct {
	Text string `json:"text"`
	From string `json:"from,omitempty"` // FromProgram or FromExit, when nestbed exec runs a program
}

// Call asks the host to do something that only it can. The host answers each with one Reply.
type Call struct {
	ID     int    `json:"id"` // 1, 2, 3 ... per stream
	Verb   Verb   `json:"verb"`
	Device string `json:"device,omitempty"` // a name from the scenario's Needs
	Slot   int    `json:"slot,omitempty"`   // 1-based root port
}

// Verb is what a Call asks for.
type Verb string

// The verbs that a host answers.
const (
	VerbPlug   Verb = "plug"   // device_add Device behind root port Slot; answered when QEMU has it
	VerbUnplug Verb = "unplug" // device_del Device; answered at once, DEVICE_DELETED follows as an Event
	VerbFaults Verb = "faults" // Reply.Faults: IOMMU faults that QEMU traced since boot
	VerbNMI    Verb = "nmi"    // inject-nmi
)

// Expect declares something that would otherwise be a crash, from here to the end of the scenario. A fault may
// come, a report must. Class and Fatal are of the report with the title.
type Expect struct {
	Fault bool   `json:"fault,omitempty"` // an IOMMU fault
	Title string `json:"title,omitempty"` // a kernel report whose title matches this regular expression
	Class Class  `json:"class,omitempty"` // which is of this class; empty: of any
	Fatal bool   `json:"fatal,omitempty"` // which ends the kernel, so that the agent says no more: not even done
	Why   string `json:"why"`
}

// SkipReason says why the scenario cannot run in this guest, what would make it run, and which fact that
// rests on. The host knows the fact without the guest: a kernel that has lost something must not be excused
// by its own word.
type SkipReason struct {
	Kind    SkipKind     `json:"kind,omitempty"`
	Reason  string       `json:"reason"`
	Remedy  string       `json:"remedy,omitempty"`
	Option  string       `json:"option,omitempty"`   // with config: "CONFIG_X", which the kernel was built without
	BuiltIn string       `json:"built_in,omitempty"` // with config: a module that the kernel has built in
	Since   string       `json:"since,omitempty"`    // with version: "5.7", the first kernel that has it
	Limit   MachineLimit `json:"limit,omitempty"`    // with machine
}

// SkipKind is the kind of fact that a skip rests on.
type SkipKind string

// The kinds.
const (
	SkipConfig  SkipKind = "config"  // how the kernel was configured: Option or BuiltIn
	SkipVersion SkipKind = "version" // the kernel is older than Since
	SkipMachine SkipKind = "machine" // what this QEMU's machine cannot show: Limit
)

// MachineLimit is something that a machine cannot show whatever its kernel does.
type MachineLimit string

// The limits.
const (
	LimitDeafIOAPIC MachineLimit = "deaf-ioapic" // no interrupt of the IO-APIC arrives
	LimitNVMeFLR    MachineLimit = "nvme-flr"    // nvme has no function level reset
)

// Broken says that the harness or its guest set-up failed, not the kernel: a device that is dead, a
// module file that is missing.
type Broken struct {
	Reason string `json:"reason"`
}

// Done closes the stream.
type Done struct {
	Checks int `json:"checks"` // number of check records sent, so that a lost one is noticed
	Failed int `json:"failed"`
}

// Reply answers one Call, as one line on the agent's standard input.
type Reply struct {
	ID     int    `json:"id"`
	Error  string `json:"error,omitempty"` // what the host could not do; empty is success
	Faults int    `json:"faults,omitempty"`
}

// Event tells the agent what QEMU reported, as one line on its standard input, between replies.
type Event struct {
	Name   string `json:"event"` // QMP's name: DEVICE_DELETED
	Device string `json:"device,omitempty"`
	Slot   int    `json:"slot,omitempty"` // the root port of a Device that a Call plugged in
}

// Input is one line of the agent's standard input: a Reply or an Event.
type Input struct {
	Reply *Reply `json:"reply,omitempty"`
	Event *Event `json:"event,omitempty"`
}

// ErrProtocol is wrapped by every error about a stream that breaks its rules.
var ErrProtocol = errors.New("record protocol")

// Reader checks a stream of records: each line's shape, the order, the numbering, the limits.
// The zero value is ready.
type Reader struct {
	n     int
	calls int
	done  bool
}

// Parse reads one line (without its newline) as the stream's next record. Errors wrap ErrProtocol.
func (r *Reader) Parse(line []byte) (Record, error) {
	var rec Record
	if len(line) > MaxLine {
		return rec, fmt.Errorf("%w: line of %d bytes, limit %d", ErrProtocol, len(line), MaxLine)
	}
	if r.done {
		return rec, fmt.Errorf("%w: a record after done", ErrProtocol)
	}
	if r.n >= MaxRecords {
		return rec, fmt.Errorf("%w: more than %d records", ErrProtocol, MaxRecords)
	}
	if err := json.Unmarshal(line, &rec); err != nil {
		return rec, fmt.Errorf("%w: record %d: %v", ErrProtocol, r.n+1, err)
	}
	if err := r.check(rec); err != nil {
		return rec, fmt.Errorf("%w: record %d: %v", ErrProtocol, r.n+1, err)
	}
	r.n++
	if rec.Kind == KindCall {
		r.calls++
	}
	r.done = rec.Kind == KindDone
	return rec, nil
}

func (r *Reader) check(rec Record) error {
	if rec.Seq != r.n+1 {
		return fmt.Errorf("seq %d, want %d", rec.Seq, r.n+1)
	}
	if (r.n == 0) != (rec.Kind == KindHello) {
		return fmt.Errorf("%q where hello comes first and once", cut(string(rec.Kind), 32))
	}
	if err := rec.body(); err != nil {
		return err
	}
	switch rec.Kind {
	case KindHello:
		if rec.Hello.Schema != Schema {
			return fmt.Errorf("schema %q, this nestbed reads %q", cut(rec.Hello.Schema, 64), Schema)
		}
	case KindCall:
		if rec.Call.ID != r.calls+1 {
			return fmt.Errorf("call id %d, want %d", rec.Call.ID, r.calls+1)
		}
	}
	return nil
}

// body reports whether exactly the body that Kind names is set and its texts are within bounds.
func (rec Record) body() error {
	bodies := []struct {
		kind Kind
		set  bool
		text []string
	}{
		{KindHello, rec.Hello != nil, texts(rec.Hello, func(b *Hello) []string { return []string{b.Scenario, b.Variant, b.Catalogue, b.Kernel} })},
		{KindStep, rec.Step != nil, texts(rec.Step, func(b *Step) []string { return []string{b.Text} })},
		{KindCheck, rec.Check != nil, texts(rec.Check, func(b *Check) []string { return []string{b.Claim, b.Op, b.Want, b.Got, b.Site} })},
		{KindLog, rec.Log != nil, texts(rec.Log, func(b *Log) []string { return []string{b.Text} })},
		{KindCall, rec.Call != nil, texts(rec.Call, func(b *Call) []string { return []string{string(b.Verb), b.Device} })},
		{KindExpect, rec.Expect != nil, texts(rec.Expect, func(b *Expect) []string { return []string{b.Title, string(b.Class), b.Why} })},
		{KindSkip, rec.Skip != nil, texts(rec.Skip, func(b *SkipReason) []string {
			return []string{string(b.Kind), b.Reason, b.Remedy, b.Option, b.BuiltIn, b.Since, string(b.Limit)}
		})},
		{KindBroken, rec.Broken != nil, texts(rec.Broken, func(b *Broken) []string { return []string{b.Reason} })},
		{KindDone, rec.Done != nil, nil},
	}
	known := rec.Kind == KindBeat
	for _, b := range bodies {
		known = known || b.kind == rec.Kind
		if b.set != (b.kind == rec.Kind) {
			return fmt.Errorf("kind %q and body %q do not fit", cut(string(rec.Kind), 32), b.kind)
		}
		for _, s := range b.text {
			if len(s) > maxText {
				return fmt.Errorf("%s: text of %d bytes, limit %d", b.kind, len(s), maxText)
			}
		}
	}
	if !known {
		return fmt.Errorf("unknown kind %q", cut(string(rec.Kind), 32))
	}
	return nil
}

func texts[B any](b *B, of func(*B) []string) []string {
	if b == nil {
		return nil
	}
	return of(b)
}

// Cut shortens a text to fit a record's field.
func Cut(s string) string { return cut(s, maxText) }

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}
