package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/fragments"
	"github.com/nestbed/nestbed/kernels/kconfig"
	"github.com/nestbed/nestbed/kernels/program"
	"github.com/nestbed/nestbed/kernels/source"
)

// job is one build in one output folder, whose lock is held.
type job struct {
	tree               *source.Tree
	parts              []fragments.Fragment
	tools              Toolchain
	out                string
	logName, stateName string
	jobs               int
	say                func(string)
	compiled           func(done, of int, object string)

	log   *os.File
	cc    string
	state state
	count int // files compiled
}

// state is FLAVOUR.json beside the output folder.
type state struct {
	Schema  string `json:"schema"`
	Source  string `json:"source"`            // the sources' folder
	Config  string `json:"config,omitempty"`  // what the configuration was made of, as a hash; "" before it was
	Linker  string `json:"linker,omitempty"`  // what linked; "": what links now, as far as anybody knows
	Files   int    `json:"files,omitempty"`   // that were compiled until there was a kernel, in however many goes
	Whole   bool   `json:"whole,omitempty"`   // there was a build that went to its end
	Seeded  bool   `json:"seeded,omitempty"`  // it started from another flavour's objects: Files says nothing
	Running bool   `json:"running,omitempty"` // set while make runs: found later, it was killed
}

const stateSchema = "nestbed/build/1"

func (j *job) load() {
	data, err := os.ReadFile(j.stateName)
	if err != nil || json.Unmarshal(data, &j.state) != nil || j.state.Schema != stateSchema {
		j.state = state{Schema: stateSchema} // never written, or by another nestbed: everything is looked at anew
	}
	if _, err := os.Stat(filepath.Join(j.out, ".config")); err != nil {
		// The folder was removed (nestbed cache prune --builds): nothing of it is known but that it may hold a cut file.
		j.state = state{Schema: stateSchema, Running: j.state.Running}
	}
}

func (j *job) save() error {
	data, err := json.MarshalIndent(j.state, "", "  ")
	if err != nil {
		return err
	}
	return kernels.WriteFile(j.stateName, append(data, '\n'))
}

func (j *job) run(ctx context.Context) (err error) {
	j.load()
	if j.log, err = os.Create(j.logName); err != nil {
		return err
	}
	defer j.log.Close()
	if err := j.relink(); err != nil {
		return err
	}
	if err := j.seed(ctx); err != nil {
		return err
	}
	j.cc = "gcc"
	if _, err := exec.LookPath("ccache"); err == nil {
		j.cc = "ccache gcc"
	}
	if j.state.Running {
		j.say("the last build in this folder was killed: what it wrote last is compiled again")
		if err := repair(j.out); err != nil {
			return err
		}
	}
	j.state.Running, j.state.Source, j.state.Linker = true, j.tree.Dir, j.tools.Linker
	if err := j.save(); err != nil {
		return err
	}
	err = j.make(ctx)
	// make tidies up after a signal and after an error; only SIGKILL keeps it from that.
	j.state.Running = killed(err)
	return errors.Join(err, j.save())
}

// relink empties a folder that was linked by another linker. make would see it of the compiler, whose version is an
// option of the configuration that every object depends on, but not of this: objects that one assembler made and one
// linker joined would be linked by the other.
func (j *job) relink() error {
	was := j.state.Linker
	if was == "" || was == j.tools.Linker {
		return nil
	}
	j.say(fmt.Sprintf("this folder was linked by %s, here is %s: everything is compiled again", was, j.tools.Linker))
	j.state = state{Schema: stateSchema}
	return errors.Join(j.save(), os.RemoveAll(j.out), os.Mkdir(j.out, 0o755))
}

func (j *job) make(ctx context.Context) error {
	tree, err := kconfig.Read(j.tree.Dir)
	if err != nil {
		return err
	}
	if err := j.configure(ctx, tree); err != nil {
		return err
	}
	before, of := 0, 0
	if !j.state.Whole && !j.state.Seeded {
		before, of = j.state.Files, j.expected()
	}
	count := func(object string) {
		j.count++
		if j.compiled != nil {
			j.compiled(before+j.count, of, strings.TrimPrefix(object, j.out+"/"))
		}
	}
	err = j.target(ctx, count, fmt.Sprintf("-j%d", j.jobs), "bzImage", "modules")
	if !j.state.Whole {
		j.state.Files, j.state.Whole = before+j.count, err == nil
	}
	return err
}

// expected is how many files a build from nothing compiles, by what the same flavour of another tree took, or
// another flavour; 0 if nothing was built yet.
func (j *job) expected() int {
	for _, pattern := range []string{filepath.Base(j.stateName), "*.json"} {
		names, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(j.out)), "*", pattern))
		if err != nil {
			return 0
		}
		for _, name := range names {
			var s state
			data, err := os.ReadFile(name)
			if err == nil && json.Unmarshal(data, &s) == nil && s.Schema == stateSchema && s.Whole && !s.Seeded && s.Files > 0 {
				return s.Files
			}
		}
	}
	return 0
}

// configure makes the configuration and looks whether it is what was asked for. It is made anew when what it
// is made of has changed: the fragments, the tree's Kconfig files, or the compiler.
func (j *job) configure(ctx context.Context, tree *kconfig.Tree) error {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%s\n", j.tree.Dir, tree.Hash(), j.tools.Compiler)
	for _, f := range j.parts {
		fmt.Fprintf(sum, "%d\n%s", len(f.Text), f.Text)
	}
	made := fmt.Sprintf("%x", sum.Sum(nil))
	config := filepath.Join(j.out, ".config")
	if _, err := os.Stat(config); err == nil && j.state.Config == made {
		return nil
	}
	j.say("configuring")
	j.state.Config = ""
	dir := j.out + ".fragments"
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
		return err
	}
	var files []string
	for i, f := range j.parts {
		name := filepath.Join(dir, fmt.Sprintf("%02d-%s", i, strings.ReplaceAll(filepath.Base(f.Name), " ", "-")))
		if err := os.WriteFile(name, f.Text, 0o644); err != nil {
			return err
		}
		files = append(files, name)
	}
	if err := j.target(ctx, nil, "allnoconfig"); err != nil {
		return err
	}
	// The script leaves files in its working folder when it is killed.
	merge := append([]string{filepath.Join(j.tree.Dir, "scripts/kconfig/merge_config.sh"), "-m", "-O", j.out, config}, files...)
	if err := j.program(ctx, "merge_config.sh", nil, []string{"KCONFIG_CONFIG=" + config}, "sh", merge...); err != nil {
		return err
	}
	if err := j.target(ctx, nil, "olddefconfig"); err != nil {
		return err
	}
	got, err := kernels.ReadConfig(config)
	if err != nil {
		return err
	}
	if missing := j.missing(tree, got); missing != nil {
		return missing
	}
	j.state.Config = made
	return j.save()
}

// target has make make targets.
func (j *job) target(ctx context.Context, compiled func(string), targets ...string) error {
	args := []string{"-C", j.tree.Dir, "O=" + j.out, "ARCH=x86_64", "CC=" + j.cc}
	return j.program(ctx, strings.Join(targets, " "), compiled, nil, "make", append(args, targets...)...)
}

// program runs one that writes to the log. what is for errors.
func (j *job) program(ctx context.Context, what string, compiled func(string), env []string, name string, args ...string) error {
	cmd := program.Command(ctx, name, args...)
	cmd.Dir = j.out
	cmd.Env = append(environment(), env...)
	heard := &listener{log: j.log, compiled: compiled}
	// One writer for both: exec then copies from one pipe, and the lines stay in order.
	cmd.Stdout, cmd.Stderr = heard, heard
	err := program.Run(cmd)
	heard.end()
	switch {
	case err == nil:
		return heard.failed
	case ctx.Err() != nil:
		if killed(err) {
			return fmt.Errorf("build: %w: %w", ctx.Err(), err)
		}
		return fmt.Errorf("build: %w", ctx.Err())
	case heard.failed != nil:
		return heard.failed
	case heard.full:
		return fmt.Errorf("make %s in %s: %w; the next build goes on from there", what, j.out, syscall.ENOSPC)
	case heard.short != "":
		return fmt.Errorf("make %s in %s: the host has too little memory or too few processes (%s): end what else runs here, "+
			"or build with fewer compilers at once (nestbed kernel build --jobs); the next build goes on from there", what, j.out, heard.short)
	}
	if _, ok := errors.AsType[*exec.ExitError](err); !ok || killed(err) {
		return fmt.Errorf("make %s: %w (%s)", what, err, j.logName)
	}
	return &FailedError{Target: what, First: heard.first(), Log: j.logName}
}

// killed says that a program had no time to tidy up.
func killed(err error) bool {
	if errors.Is(err, exec.ErrWaitDelay) {
		return true
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// environment is ours without what would build something else, and with what makes builds alike.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS", "O", "V", "W", "C", "ARCH", "CROSS_COMPILE",
			"CC", "LLVM", "LLVM_IAS", "KCFLAGS", "KCPPFLAGS", "KAFLAGS", "HOSTCFLAGS", "HOSTLDFLAGS", "LOCALVERSION",
			"SOURCE_DATE_EPOCH", "CONFIG_", "SRCARCH":
			return true
		}
		return strings.HasPrefix(name, "KBUILD_") || strings.HasPrefix(name, "KCONFIG_") || strings.HasPrefix(name, "LC_") || name == "LANG"
	})
	// ccache's depend mode would save an eighth of a build from nothing, but preprocessing is what tells it that
	// another flavour, whose options a file names and does not use, is the same to the compiler.
	return append(env, "LC_ALL=C", "LOCALVERSION=", "CCACHE_NODEPEND=1",
		"KBUILD_BUILD_USER=nestbed", "KBUILD_BUILD_HOST=nestbed", "KBUILD_BUILD_VERSION=1",
		"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970")
}

// repair removes the files that a killed build wrote last: any of them may be cut, and is newer than its
// sources for all that make sees.
func repair(dir string) error {
	const last = 2 * time.Minute // longer than any compiler takes for one file
	var newest time.Time
	written := make(map[string]time.Time)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		written[name] = info.ModTime()
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, when := range written {
		if newest.Sub(when) < last {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// OptionsError says which options a fragment asked for and the configuration does not have.
type OptionsError struct {
	Tree    string
	Missing []string // one line each: the option, its value, who asked, what it needs
}

func (e *OptionsError) Error() string {
	return fmt.Sprintf("configure %s: %d options are not as the fragments ask for them:\n%s", e.Tree, len(e.Missing), strings.Join(e.Missing, "\n"))
}

// missing compares what was asked for with what there is. The last fragment to name an option decides.
func (j *job) missing(tree *kconfig.Tree, got map[string]string) error {
	type wish struct {
		fragments.Option
		by string
	}
	last := make(map[string]wish)
	var order []string
	for _, f := range j.parts {
		for _, o := range f.Options {
			if _, seen := last[o.Name]; !seen {
				order = append(order, o.Name)
			}
			last[o.Name] = wish{o, f.Name}
		}
	}
	var lines []string
	for _, name := range order {
		w := last[name]
		has, ok := got[name]
		if !ok {
			has = "n"
		}
		if has == w.Value || !w.Required(j.tree.Version) {
			continue
		}
		why := "another option selects it, or it is not asked about"
		if w.Value != "n" {
			why = tree.Why(name, w.Value, got)
		}
		lines = append(lines, fmt.Sprintf("CONFIG_%s: want %s (%s, line %d), have %s: %s", name, w.Value, w.by, w.Line, has, why))
	}
	if lines == nil {
		return nil
	}
	return &OptionsError{Tree: j.tree.Dir, Missing: lines}
}

// listener passes what make says on to the log and hears how far it is and what went wrong.
type listener struct {
	log      io.Writer
	compiled func(string)

	rest   []byte
	full   bool   // the disk is
	short  string // the line that says that memory or processes are
	failed error  // the log cannot be written
	found  []finding
	tail   []string
}

func (l *listener) Write(p []byte) (int, error) {
	if _, err := l.log.Write(p); err != nil && l.failed == nil {
		l.failed = fmt.Errorf("write the build's log: %w", err)
	}
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			break
		}
		l.line(string(l.rest[:i]))
		l.rest = l.rest[i+1:]
	}
	if len(l.rest) > maxLine {
		l.rest = nil // no program that builds kernels says so much in a line
	}
	return len(p), nil
}

func (l *listener) end() {
	if len(l.rest) > 0 {
		l.line(string(l.rest))
		l.rest = nil
	}
}
