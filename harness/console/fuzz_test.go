package console

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

func seeds(f *testing.F) [][]byte {
	files, err := filepath.Glob("testdata/classes/*.log")
	assert.NilError(f, err)
	var out [][]byte
	for _, file := range files {
		data, err := os.ReadFile(file)
		assert.NilError(f, err)
		_, log, _ := bytes.Cut(data, []byte("\n\n"))
		out = append(out, log)
	}
	files, err = filepath.Glob("testdata/variety/*.txt")
	assert.NilError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		assert.NilError(f, err)
		for _, block := range bytes.Split(data, []byte("\n=== ")) {
			_, log, _ := bytes.Cut(block, []byte("\n"))
			out = append(out, log)
		}
	}
	return out
}

func FuzzParse(f *testing.F) {
	all := seeds(f)
	for i, s := range all {
		f.Add(s)
		f.Add(append(s[:len(s)/2:len(s)/2], all[(i+7)%len(all)]...))
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		reports := Parse(log)
		assert.Assert(t, len(reports) <= maxReports)
		for _, r := range reports {
			checkReport(t, r, log)
		}
		LastLine(log)
		KVMUnusable(log)
	})
}

func FuzzMerge(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s, toKmsg(s))
		f.Add(s[len(s)/2:], toKmsg(s[:len(s)*2/3]))
	}
	f.Fuzz(func(t *testing.T, serial, kmsg []byte) {
		for _, r := range Merge(serial, kmsg) {
			checkReport(t, r, serial)
		}
	})
}

func FuzzSanitize(f *testing.F) {
	f.Add("\x1b[31m\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		once := Sanitize(s)
		assert.Equal(t, Sanitize(once), once)
		for _, c := range once {
			assert.Assert(t, !unsafe(c), "%q", once)
		}
	})
}

func FuzzParseKmsg(f *testing.F) {
	for _, s := range []string{
		"6,1,0,-;Linux version 6.12\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:01.0\n4,2,1234567,-;BUG: \\x1b[2J\n",
		"6,1,0,-", ";;;\n", "9999999999999999999999,1,99999999999999999999,-;x\n", "6,1,-5,c;\\x\n", "\x00\xff\n \n",
	} {
		f.Add([]byte(s))
	}
	for _, s := range seeds(f) {
		f.Add(toKmsg(s[:min(len(s), 4<<10)]))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		log := ParseKmsg(raw)
		assert.Assert(t, len(log) <= 32*(len(raw)+1), "%d bytes of %d", len(log), len(raw))
		for _, r := range Parse(log) {
			checkReport(t, r, log)
		}
		for _, line := range Tail(log) {
			assert.Equal(t, Sanitize(line), line)
		}
	})
}
