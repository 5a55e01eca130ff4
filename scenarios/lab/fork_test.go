package lab

import (
	"testing"

	"gotest.tools/v3/assert"
)

// The twin sees memory as it was when it was forked; what is written afterwards is this process's alone.
func TestFork(t *testing.T) {
	got := own(host(t, guestRoot(t).Path(), scenario(func(t *T) {
		page := t.NewPages(1)
		page.Fill(1)
		before, changed, unasked := t.Fork(page), t.Fork(page), t.Fork(page)
		page.Fill(2)
		t.Check(before.Kept(1), "as it was")
		t.Check(changed.Kept(2), "as it is")
		_, _ = unasked.end(0)
	}), nil))
	assert.DeepEqual(t, got, []string{"ok as it was", "FALSE as it is"})
}

func TestPagesWithAHole(t *testing.T) {
	got := own(host(t, guestRoot(t).Path(), scenario(func(t *T) {
		pages := t.NewPages(2)
		at := pages.Address()
		pages.Fill(1)
		t.WantInt(pages.Nth(1).Count(1), PageSize, "a page")
		t.Munmap(pages)
		t.MapAnew(pages)
		t.WantInt(pages.Count(0), 2*PageSize, "new memory")
		t.Check(pages.Address() == at && pages.Size() == 2*PageSize, "at the same place")
		t.WantInt(t.Locked(), 0, "nothing is locked")
	}), nil))
	assert.DeepEqual(t, got, []string{"ok a page", "ok new memory", "ok at the same place", "ok nothing is locked"})
}
