package sshd

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/fs"
)

// far plays the client's side of a copy from a text that is written beforehand.
func far(t *testing.T, args []string, says string) (answers, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = scp(args, streams{in: strings.NewReader(says), out: &out, err: &errs})
	return out.String(), errs.String(), status
}

func TestSCPReceives(t *testing.T) {
	for name, c := range map[string]struct {
		args    string // TARGET is the folder
		says    string
		answers string
		status  int
		want    fs.PathOp
	}{
		"a file": {"-qt TARGET/new", "C0640 3 x\nabc\x00", "\x00\x00\x00", 0,
			fs.WithFile("new", "abc", fs.WithMode(0o640))},
		"into a folder": {"-t TARGET", "C0644 1 x\na\x00C0644 0 y\n\x00", "\x00\x00\x00\x00\x00", 0,
			fs.WithFile("x", "a")},
		"a tree with times": {"-r -p -t TARGET", "T86400 0 86400 0\nD0750 0 d\nT86400 0 86400 0\nC0600 2 f\nhi\x00E\n", "\x00\x00\x00\x00\x00\x00\x00", 0,
			fs.WithDir("d", fs.WithMode(0o750), fs.WithFile("f", "hi", fs.WithMode(0o600)))},
		"over another": {"-t TARGET/old", "C0600 3 x\nnew\x00", "\x00\x00\x00", 0,
			fs.WithFile("old", "new", fs.WithMode(0o600))},
		"cut in the content": {"-t TARGET/old", "C0600 30 x\nonly this", "\x00\x00\x01scp: write TARGET/old: EOF\n", 1, nil},
		"cut before the end": {"-t TARGET/old", "C0600 3 x\nabc", "\x00\x00", 1, nil},
		"given up":           {"-t TARGET/old", "C0600 3 x\nabc\x01read error\n", "\x00\x00", 1, nil},
		"a name that walks":  {"-t TARGET", "C0600 1 ../x\na\x00", "\x00\x01scp: file name \"../x\"\n", 1, nil},
		"a name of dots":     {"-rt TARGET", "D0700 0 ..\n", "\x00\x01scp: file name \"..\"\n", 1, nil},
		"a negative size":    {"-t TARGET", "C0600 -1 x\n", "\x00\x01scp: malformed entry \"0600 -1 x\"\n", 1, nil},
		"not octal":          {"-t TARGET", "C0900 1 x\n", "\x00\x01scp: malformed entry \"0900 1 x\"\n", 1, nil},
		"no sense":           {"-t TARGET", "hello\n", "\x00\x01scp: unknown message \"hello\"\n", 1, nil},
		"a stray end":        {"-t TARGET", "E\n", "\x00\x01scp: end of a folder that was not begun\n", 1, nil},
		"a folder unasked":   {"-t TARGET", "D0700 0 d\n", "\x00\x01scp: TARGET/d: a folder without -r\n", 1, nil},
		"no folder there":    {"-d -t TARGET/old", "", "\x01scp: TARGET/old: not a folder\n", 1, nil},
		"no end of line":     {"-t TARGET", strings.Repeat("x", scpLine+2), "\x00", 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fs.NewDir(t, "scp", fs.WithFile("old", "old", fs.WithMode(0o644)))
			args := strings.Fields(strings.ReplaceAll(c.args, "TARGET", dir.Path()))
			answers, stderr, status := far(t, args, c.says)
			assert.Check(t, is.Equal(strings.ReplaceAll(answers, dir.Path(), "TARGET"), c.answers))
			assert.Check(t, is.Equal(status, c.status))
			assert.Check(t, is.Equal(stderr, ""))
			want := fs.Expected(t, fs.WithFile("old", "old", fs.WithMode(0o644)), fs.MatchAnyFileMode)
			if c.want != nil {
				want = fs.Expected(t, fs.MatchAnyFileMode, fs.MatchExtraFiles, c.want)
			}
			assert.Check(t, fs.Equal(dir.Path(), want))
		})
	}
}

// A program that runs cannot be written to, but it can be replaced.
func TestSCPReplacesARunningProgram(t *testing.T) {
	p, dir := start(t), t.TempDir()
	name := filepath.Join(dir, "sleep")
	data, err := os.ReadFile("/usr/bin/sleep")
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(name, data, 0o755))
	s := p.session(t)
	assert.NilError(t, s.Start(name+" 1000"))
	client := p.scp(t)
	assert.NilError(t, client.Copy(t.Context(), strings.NewReader("new"), name, "0644", 3))
	got, err := os.ReadFile(name)
	assert.NilError(t, err)
	assert.Equal(t, string(got), "new")
}

func TestSCPRefusalReachesTheClient(t *testing.T) {
	client := start(t).scp(t)
	err := client.Copy(t.Context(), bytes.NewReader(make([]byte, 3_000_000)), "/no/such/folder/x", "0644", 3_000_000)
	assert.ErrorContains(t, err, "scp: open /no/such/folder/")
}

func TestSCPSends(t *testing.T) {
	dir := fs.NewDir(t, "scp", fs.WithFile("f", "abc", fs.WithMode(0o640)),
		fs.WithDir("d", fs.WithMode(0o700), fs.WithFile("g", "", fs.WithMode(0o600))))
	assert.NilError(t, os.Chtimes(dir.Join("f"), time.Unix(1, 0), time.Unix(86400, 0)))
	version, err := os.ReadFile("/proc/version")
	assert.NilError(t, err)
	for name, c := range map[string]struct {
		args, says, answers string
		status              int
	}{
		"a file":           {"-f DIR/f", "\x00\x00\x00", "C0640 3 f\nabc\x00", 0},
		"its times":        {"-pf DIR/f", "\x00\x00\x00\x00", "T86400 0 86400 0\nC0640 3 f\nabc\x00", 0},
		"two":              {"-f DIR/f DIR/d/g", "\x00\x00\x00\x00\x00", "C0640 3 f\nabc\x00C0600 0 g\n\x00", 0},
		"a tree":           {"-rf DIR/d", "\x00\x00\x00\x00\x00", "D0700 0 d\nC0600 0 g\n\x00E\n", 0},
		"the kernel's":     {"-f /proc/version", "\x00\x00\x00", "C0444 LEN version\nVERSION\x00", 0},
		"a folder unasked": {"-f DIR/d", "\x00", "\x01scp: DIR/d: a folder without -r\n", 1},
		"none":             {"-f DIR/x", "\x00", "\x01scp: stat DIR/x: no such file or directory\n", 1},
		"refused":          {"-f DIR/f", "\x00\x01no room\n", "C0640 3 f\n", 1},
		"no client":        {"-f DIR/f", "", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(strings.ReplaceAll(c.args, "DIR", dir.Path()))
			want := strings.NewReplacer("LEN", itoa(len(version)), "VERSION", string(version)).Replace(c.answers)
			answers, _, status := far(t, args, c.says)
			assert.Check(t, is.Equal(strings.ReplaceAll(answers, dir.Path(), "DIR"), want))
			assert.Check(t, is.Equal(status, c.status))
		})
	}
}

func TestSCPUsage(t *testing.T) {
	for args, want := range map[string]string{
		"here there": "scp: only as the far end of a copy: -t TARGET or -f FILE...\n",
		"-t -f x":    "scp: only as the far end of a copy: -t TARGET or -f FILE...\n",
		"-t a b":     "scp: only as the far end of a copy: -t TARGET or -f FILE...\n",
		"-z -t a":    "scp: unknown option -z\n",
	} {
		_, stderr, status := far(t, strings.Fields(args), "")
		assert.Check(t, is.Equal(stderr, want))
		assert.Check(t, is.Equal(status, 2))
	}
}

func FuzzSCPReceive(f *testing.F) {
	for _, s := range []string{"C0640 3 x\nabc\x00", "D0750 0 d\nC0600 2 f\nhi\x00E\n", "T1 0 1 0\nC0600 0 f\n\x00", "\x01no\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, says string) {
		outer := t.TempDir()
		inner := filepath.Join(outer, "inner")
		assert.NilError(t, os.Mkdir(inner, 0o700))
		var out, errs bytes.Buffer
		scp([]string{"-r", "-t", inner}, streams{in: strings.NewReader(says), out: &out, err: &errs})
		entries, err := os.ReadDir(outer)
		assert.NilError(t, err)
		assert.Equal(t, len(entries), 1, "a copy left its folder")
	})
}
