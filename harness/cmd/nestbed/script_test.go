package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The test binary is nestbed itself when a script calls it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nestbed": main})
}

// The scripts show what a user sees who types something wrong, or asks for what needs no guest. They
// need neither QEMU nor a network.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": wantStatus, "esc": putEscapes},
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("HOME", env.WorkDir)
			// Nothing of the machine's is found, above all no QEMU: only the nestbed that testscript put first.
			env.Setenv("PATH", filepath.SplitList(env.Getenv("PATH"))[0])
			return nil
		},
	})
}

// putEscapes is the script command "esc FILE": where the file says ESC it holds, as JSON has them, an escape
// sequence, the C1 control that begins one too, a mark of text direction and a newline.
func putEscapes(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := strings.ReplaceAll(ts.ReadFile(name), "ESC", `\u001b[2J\u009b2J\u202e\u007f\npwned`)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// wantStatus is the script command "status N PROG ARGS...": the program must end with just that status.
func wantStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROG ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("%v: status %d, want %s", args[1:], got, args[0])
	}
}
