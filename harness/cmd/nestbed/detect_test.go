package main

import (
	"encoding/json"
	"os"
	"testing"

	"gotest.tools/v3/assert"
)

// Real reports of every kind that can be provoked: on the kernels that have the kernel's own crash tests, with and
// without sanitizers, and on those that have none.
func TestDetectEverywhere(t *testing.T) {
	if os.Getenv("NESTBED_ALL") == "" {
		t.Skip("make test-all builds the kernels that it needs, for an hour")
	}
	for _, k := range stockKernels {
		t.Run(k.spec, func(t *testing.T) { detect(t, k.spec, 3) })
	}
	for _, source := range []string{"debian-source:6.12", "debian-source:trixie-backports/7.3"} {
		for _, f := range []struct {
			name  string
			least int
		}{{"base", 45}, {"kasan", 50}} {
			t.Run(source+"/"+f.name, func(t *testing.T) {
				status, stdout, stderr := finish(t, nestbed(t, "kernel", "build", source, "--flavour", f.name, "--json"))
				assert.Equal(t, status, 0, stderr)
				var k struct{ Spec string }
				assert.NilError(t, json.Unmarshal([]byte(stdout), &k))
				detect(t, k.Spec, f.least)
			})
		}
	}
}
