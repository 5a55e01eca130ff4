package kprobe

import (
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"
)

func TestCounter(t *testing.T) {
	root := fs.NewDir(t, "root", fs.WithDir("sys", fs.WithDir("kernel", fs.WithDir("tracing",
		fs.WithFile("kprobe_events", "p:other/one one\n"),
		fs.WithFile("kprobe_profile", "  one    7    0\n  dma_buf_put    3    0\n  lossy    3    1\n"),
		fs.WithDir("events", fs.WithDir(group,
			fs.WithDir("dma_buf_put", fs.WithFile("enable", "0\n")),
			fs.WithDir("lossy", fs.WithFile("enable", "0\n"))))))))
	c, err := Count(root.Path(), "dma_buf_put")
	assert.NilError(t, err)
	hits, err := c.Hits()
	assert.NilError(t, err)
	assert.Equal(t, hits, 3)
	assert.NilError(t, c.Close())
	text, err := os.ReadFile(root.Join("sys/kernel/tracing/kprobe_events"))
	assert.NilError(t, err)
	assert.Equal(t, string(text), "p:other/one one\np:nestbed/dma_buf_put dma_buf_put\n-:nestbed/dma_buf_put\n")

	event, err := Event(root.Path(), "kvfree_call_rcu", "ptr=%si:x64")
	assert.NilError(t, err)
	assert.Equal(t, event, "nestbed/kvfree_call_rcu")
	text, err = os.ReadFile(root.Join("sys/kernel/tracing/kprobe_events"))
	assert.NilError(t, err)
	assert.Assert(t, strings.HasSuffix(string(text), "\np:nestbed/kvfree_call_rcu kvfree_call_rcu ptr=%si:x64\n"), string(text))

	// A count that is known to be short is none.
	lossy, err := Count(root.Path(), "lossy")
	assert.NilError(t, err)
	_, err = lossy.Hits()
	assert.Error(t, err, "kprobe lossy: 1 calls were not counted")
	_, err = Count(t.TempDir(), "anything")
	assert.ErrorIs(t, err, ErrNoProbes)

	// A file that refuses the words as tracefs refuses a function that is not there: with EINVAL.
	assert.NilError(t, os.Remove(root.Join("sys/kernel/tracing/kprobe_events")))
	assert.NilError(t, os.Symlink("/proc/self/oom_score_adj", root.Join("sys/kernel/tracing/kprobe_events")))
	_, err = Count(root.Path(), "anything")
	assert.ErrorIs(t, err, ErrNoSymbol)
}
