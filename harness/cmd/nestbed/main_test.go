package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/results"
)

// Trouble with the host's disk comes with the way out, however deep it lies.
func TestComplaintsNameTheWayOut(t *testing.T) {
	write := func(errno syscall.Errno) error { return &fs.PathError{Op: "write", Path: "/x/y", Err: errno} }
	for want, err := range map[string]error{
		"make room, for example with nestbed cache prune": fmt.Errorf("a: %w", errors.Join(errors.New("b"), write(syscall.ENOSPC))),
		"XDG_STATE_HOME or --output (runs) and TMPDIR":    multierror.Append(nil, fmt.Errorf("c: %w", &pool.FullError{Dir: "/x", Err: syscall.EDQUOT})),
		"what is there already can be used; to write":     write(syscall.EROFS),
		"ulimit -f unlimited":                             &pool.FullError{Dir: "/x", Err: syscall.EFBIG},
		"nestbed: evil \\x1b[2J\n":                        errors.New("evil \x1b[2J"),
	} {
		var out bytes.Buffer
		complain(&out, err)
		assert.Check(t, cmp.Contains(out.String(), want))
	}
}

// A wall clock that jumps back during a run makes no negative time of it.
func TestElapsedWhenTheClockJumps(t *testing.T) {
	now := time.Now()
	run, err := results.Create(t.TempDir(), results.Header{Started: now})
	assert.NilError(t, err)
	assert.Equal(t, elapsed(run, []results.Cell{{Started: now.Add(-time.Hour), Duration: 5}}), time.Duration(0))
	assert.Equal(t, elapsed(run, []results.Cell{{Started: now.Add(time.Second), Duration: 5}, {Started: now.Add(-time.Hour)}}), 6*time.Second)
}
