package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/guestagent/bpf"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A CPU that runs no other task for twice kernel.watchdog_thresh seconds is reported by the watchdog's timer. A BPF
// program that is run for a test does that to any kernel, and runs until long after the host has ended the guest.
//
// The report is named after the system call: where in a loop the timer met the CPU is chance. Its wrapper, which has
// sys_ in its name, is no frame of its own on 5.10.
var _ = lab.Register(lab.Scenario{
	Name:    "detect-soft-lockup",
	Summary: "the report of a CPU that is stuck in the kernel is found, and ends the guest",
	Area:    lab.Detect,
	Needs: lab.Needs{
		MinKernel: "5.10",
		Options:   []string{"CONFIG_SOFTLOCKUP_DETECTOR", "CONFIG_BPF_SYSCALL", "CONFIG_BPF_EVENTS"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		t.Sysctl("kernel/watchdog_thresh", "2")
		t.Step("occupy the CPU")
		t.Provoke(record.Expect{
			Title: "^BUG: soft lockup in (sys_)?bpf$", Class: record.ClassLockup, Fatal: true, Why: "a program that does not end",
		}, 30*time.Second, occupy)
	},
})

var occupy = lab.RegisterChild("occupy-cpu", func(*lab.C) error { return bpf.Occupy() })
