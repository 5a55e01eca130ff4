package record

import "fmt"

// Verdict is how a cell ended. The zero value is Invalid and never green.
type Verdict uint8

// The verdicts. See the package doc of results for how one comes about.
const (
	Invalid Verdict = iota
	Pass            // every claim held, the agent said done, the console is clean
	Fail            // a claim was false
	Crash           // the kernel reported a bug
	Hang            // no progress and no kernel report, or the guest was lost while QEMU lives
	Known           // fail, crash or hang that the known-issues file explains
	Skip            // did not run, with a reason
	Error           // nestbed, QEMU or the host is broken; says nothing about the kernel
)

var verdictNames = [...]string{"invalid", "pass", "fail", "crash", "hang", "known", "skip", "error"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// MarshalText writes the verdict's name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads a verdict's name; an unknown one is an error.
func (v *Verdict) UnmarshalText(text []byte) error {
	for i, name := range verdictNames {
		if name == string(text) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("unknown verdict %q", cut(string(text), 32))
}

// Bad reports whether the verdict speaks against the kernel (fail, crash, hang).
func (v Verdict) Bad() bool { return v == Fail || v == Crash || v == Hang }

// ExitStatus of a run: 2 if a cell is error or has no verdict, else 1 if one is bad, else 0.
func ExitStatus(verdicts ...Verdict) int {
	status := 0
	for _, v := range verdicts {
		switch {
		case v == Error || v == Invalid:
			return 2
		case v.Bad():
			status = 1
		}
	}
	return status
}
