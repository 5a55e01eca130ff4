package scenarios

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// LOW_POWER_ENTRY lets runtime power management put an open device to sleep (vfio_pci_runtime_pm_entry, 6.1).
// Its user's system calls wake it for as long as they take; a mapped BAR, through which the kernel would see
// nobody come, gives SIGBUS until LOW_POWER_EXIT. ENTRY_WITH_WAKEUP ends at the first wake-up, and says so by an
// eventfd. A device that is closed asleep is none the worse for it.
//
// e1000e has the PCI power management capability; QEMU keeps its registers in D3hot.
var _ = lab.Register(lab.Scenario{
	Name:    "pm-lowpower-feature",
	Summary: "LOW_POWER_ENTRY puts an open device to sleep, access and EXIT wake it",
	Area:    lab.Reset,
	Needs: lab.Needs{
		Devices:   []lab.Device{lab.E1000E},
		IOMMU:     lab.AnyIOMMU,
		Modules:   []string{"vfio_pci", "vfio_iommu_type1"},
		Options:   []string{"CONFIG_VFIO_PCI", "CONFIG_PM"},
		MinKernel: "6.1",
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const timer, limit = 0x0170, 5 * time.Second // a register that is plain storage
		dev := t.BindVFIO(lab.E1000E)
		t.Check(dev.Sleeps(limit), "a bound device that nobody has open sleeps")
		dev.Open()
		dev.SetCommand(lab.CommandMemory, 0)
		bar := dev.MapBAR(0)
		awake := func() {
			t.Check(dev.Power() == "active", "it is awake: "+dev.Power())
			t.Check(dev.PCIPower() == "D0", "in D0: "+dev.PCIPower())
		}
		asleep := func() {
			t.Check(dev.Sleeps(limit), "it sleeps")
			t.Check(dev.PCIPower() == "D3hot", "in D3hot: "+dev.PCIPower())
		}
		// keeps claims that the register is what was written, through the mapping.
		keeps := func(value uint32) {
			got, err := bar.Read32(timer)
			t.WantErr(err, nil, "a read of the mapping")
			t.WantInt(int(got), int(value), "the register")
		}
		awake()
		t.WantErr(bar.Write32(timer, 0x5aa5), nil, "a write to the mapping")
		keeps(0x5aa5)
		for _, feature := range []uint32{
			uapi.VFIOFeatureLowPowerEntry, uapi.VFIOFeatureLowPowerEntryWithWakeup, uapi.VFIOFeatureLowPowerExit,
		} {
			t.WantErr(dev.OffersFeature(feature, uapi.VFIOFeatureSet), nil, "the device offers to set the feature")
			t.WantErr(dev.OffersFeature(feature, uapi.VFIOFeatureGet), unix.EINVAL, "and not to get it")
		}

		t.Step("LOW_POWER_ENTRY")
		t.WantErr(dev.LowPower(), nil, "LOW_POWER_ENTRY")
		asleep()
		t.WantErr(dev.LowPower(), unix.EINVAL, "a second LOW_POWER_ENTRY")

		t.Step("access to a device that sleeps")
		_, err := bar.Read32(timer)
		t.Check(errors.Is(err, lab.ErrSIGBUS), "the mapping raises SIGBUS")
		asleep()
		got, err := dev.Register(timer)
		t.WantErr(err, nil, "a read of the region")
		t.WantInt(int(got), 0x5aa5, "the register")
		asleep()
		t.WantErr(dev.SetRegister(timer, 0x0ff0), nil, "a write to the region")
		_, err = bar.Read32(timer)
		t.Check(errors.Is(err, lab.ErrSIGBUS), "the mapping still raises SIGBUS")

		t.Step("LOW_POWER_EXIT")
		t.WantErr(dev.FullPower(), nil, "LOW_POWER_EXIT")
		awake()
		keeps(0x0ff0)

		t.Step("LOW_POWER_ENTRY_WITH_WAKEUP")
		t.WantErr(dev.TryLowPowerUntilWoken(-1), unix.EINVAL, "with no eventfd")
		awake()
		wakeup := dev.LowPowerUntilWoken()
		asleep()
		t.WantInt(wakeup.Signals(), 0, "signals before anything wakes the device")
		t.WantInt(dev.Command()&lab.CommandMemory, lab.CommandMemory, "COMMAND.MEM, whose read wakes it")
		t.WantInt(wakeup.Signals(), 1, "signals of the wake-up")
		awake()
		keeps(0x0ff0)

		t.Step("close the device while it sleeps")
		bar.Unmap()
		t.WantErr(dev.LowPower(), nil, "LOW_POWER_ENTRY")
		asleep()
		dev.Close()
		t.WantIdle("every reference is back")
		dev.Open()
		dev.SetCommand(lab.CommandMemory, 0)
		awake()
		t.WantErr(dev.SetRegister(timer, 0x3cc3), nil, "a write to the region")
		got, err = dev.Register(timer)
		t.WantErr(err, nil, "a read of the region")
		t.WantInt(int(got), 0x3cc3, "the register")
		dev.Close()
	},
})
