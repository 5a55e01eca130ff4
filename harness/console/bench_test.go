package console

import (
	"bytes"
	"os"
	"testing"

	"gotest.tools/v3/assert"
)

func BenchmarkParseClean(b *testing.B) {
	one, err := os.ReadFile("testdata/clean-debian-6.1.192-intel.log")
	assert.NilError(b, err)
	log := bytes.Repeat(one, 200)
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		if got := Parse(log); len(got) != 0 {
			b.Fatal("a report in a clean log")
		}
	}
}

func BenchmarkParseRecursion(b *testing.B) {
	log, err := os.ReadFile("testdata/l1-debian-6.12.117-amd-panic-recursion.log")
	assert.NilError(b, err)
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		Parse(log)
	}
}
