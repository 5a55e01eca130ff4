package scenarios

import (
	"os"
	"time"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// Who writes c to /proc/sysrq-trigger gets a panic, by sysrq_handle_crash: it is what every kernel can be made to
// report. The panic resets the guest at once, and the report is all that is left of it.
var _ = lab.Register(lab.Scenario{
	Name:    "detect-sysrq-c",
	Summary: "the panic of SysRq c is found, and found to be nothing else",
	Area:    lab.Detect,
	Needs:   lab.Needs{Options: []string{"CONFIG_MAGIC_SYSRQ"}},
	Timeout: 20 * time.Second,
	Run: func(t *lab.T) {
		t.Step("crash the kernel")
		t.Provoke(record.Expect{
			Title: "^kernel panic: sysrq triggered crash$", Class: record.ClassPanic, Fatal: true, Why: "SysRq c",
		}, 10*time.Second, sysrqTrigger, "c")
	},
})

var sysrqTrigger = lab.RegisterChild("sysrq-trigger", func(c *lab.C) error {
	return os.WriteFile("/proc/sysrq-trigger", []byte(c.Args[0]), 0)
})
