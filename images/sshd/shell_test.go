package sshd

import (
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestSplit(t *testing.T) {
	for line, want := range map[string][]string{
		"":                         nil,
		"  a\tb  c\n":              {"a", "b", "c"},
		`'a b' "c d" e\ f`:         {"a b", "c d", "e f"},
		`a'b'"c"d`:                 {"abcd"},
		`'' ""`:                    {"", ""},
		`'a\b' "a\b" "a\"\\\$" \a`: {`a\b`, `a\b`, `a"\$`, "a"},
		`"it's"`:                   {"it's"},
		`scp -qt "/bin/agent"`:     {"scp", "-qt", "/bin/agent"},
		"ä 'ö ü'":                  {"ä", "ö ü"},
		"a | b ; c $HOME *":        {"a", "|", "b", ";", "c", "$HOME", "*"},
	} {
		got, err := split(line)
		assert.Check(t, err, line)
		assert.Check(t, is.DeepEqual(got, want), line)
	}
	for _, line := range []string{`'a`, `"a`, `a\`} {
		_, err := split(line)
		assert.Check(t, is.ErrorContains(err, "a quote that does not end"), line)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(`a 'b c' "d\"e" f\ g`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := split(line)
		if err != nil {
			return
		}
		// Words quoted again must come out as they were.
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		again, err := split(strings.Join(quoted, " "))
		assert.NilError(t, err)
		assert.DeepEqual(t, append([]string{}, again...), append([]string{}, words...))
	})
}

func TestBuiltins(t *testing.T) {
	p := start(t)
	dir := t.TempDir()
	for _, c := range []struct {
		line, out, errs string
		status          int
	}{
		{"echo one two > " + dir + "/f", "", "", 0},
		{"cat " + dir + "/f", "one two\n", "", 0},
		{"ls " + dir, "f\n", "", 0},
		{"ls " + dir + "/f " + dir + "/none", dir + "/f\n", "nestbed: stat " + dir + "/none: no such file or directory\n", 1},
		{"sha256sum " + dir + "/f", "2dbb4a503f1515636b6a54e7f5b1a8ccfddcb62f0571c8b57a2879c360d00346  " + dir + "/f\n", "", 0},
		{"rm " + dir + "/f", "", "", 0},
		{"ls " + dir, "", "", 0},
		{"cd /no/such", "", "nestbed: stat /no/such: no such file or directory\n", 1},
		{"cd /etc/passwd", "", "nestbed: cd /etc/passwd: not a directory\n", 1},
		{"kill -NONE 1", "", "nestbed: unknown signal \"NONE\"\n", 2},
		{"kill x", "", "nestbed: strconv.Atoi: parsing \"x\": invalid syntax\n", 1},
		{"pwd", "/\n", "", 0},
	} {
		out, errs, err := p.run(t, c.line, "")
		assert.Check(t, is.Equal(out, c.out), c.line)
		assert.Check(t, is.Equal(errs, c.errs), c.line)
		assert.Check(t, is.Equal(status(t, err), c.status), c.line)
	}
	for line, want := range map[string]string{"uname": "Linux ", "ps": "", "help": "sha256sum FILE..."} {
		out, _, err := p.run(t, line, "")
		assert.Check(t, err, line)
		assert.Check(t, is.Contains(out, want), line)
	}
}

func TestKill(t *testing.T) {
	p := start(t)
	pids := family(t, p.session(t))
	_, _, err := p.run(t, "kill -SIGKILL "+itoa(pids[1])+" "+itoa(pids[2])+" "+itoa(pids[0]), "")
	assert.NilError(t, err)
	gone(t, pids)
}
