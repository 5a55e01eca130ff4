package kernels

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// importLimited is a process whose disk is full after so many bytes. It ends with 0 if the import succeeded, 3 if
// it failed for that, 1 otherwise.
func importLimited(limit, cache, spec string) int {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGXFSZ) // else the Go runtime dies of it
	size, err := strconv.ParseUint(limit, 10, 64)
	if err == nil {
		err = unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: size})
	}
	var c *Cache
	if err == nil {
		c, err = Open(cache)
	}
	if err == nil {
		_, err = c.Resolve(context.Background(), spec, nil)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, unix.EFBIG):
		return 3
	}
	fmt.Println(err)
	return 1
}

// Whichever file of an import does not fit, the import fails for that, leaves nothing behind, and succeeds when
// there is room again.
func TestImportWithoutRoom(t *testing.T) {
	for name, spec := range map[string]string{
		"folder":  tree(t, fakeKernel(t, fakeRelease)),
		"package": writeDeb(t, "x.deb", fakeDeb(t, "", ".gz", fakeKernel(t, fakeRelease))),
	} {
		t.Run(name, func(t *testing.T) {
			failed := 0
			// The image has 1024 bytes, modules some 500, kernel.json 900, the package's spool 4000.
			for _, size := range []int{1, 200, 600, 1000, 1025, 3000, 1 << 20} {
				c := testCache(t)
				child := exec.Command(os.Args[0], c.dir, spec)
				child.Env = append(os.Environ(), limitEnv+"="+strconv.Itoa(size))
				out, _ := child.CombinedOutput() // its status is looked at
				status := child.ProcessState.ExitCode()
				if status == 0 {
					continue
				}
				failed++
				assert.Check(t, status == 3, "%d bytes: status %d: %s", size, status, out)
				assertIdle(t, c)
				list, err := c.List()
				assert.NilError(t, err)
				assert.Equal(t, len(list), 0, "an entry that was never finished")
				resolve(t, c, spec)
			}
			assert.Assert(t, failed >= 3 && failed < 7, "%d", failed)
		})
	}
}
