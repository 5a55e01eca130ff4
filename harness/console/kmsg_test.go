package console

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestParseKmsg(t *testing.T) {
	raw := "6,339,5140900,-;NET: Registered protocol family 10\n" +
		"30,340,5690716,-;udevd[80]: a program's words\n" + // facility 3
		"12,341,5690717,-;BUG: a program's words\n" + // facility 1
		" SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n" +
		"4,342,5690720,-,caller=T87;two\\x0alines and a \\x5c and a \\xff\\n\n" +
		"4,343,1234567890123,c;late;with semicolon\n" +
		"garbage\n" +
		"x,343,5,-;no\n" +
		"4,344,99"
	assert.Equal(t, string(ParseKmsg([]byte(raw))), "[    5.140900] NET: Registered protocol family 10\n"+
		"[    5.690720][   T87] two\n[    5.690720][   T87] lines and a \\ and a \xff\\n\n"+
		"[1234567.890123] late;with semicolon\n")
}

// toKmsg makes the records of a console's stamped lines.
func toKmsg(log []byte) []byte {
	var b strings.Builder
	seq := 0
	eachLine(log, func(l line) bool {
		if l.stamped {
			seq++
			fmt.Fprintf(&b, "4,%d,%d,-;%s\n", seq, l.stamp, l.text)
		}
		return true
	})
	return []byte(b.String())
}

func TestMergeOfTheSameIsTheSame(t *testing.T) {
	for name := range realLogs {
		log, err := os.ReadFile("testdata/" + name)
		assert.NilError(t, err)
		assert.Equal(t, describe(Merge(log, toKmsg(log))), describe(Parse(log)), name)
		assert.Equal(t, describe(Merge(log, nil)), describe(Parse(log)), name)
	}
}

// The console's level kept lines off the serial line; the kernel's last words never reached the program
// that reads /dev/kmsg. Together they are whole, in the serial log's line numbers.
func TestMergeFillsGapsOnBothSides(t *testing.T) {
	whole, err := os.ReadFile("testdata/l1-debian-6.12.117-intel.log")
	assert.NilError(t, err)
	var serial, kernel strings.Builder
	inWarn := false
	for line := range strings.Lines(string(whole)) {
		if strings.Contains(line, "cut here") {
			inWarn = true
		}
		if !inWarn {
			serial.WriteString(line)
		}
		if strings.Contains(line, "end trace") {
			inWarn = false
		}
		if strings.Contains(line, "Call Trace") && strings.Contains(line, "3.623689") {
			break
		}
		kernel.WriteString(line)
	}
	rest := string(whole)[strings.Index(string(whole), "[    3.623689]"):]
	serial.WriteString(rest[strings.Index(rest, "\n")+1:])

	var titles, want []string
	merged := Merge([]byte(serial.String()), toKmsg([]byte(kernel.String())))
	for _, r := range merged[0].Followers {
		titles = append(titles, r.Title)
	}
	for _, r := range Parse(whole)[0].Followers {
		want = append(want, r.Title)
	}
	assert.DeepEqual(t, titles, want)
	assert.Equal(t, merged[0].Signature, Parse(whole)[0].Signature)
	assert.Assert(t, len(Parse([]byte(serial.String()))[0].Frames) == 0, "the serial log alone lacks the stack trace")

	lines := strings.Split(serial.String(), "\n")
	assert.Assert(t, strings.Contains(lines[merged[0].Line-1], "====="), lines[merged[0].Line-1])
	oops := merged[0].Followers[len(merged[0].Followers)-1]
	assert.Assert(t, strings.Contains(lines[oops.Line-1], "BUG: kernel NULL pointer dereference"))
	assert.Assert(t, strings.Contains(lines[oops.EndLine-1], "end trace"))
}

// Lines of one stamp: what only /dev/kmsg has goes in front of what both have, and nothing comes twice.
func TestMergeWithinOneStamp(t *testing.T) {
	lines := []string{
		"list_del corruption, ffff888004c5a0f8->next is LIST_POISON1 (dead000000000100)", "------------[ cut here ]------------",
		"WARNING: CPU: 0 PID: 1 at lib/list_debug.c:53 f+0x1/0x2", "---[ end trace 0000000000000000 ]---",
	}
	var serial, kmsg strings.Builder
	for i, l := range lines {
		fmt.Fprintf(&kmsg, "4,%d,1000000,-;%s\n", i, l)
		if i > 0 {
			fmt.Fprintf(&serial, "[    1.000000] %s\r\n", l)
		}
	}
	r := Merge([]byte(serial.String()), []byte(kmsg.String()))
	assert.Equal(t, r[0].Title, "WARNING: corrupted list in f")
	assert.Equal(t, len(r)+len(r[0].Followers), 1)
}

func TestMergeOfNothing(t *testing.T) {
	assert.Equal(t, len(Merge(nil, nil)), 0)
	warn := "4,1,1000000,-;------------[ cut here ]------------\n4,2,1000001,-;WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n"
	r := Merge(nil, []byte(warn))
	assert.Equal(t, r[0].Title, "WARNING in f")
	assert.Equal(t, r[0].Line, 1)
}

// A real run on a stock kernel: the serial log and the records that init sent, up to the oops.
func TestMergeOfARealRun(t *testing.T) {
	serial, err := os.ReadFile("testdata/run/console.log")
	assert.NilError(t, err)
	kmsg, err := os.ReadFile("testdata/run/kmsg.log")
	assert.NilError(t, err)
	r := Merge(serial, kmsg)
	assert.Equal(t, describe(r), describe(Parse(serial)), "the level lets all through, so both say the same")
	assert.Equal(t, len(r), 1)
	assert.Equal(t, len(r[0].Followers), 0)
	assert.Equal(t, r[0].Title, "BUG: unable to handle kernel NULL pointer dereference in __simple_recursive_removal")
	fromKmsg := Parse(ParseKmsg(kmsg))
	assert.Equal(t, fromKmsg[0].Signature, r[0].Signature)
}
