package lab

import (
	"os"
	"testing"

	"gotest.tools/v3/assert"
)

func TestPinned(t *testing.T) {
	root := guestRoot(t)
	assert.NilError(t, os.MkdirAll(root.Join("proc/sys/vm"), 0o755))
	vmstat := func(text string) {
		assert.NilError(t, os.WriteFile(root.Join("proc/vmstat"), []byte(text), 0o644))
	}
	vmstat("nr_free_pages 7\nnr_foll_pin_acquired 12\nnr_foll_pin_released 5\n")
	got := own(host(t, root.Path(), scenario(func(t *T) { t.WantInt(t.Pinned(), 7, "pinned") }), nil))
	assert.DeepEqual(t, got, []string{"ok pinned"})

	vmstat("nr_free_pages 7\n")
	got = own(host(t, root.Path(), scenario(func(t *T) { t.Pinned() }), nil))
	assert.DeepEqual(t, got, []string{"skip version 5.7: this kernel does not count the pages that are pinned"})
}

func TestReserved(t *testing.T) {
	root := guestRoot(t)
	assert.NilError(t, os.MkdirAll(root.Join("sys/kernel/iommu_groups/7"), 0o755))
	assert.NilError(t, os.WriteFile(root.Join("sys/kernel/iommu_groups/7/reserved_regions"), []byte(
		"0x0000000000001000 0x0000000000001fff direct-relaxable\n0x00000000fee00000 0x00000000feefffff msi\n"), 0o644))
	host(t, root.Path(), scenario(func(s *T) {
		list := (&VFIODevice{t: s, number: 7}).Reserved()
		assert.Check(t, len(list) == 1 && list[0] == Range{0xfee00000, 0xfeefffff, "msi"}, "%v", list)
	}), nil)
}

func TestEntryLimit(t *testing.T) {
	root := guestRoot(t)
	const path = "sys/module/vfio_iommu_type1/parameters"
	assert.NilError(t, os.MkdirAll(root.Join(path), 0o755))
	limit := root.Join(path, "dma_entry_limit")
	assert.NilError(t, os.WriteFile(limit, []byte("65535\n"), 0o644))
	host(t, root.Path(), scenario(func(s *T) {
		s.SetEntryLimit(4)
		text, err := os.ReadFile(limit)
		assert.Check(t, err == nil && string(text) == "4", "%q %v", text, err)
	}), nil)
	text, err := os.ReadFile(limit)
	assert.NilError(t, err)
	assert.Equal(t, string(text), "65535")
}
