package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nestbed/nestbed/harness/doctor"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/snapshot"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
)

// cacheVersion changes when a new nestbed cannot read an old one's cache.
const cacheVersion = "v1"

// home is where nestbed keeps things on this host.
type home struct {
	cache string // $XDG_CACHE_HOME/nestbed/v1
	runs  string // $XDG_STATE_HOME/nestbed/runs, or what --output says
}

func findHome(output string) (home, error) {
	cache, err := os.UserCacheDir() // honours XDG_CACHE_HOME
	if err != nil {
		return home{}, fmt.Errorf("find the cache folder: %w; set XDG_CACHE_HOME", err)
	}
	h := home{cache: filepath.Join(cache, "nestbed", cacheVersion), runs: output}
	if h.runs != "" {
		return h, nil
	}
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		user, err := os.UserHomeDir()
		if err != nil {
			return home{}, fmt.Errorf("find the folder for runs: %w; set XDG_STATE_HOME or give --output DIR", err)
		}
		state = filepath.Join(user, ".local", "state")
	}
	h.runs = filepath.Join(state, "nestbed", "runs")
	return h, nil
}

func (h home) kernels() (*kernels.Cache, error) {
	return kernels.Open(filepath.Join(h.cache, "kernels"))
}
func (h home) boot() string { return filepath.Join(h.cache, "boot") }

// snapshots are the saved guests. The limit is that of some fifty kinds of guest, of kernels, machines and modules.
func (h home) snapshots() *snapshot.Store {
	return &snapshot.Store{Dir: filepath.Join(h.cache, "snapshots"), Limit: 4 << 30}
}

// tools are what commands that boot something share.
type tools struct {
	home    home
	kernels *kernels.Cache
	pool    *pool.Pool
	agent   []byte
	doctor  *doctor.Doctor
}

// others are the kernels in the cache, for what a plan can only suggest: without them it suggests less.
func (t *tools) others() []kernels.Kernel {
	list, _ := t.kernels.List()
	return list
}

// defaultKernel is the kernel that is run when none is named, and the one that proves an accelerator.
const defaultKernel = "debian:6.12"

func openTools(output, binary string, say func(string)) (*tools, error) {
	h, err := findHome(output)
	if err != nil {
		return nil, err
	}
	cache, err := h.kernels()
	if err != nil {
		return nil, err
	}
	init, agent, err := images.Payload()
	if errors.Is(err, images.ErrNoPayload) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("read the guest's programs: %w", err)
	}
	p := &pool.Pool{Binary: binary, BootFiles: h.boot(), Init: init, Snapshots: h.snapshots(), Say: say}
	return &tools{
		home: h, kernels: cache, pool: p, agent: agent,
		doctor: &doctor.Doctor{
			Binary: binary, Pool: p, Kernels: cache, KernelSpec: defaultKernel,
			Memory: filepath.Join(h.cache, "doctor"), Say: say,
		},
	}, nil
}

// series is the folder of series' reports: beside the runs, or in the folder that the user gives for these.
func (h home) series(output string) string {
	if output != "" {
		return filepath.Join(output, "series")
	}
	return filepath.Join(filepath.Dir(h.runs), "series")
}

// seriesIndex is the folder of what series remember of earlier ones.
func (h home) seriesIndex(output string) string { return filepath.Join(h.series(output), "index") }
