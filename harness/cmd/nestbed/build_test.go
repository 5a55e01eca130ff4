package main

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// A terminal has one line that changes and goes; a file has whole lines, and not many.
func TestStatusLine(t *testing.T) {
	var b strings.Builder
	s := newStatusLine(&b)
	s.compiled(1, 0, "kernel/fork.o")
	assert.Equal(t, b.String(), "", "too early")
	s.every = 0
	s.compiled(2, 1900, "kernel/exit.o")
	s.say("imported")
	s.end()
	assert.Equal(t, b.String(), "nestbed: compiled 2 of 1900 files, now kernel/exit.o\nnestbed: imported\n")

	b.Reset()
	s = newStatusLine(&b)
	s.live, s.every = true, 0
	s.compiled(1, 0, strings.Repeat("deep/", 30)+"fork.o")
	s.compiled(2, 1, "kernel/\x1bexit.o")
	s.say("imported")
	s.compiled(3, 0, "last.o")
	s.end()
	lines := strings.Split(b.String(), "\r\x1b[K")
	assert.Equal(t, len(lines[0]), 79)
	assert.Assert(t, !strings.Contains(lines[1], "\x1b"), "%q", lines[1])
	assert.DeepEqual(t, lines[2:], []string{"nestbed: imported\ncompiled 3 files, now last.o", ""})
}
