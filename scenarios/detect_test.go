package scenarios

import (
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

var (
	_ = seenToFail("detect-hung-task",
		"the absent page given at once, on 6.12: 'the write waits for its memory' and 'the kernel prints that the task hangs' were false")
	_ = seenToFail("detect-lkdtm",
		"on 6.12, built base: WARNING declared as lkdtm_BUG's was a crash, 'WARNING in lkdtm_WARNING', and so was BUG declared as one that "+
			"does not end the kernel; a trigger that the kernel does not notice was 'not reported'")
	_ = seenToFail("detect-soft-lockup", "the program not run, on 6.12: 'not reported: a report \"^BUG: soft lockup in (sys_)?bpf$\"'")
	_ = seenToFail("detect-sysrq-c", "h instead of c, on 6.12: 'not reported: a report \"^kernel panic: sysrq triggered crash$\"'")
)

// A kernel reports nothing behind what ends it, and whatever it lacks something is left to report.
func TestCrimes(t *testing.T) {
	for _, c := range crimes {
		ended, always := map[fact]bool{}, false
		for _, r := range c.reports {
			assert.Check(t, !ended[r.by] && !ended[""], "%s: %s comes after the end", c.trigger, r.title)
			ended[r.by] = r.ends
			other, _ := strings.CutPrefix("!"+string(r.by), "!!")
			always = always || r.by == "" || hasReport(c, fact(other))
			_, err := regexp.Compile(r.expect(c.trigger).Title)
			assert.NilError(t, err)
		}
		assert.Check(t, always, "%s: some kernel has nothing to report", c.trigger)
	}
}

func hasReport(c crime, by fact) bool {
	for _, r := range c.reports {
		if r.by == by {
			return true
		}
	}
	return false
}
