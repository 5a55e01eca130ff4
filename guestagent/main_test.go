package main

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"no command":                      nil,
		"unknown command jump":            {"jump"},
		"child: no name":                  {"child"},
		"exec: no program":                {"exec", "--device", "edu"},
		"exec: invalid value \"vga\"":     {"exec", "--device", "vga", "--", "x"},
		"run: no scenario":                {"run"},
		"run: unknown scenario nobody":    {"run", "nobody"},
		"run: the scale is not positive":  {"run", "--scale", "0", "l2-runs"},
		"run: a word too many: x":         {"run", "l2-runs", "--scale", "2", "x"},
		"run: flag provided but not def":  {"run", "l2-runs", "--nothing"},
		"run: invalid value \"x\" for fl": {"run", "l2-runs", "--scale", "x"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, run(args, strings.NewReader(""), &stdout, &stderr), exitUsage, want)
		assert.Assert(t, strings.HasPrefix(stderr.String(), "agent: "+want), stderr.String())
		assert.Assert(t, strings.Contains(stderr.String(), "usage:"))
		assert.Equal(t, stdout.String(), "")
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{
		{"l2-runs", "--variant", "v", "--scale", "2.5"},
		{"--scale", "2.5", "--variant", "v", "l2-runs"},
		{"--scale=2.5", "l2-runs", "--variant=v"},
	} {
		s, env, err := scenario(args)
		assert.NilError(t, err)
		assert.Equal(t, s.Name, "l2-runs")
		assert.Equal(t, env.Variant, "v")
		assert.Equal(t, env.Scale, 2.5)
		assert.Assert(t, env.Self != "")
	}
}

func TestListAndVersion(t *testing.T) {
	var out bytes.Buffer
	assert.Equal(t, run([]string{"list"}, nil, &out, io.Discard), 0)
	assert.Equal(t, len(strings.Fields(out.String())), len(lab.All()))
	assert.Assert(t, strings.Contains(out.String(), "l2-runs\n"))
	out.Reset()
	assert.Equal(t, run([]string{"version"}, nil, &out, io.Discard), 0)
	assert.Assert(t, strings.Contains(out.String(), lab.Catalogue()))
}

func TestChild(t *testing.T) {
	var stderr bytes.Buffer
	assert.Equal(t, run([]string{"child", "nobody"}, strings.NewReader(""), io.Discard, &stderr), exitFailure)
	assert.Equal(t, stderr.String(), "agent: unknown child \"nobody\"\n")
}

// Outside a guest there is no module folder: the stream still is a whole one.
func TestRunOutsideAGuest(t *testing.T) {
	var out bytes.Buffer
	assert.Equal(t, run([]string{"run", "l2-runs"}, strings.NewReader(""), &out, io.Discard), 0)
	var reader record.Reader
	var kinds []record.Kind
	lines := bufio.NewScanner(&out)
	for lines.Scan() {
		rec, err := reader.Parse(lines.Bytes())
		assert.NilError(t, err)
		kinds = append(kinds, rec.Kind)
	}
	assert.DeepEqual(t, kinds, []record.Kind{record.KindHello, record.KindBroken, record.KindDone})
}

func TestExecOutsideAGuest(t *testing.T) {
	p, env, err := program([]string{"--name", "l1", "--scale", "2", "--", "/bin/true", "--name"})
	assert.NilError(t, err)
	assert.Check(t, env.Variant == "l1" && env.Scale == 2 && env.Self != "")
	assert.DeepEqual(t, p.Argv, []string{"/bin/true", "--name"})

	var out bytes.Buffer
	assert.Equal(t, run([]string{"exec", "--name", "l1", "--", "/bin/true"}, strings.NewReader(""), &out, io.Discard), 0)
	var reader record.Reader
	first, _, _ := bytes.Cut(out.Bytes(), []byte("\n"))
	hello, err := reader.Parse(first)
	assert.NilError(t, err)
	assert.Equal(t, hello.Hello.Scenario+"@"+hello.Hello.Variant, "exec@l1")
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestRecordsCannotBeWritten(t *testing.T) {
	var stderr bytes.Buffer
	assert.Equal(t, run([]string{"run", "l2-runs"}, strings.NewReader(""), brokenPipe{}, &stderr), exitFailure)
	assert.Assert(t, strings.HasPrefix(stderr.String(), "agent: record 1: "), stderr.String())
}
