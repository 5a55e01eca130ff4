package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A task that sleeps in TASK_UNINTERRUPTIBLE for longer than kernel.hung_task_timeout_secs is reported by khungtaskd.
// mutex_lock sleeps so, and a pipe's mutex is held while a write copies what it was given: one writer whose
// memory is not there keeps a second one waiting for as long as is needed, on any kernel. Once it has the memory
// both go on, and nothing is left of it all.
//
// The report is named after what waits, pipe_write, which became anon_pipe_write in 6.16.
var _ = lab.Register(lab.Scenario{
	Name:    "detect-hung-task",
	Summary: "the report of a task that waits for a mutex for too long is found, and the task goes on",
	Area:    lab.Detect,
	Needs:   lab.Needs{Options: []string{"CONFIG_DETECT_HUNG_TASK", "CONFIG_USERFAULTFD"}},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		t.Sysctl("kernel/hung_task_timeout_secs", "2")
		_, end := t.Pipe()
		page := t.NewAbsentPage()
		kernel := t.KernelLog()
		write := func(what string, data []byte) *lab.Pending {
			return t.Start(what, func() error {
				_, err := unix.Write(end.FD(), data)
				return err
			})
		}

		t.Step("write to a pipe what is not there")
		first := write("a write of what is not there", page.Mem())
		t.Check(first.BlockedIn("handle_userfault", 10*time.Second), "the write waits for its memory, and has the pipe's mutex")

		t.Step("write to it a second time")
		t.Expect(record.Expect{
			Title: "^INFO: task hung in (anon_)?pipe_write$", Class: record.ClassHung, Why: "a writer that waits for another",
		})
		second := write("a write that waits for the other", []byte{1})
		t.Check(kernel.Prints(lab.HungTask, 15*time.Second), "the kernel prints that the task hangs")

		t.Step("give the memory: both go on")
		page.Give()
		t.WantErr(first.Wait(5*time.Second), nil, "the first write is done")
		t.WantErr(second.Wait(5*time.Second), nil, "and so is the second")
	},
})
