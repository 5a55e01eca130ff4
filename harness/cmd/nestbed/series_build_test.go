package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/series"
	"github.com/nestbed/nestbed/kernels/build"
)

// The folder of a build has one log, which the next patch's build begins anew: the report keeps those that failed.
func TestLogOfAFailedBuildIsKept(t *testing.T) {
	out := filepath.Join(t.TempDir(), "base.log")
	text := ""
	b := &seriesBuilder{tree: "/tree", dir: t.TempDir(), build: func(context.Context, build.Request) (build.Result, error) {
		assert.NilError(t, os.WriteFile(out, []byte(text), 0o644))
		return build.Result{}, &build.FailedError{Target: "bzImage", First: "/tree/virt/kvm/vfio.c:7: error: x", Log: out}
	}}
	logs := map[string]string{}
	for _, text = range []string{"of patch 1", "of patch 2"} {
		_, err := b.Build(t.Context(), "/tree", "base")
		failed, ok := errors.AsType[*series.BuildError](err)
		assert.Assert(t, ok, "%v", err)
		assert.Equal(t, failed.First, "virt/kvm/vfio.c:7: error: x")
		logs[failed.Log] = text
	}
	assert.Equal(t, len(logs), 2)
	for name, want := range logs {
		got, err := os.ReadFile(name)
		assert.NilError(t, err)
		assert.Equal(t, string(got), want)
	}
}

// A patch that takes an option away is the one to be named, not nestbed.
func TestOptionThatAPatchTakesAwayIsThePatchsFault(t *testing.T) {
	b := &seriesBuilder{build: func(context.Context, build.Request) (build.Result, error) {
		return build.Result{}, &build.OptionsError{Tree: "/tree", Missing: []string{"CONFIG_KVM: want m (kvm.config, line 3), have n: needs X", "CONFIG_VFIO: want m"}}
	}}
	_, err := b.Build(t.Context(), "/tree", "base")
	failed, ok := errors.AsType[*series.BuildError](err)
	assert.Assert(t, ok, "%v", err)
	assert.Equal(t, failed.First, "CONFIG_KVM: want m (kvm.config, line 3), have n: needs X\nCONFIG_VFIO: want m")
}
