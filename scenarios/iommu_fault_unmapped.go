package scenarios

import (
	"fmt"
	"regexp"
	"time"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device reaches what is mapped for it and nothing else: a read and a write at an address that nobody ever
// mapped are refused. The address is one where a page lies in physical memory, so that an IOMMU that lets the
// device through untranslated shows. A transfer that runs off the end of a mapping arrives as far as the
// mapping goes.
//
// QEMU counts what its IOMMUs refuse, one fault for each four bytes. The kernel hears of those of intel's and
// virtio's and must print them (dmar_fault, viommu_fault_handler); amd-iommu of QEMU 7.2 tells it nothing. Each
// refusal stands between transfers of the same device that come through.
var _ = lab.Register(lab.Scenario{
	Name:    "iommu-fault-unmapped",
	Summary: "a device cannot read or write where nothing was ever mapped",
	Area:    lab.IOMMU,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const (
			iova      = 0x10_0000
			reach     = 1 << 28 // of edu
			atEnd     = 64      // kernels print ten faults at most within five seconds
			secret    = 0xc3
			one, next = 0x5a, 0xa5
		)
		dev := t.BindVFIO(lab.EDU)
		page, hidden := t.NewPage(), t.NewPage()
		hidden.Fill(secret)
		hole := uint64(iova + 8*lab.PageSize)
		if at := t.Physical(hidden); at > hole && at < reach {
			hole = at
		} else {
			t.Log(fmt.Sprintf("edu does not reach physical address %#x, so nothing lies at %#x", at, hole))
		}
		dev.Open()
		dev.EnableDMA()
		kernel := t.KernelLog()
		says := func(intel string) {
			line := map[any]string{
				lab.IntelIOMMU:  fmt.Sprintf(`^DMAR: \[DMA %s.* fault addr (0x)?%x `, intel, hole), // 5.10 has no 0x
				lab.VirtioIOMMU: fmt.Sprintf(`^virtio_iommu .*page fault from EP \d+ at 0x%x `, hole),
			}[t.IOMMU()]
			if line != "" {
				t.Check(kernel.Prints(regexp.MustCompile(line), 5*time.Second), "the kernel prints the fault: "+line)
			}
		}

		t.Step("map a page: the device reaches it")
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, one)
		t.WantInt(t.Faults(), 0, "nothing that is mapped is refused")

		t.Step("write where nothing is mapped")
		t.Expect(record.Expect{Fault: true, Why: "DMA to an address that was never mapped"})
		dev.Write(uint32(hole), 4)
		t.WantInt(t.Faults(), 1, "the IOMMU refuses the write")
		says("Write")
		t.WantInt(hidden.Count(secret), lab.PageSize, "the page that lies there in physical memory is as it was")

		t.Step("a transfer in between")
		t.Check(dev.RoundTrip(page, iova, next), "the data comes through")
		t.WantInt(t.Faults(), 1, "and nothing of it is refused")

		t.Step("read where nothing is mapped, and have the device show what it got")
		dev.Read(uint32(hole), 4)
		t.WantInt(t.Faults(), 2, "the IOMMU refuses the read")
		says("Read")
		page.Fill(^byte(secret))
		dev.Write(iova, 4)
		t.WantInt(page.Count(secret), 0, "no byte of the page that lies there in physical memory")

		t.Step("run off the end of the page")
		page.Fill(one)
		dev.Read(iova, atEnd)
		page.Fill(next)
		dev.Write(iova+lab.PageSize-atEnd/2, atEnd)
		t.WantInt(page.Count(one), atEnd/2, "as much arrives as the page has room for")
		refused := t.Faults()
		t.Check(refused > 2, "the IOMMU refuses the rest")

		t.Step("map what was left out: the device reaches it")
		dev.Map(hidden, uint32(hole))
		t.Check(dev.RoundTrip(hidden, uint32(hole), one), "the data comes through")
		t.WantInt(t.Faults(), refused, "and nothing of it is refused")
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
