package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Starved is how long that thread of QEMU's has waited for a CPU of the host which has waited longest. Time
// that passes so is not the guest's: a deadline that does not deduct it blames a kernel for a busy host.
// It is 0 where the host does not count it, and once QEMU has ended what it was when last asked for.
func (p *Process) Starved() time.Duration {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	if err != nil { // only a bad pattern
		panic(err)
	}
	longest := time.Duration(p.starved.Load())
	for _, name := range threads {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		var run, wait int64
		if _, err := fmt.Sscan(string(data), &run, &wait); err == nil {
			longest = max(longest, time.Duration(wait))
		}
	}
	p.starved.Store(int64(longest)) // two callers at once are of one mind but for an instant
	return longest
}
