package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nestbed/nestbed/kernels/flock"
	"github.com/nestbed/nestbed/kernels/program"
)

// seedFlavour is what other flavours start from: most of them differ from it by a few options.
const seedFlavour = "base"

// seedSuffix is behind the name of a folder while it is copied.
const seedSuffix = ".seed"

// seed starts an output folder that has nothing yet with what the base flavour of the same sources compiled, with
// the same fragments of the user's if there is such a build. make compares every object's options and command line
// with what they would be now, and compiles those that differ: VFIO=y is a matter of a minute then instead of
// twelve. Where there is no base to start from, or somebody is building it, the flavour is compiled from nothing:
// seeding is for speed only.
func (j *job) seed(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(j.out, ".config")); err == nil {
		return nil
	}
	name := filepath.Base(j.out)
	_, mine, _ := strings.Cut(name, "+")
	for _, from := range []string{seedFlavour + "+" + mine, seedFlavour} {
		if from == name || from == seedFlavour+"+" {
			continue
		}
		done, err := j.seedFrom(ctx, filepath.Join(filepath.Dir(j.out), from))
		if err != nil || done {
			return err
		}
	}
	return nil
}

// seedFrom copies another output folder, if there is one to be had now.
func (j *job) seedFrom(ctx context.Context, from string) (done bool, err error) {
	if _, err := os.Stat(from + ".json"); err != nil {
		return false, nil // nothing to start from
	}
	now, cancel := context.WithCancel(ctx)
	held, err := flock.Take(now, from+".lock", cancel)
	cancel()
	if err != nil {
		return false, ctx.Err()
	}
	defer held.Unlock()
	var s state
	data, err := os.ReadFile(from + ".json")
	if err != nil || json.Unmarshal(data, &s) != nil || s.Schema != stateSchema || !s.Whole || s.Running || s.Source != j.tree.Dir {
		return false, nil
	}
	if s.Linker != "" && s.Linker != j.tools.Linker {
		return false, nil
	}
	if _, err := os.Stat(filepath.Join(from, ".config")); err != nil {
		return false, nil // it was removed since: nestbed cache prune --builds
	}
	j.say("starting from what " + filepath.Base(from) + " compiled")
	fresh := j.out + seedSuffix
	if err := os.RemoveAll(fresh); err != nil {
		return false, err
	}
	var words strings.Builder
	cmd := program.Command(ctx, "cp", "--archive", "--reflink=auto", from, fresh)
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := program.Run(cmd); err != nil {
		err = program.Outcome(err, words.String())
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return false, errors.Join(fmt.Errorf("copy %s: %w\n%s", from, err, words.String()), os.RemoveAll(fresh))
	}
	if err := moveTools(fresh, from, j.out); err != nil {
		return false, errors.Join(err, os.RemoveAll(fresh))
	}
	// Whoever is killed after the copy has its place leaves a configuration that is base's: it is not to be taken for
	// the one that was made here once.
	j.state = state{Schema: stateSchema, Seeded: true}
	if err := errors.Join(j.save(), os.RemoveAll(j.out)); err != nil {
		return false, err
	}
	return true, os.Rename(fresh, j.out)
}

// moveTools has the programs in dir's folder tools, which note where they were built with its whole path, note another
// one. They would be built again otherwise, objtool among them, and every object with it.
func moveTools(dir, from, to string) error {
	return filepath.WalkDir(filepath.Join(dir, "tools"), func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || filepath.Ext(name) != ".cmd" {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(name, bytes.ReplaceAll(text, []byte(from+"/"), []byte(to+"/")), 0o644)
	})
}
