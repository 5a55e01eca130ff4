package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Removing the virtual functions of a PF (echo 0 > sriov_numvfs) waits for those that are open, one after the
// other: sriov_del_vfs() removes the first and waits in vfio_unregister_group_dev() until it is closed, and
// only then asks for the second. Until its turn comes, and until it is closed, each works; the PF works
// throughout, although the writer holds its device lock.
//
// The PF is vfio-pci's own (enable_sriov, vfio_pci_core_sriov_configure()), which also means that a VF opens
// only with the token that the PF was opened with.
var _ = lab.Register(lab.Scenario{
	Name:    "hotplug-vf-remove-open",
	Summary: "removing virtual functions waits for each that is open, in order",
	Area:    lab.Hotplug,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.NVMeSRIOV},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI", "CONFIG_PCI_IOV"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		pf := t.BindVFIO(lab.NVMeSRIOV)
		pf.SetVFToken()
		pf.Open()
		pf.EnableDMA()
		t.Check(pf.NVMeAnswers(), "the PF answers")

		t.Step("make two VFs and open them")
		vfs := pf.NewVFs(2)
		first, second := vfs[0], vfs[1]
		t.WantErr(first.OpenWithToken(""), unix.EACCES, "a VF does not open without the token")
		t.WantErr(first.OpenWithToken("00000000-0000-0000-0000-000000000000"), unix.EACCES, "nor with another one")
		first.Open()
		second.Open()
		t.Check(first.NVMeAnswers() && second.NVMeAnswers(), "both VFs answer")
		first1, second1 := first.OnRequest(), second.OnRequest()

		t.Step("remove them: the first is asked for, and waited for")
		remove := t.Start("sriov_numvfs = 0", pf.RemoveVFs)
		t.Check(first1.Ready(leaves), "the kernel asks for the first VF")
		t.Check(remove.BlockedIn("vfio_unregister_group_dev", leaves), "the removal waits in VFIO")
		t.WantInt(second1.Count(), 0, "and not for the second yet")
		t.Check(first.NVMeAnswers() && second.NVMeAnswers(), "both VFs still answer")
		t.Check(pf.NVMeAnswers(), "and so does the PF")

		t.Step("close the first: the second's turn")
		first.Close()
		t.Check(second1.Ready(leaves), "the kernel asks for the second VF")
		first.WaitRemoved(leaves)
		t.Check(remove.BlockedIn("vfio_unregister_group_dev", leaves), "the removal waits")
		t.Check(second.NVMeAnswers(), "the second VF still answers")

		t.Step("close the second: both are gone")
		second.Close()
		t.WantErr(remove.Wait(leaves), nil, "the removal ends")
		pf.WantNoVFs(vfs)
		t.Check(pf.NVMeAnswers(), "the PF still answers")
		pf.Close()
		t.WantIdle("every reference is back")
	},
})
