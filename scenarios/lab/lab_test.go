package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/results/record"
)

// guestRoot is a guest's file system as far as a scenario without verbs needs it.
func guestRoot(t *testing.T) *fs.Dir {
	t.Helper()
	return fs.NewDir(t, "root",
		fs.WithDir("lib", fs.WithDir("nestbed",
			fs.WithFile("modules.json", `[{"name":"vfio","deps":[]},{"name":"kvm","deps":[]},{"name":"kvm_amd","deps":["kvm"]}]`),
			fs.WithDir("modules", fs.WithFile("vfio.ko", "...\x00kvm_put_kvm\x00...")))),
		fs.WithDir("proc",
			fs.WithFile("cpuinfo", "processor : 0\nflags\t\t: fpu svm lm\n"),
			fs.WithFile("interrupts", "           CPU0\n  4: 17 IO-APIC 4-edge ttyS0\n"),
			fs.WithFile("vmstat", "nr_mlock 0\nnr_foll_pin_acquired 7\nnr_foll_pin_released 7\nnr_sec_page_table_pages 275\nnr_iommu_pages 275\n"),
			fs.WithFile("modules", "kvm_amd 204800 0 - Live 0xffffffffc0a3b000\nkvm 1036288 1 kvm_amd, Live 0xffffffffc0900000\n"),
			fs.WithFile("vmallocinfo", "0x0-0x1   12288 vp_modern_map_capability+0x148/0x1d0 [virtio_pci_modern_dev] ioremap\n"),
			fs.WithDir("self",
				fs.WithFile("status", "Name:\tagent\nVmLck:\t       0 kB\nVmPin:\t       0 kB\n"),
				fs.WithDir("fd", fs.WithSymlink("0", "pipe:[1]"), fs.WithSymlink("1", "pipe:[2]")),
				fs.WithDir("task", fs.WithDir("7", fs.WithFile("stack", "[<0>] vfio_unregister_group_dev+0x1/0x2\n"))))),
		fs.WithDir("sys",
			fs.WithDir("module",
				fs.WithDir("kvm", fs.WithFile("refcnt", "1\n"), fs.WithFile("initstate", "live\n")),
				fs.WithDir("kvm_amd", fs.WithFile("refcnt", "0\n"), fs.WithFile("initstate", "live\n"))),
			fs.WithDir("class", fs.WithDir("iommu", fs.WithSymlink("0000:00:01.0", "../../devices/pci0000:00/0000:00:01.0/virtio0/iommu/0000:00:01.0"))),
			fs.WithDir("bus", fs.WithDir("pci", fs.WithDir("devices", fs.WithDir("0000:01:00.0"))))))
}

// The kernel hurries while the guest is set up, and is as it was when the scenario begins.
func TestHurry(t *testing.T) {
	root := guestRoot(t)
	path := root.Join("sys/kernel/rcu_expedited")
	fs.Apply(t, root, fs.WithDir("sys", fs.WithDir("kernel", fs.WithFile("rcu_expedited", "0\n"))))
	read := func() string {
		text, err := os.ReadFile(path)
		assert.NilError(t, err)
		return string(text)
	}
	stop := hurry(root.Path())
	assert.Equal(t, read(), "1")
	assert.NilError(t, stop())
	assert.Equal(t, read(), "0\n")

	var during string
	s := Scenario{Name: "hurry", Summary: "x", Area: Attach, Timeout: time.Minute, Run: func(*T) { during = read() }}
	host(t, root.Path(), s, nil)
	assert.Equal(t, during, "0\n")
	assert.NilError(t, hurry(t.TempDir())(), "a kernel that has nothing to wait for")
}

// host runs a scenario and plays the host; answer may be nil when no call is expected.
func host(t *testing.T, root string, s Scenario, answer func(record.Call) record.Reply) []record.Record {
	t.Helper()
	self, err := os.Executable()
	assert.NilError(t, err)
	in, toAgent := io.Pipe()
	fromAgent, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := Execute(s, Env{In: in, Out: out, Scale: 1, Self: self, Root: root})
		out.Close()
		ended <- err
	}()
	var list []record.Record
	var reader record.Reader
	lines := bufio.NewScanner(fromAgent)
	lines.Buffer(nil, record.MaxLine)
	for lines.Scan() {
		rec, err := reader.Parse(lines.Bytes())
		assert.NilError(t, err)
		list = append(list, rec)
		if rec.Kind != record.KindCall {
			continue
		}
		if answer == nil { // the host is gone
			toAgent.Close()
			continue
		}
		line, err := json.Marshal(record.Input{Reply: new(answer(*rec.Call))})
		assert.NilError(t, err)
		_, err = toAgent.Write(append(line, '\n'))
		assert.NilError(t, err)
	}
	assert.NilError(t, lines.Err())
	toAgent.Close()
	assert.NilError(t, <-ended)
	assert.Equal(t, list[len(list)-1].Kind, record.KindDone)
	return list
}

func scenario(run func(*T)) Scenario {
	return Scenario{Name: "a-trial", Summary: "a trial", Area: Attach, Timeout: 10 * time.Second, Run: run}
}

// own are the claims of the scenario, as "ok claim" and "FALSE claim", and whatever else ends it.
func own(list []record.Record) []string {
	var got []string
	for _, r := range list {
		switch {
		case r.Check != nil && !r.Check.Invariant:
			got = append(got, map[bool]string{true: "ok ", false: "FALSE "}[r.Check.OK]+r.Check.Claim)
		case r.Broken != nil:
			got = append(got, "broken "+r.Broken.Reason)
		case r.Skip != nil:
			got = append(got, "skip "+string(r.Skip.Kind)+" "+r.Skip.Option+r.Skip.BuiltIn+r.Skip.Since+string(r.Skip.Limit)+": "+r.Skip.Reason)
		case r.Step != nil:
			got = append(got, "step "+r.Step.Text)
		}
	}
	return got
}

func falseInvariants(list []record.Record) []string {
	var got []string
	for _, r := range list {
		if r.Check != nil && r.Check.Invariant && !r.Check.OK {
			got = append(got, r.Check.Claim+": want "+r.Check.Want+", got "+r.Check.Got)
		}
	}
	return got
}

func TestExecute(t *testing.T) {
	var undone []string
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		t.Step("first")
		t.atEnd("one", func() error { undone = append(undone, "one"); return nil })
		t.atEnd("two", func() error { undone = append(undone, "two"); return errors.New("would not") })
		t.Check(true, "holds")
		t.Check(false, "does not hold")
		t.WantInt(1, 2, "one is two")
		t.WantErr(nil, unix.EBUSY, "refused")
		t.WantErr(&uapi.Error{Op: "delete_module", Object: "kvm", Errno: unix.EWOULDBLOCK}, unix.EWOULDBLOCK, "in use")
		t.WantErr(&uapi.Error{Op: "delete_module", Object: "kvm", Errno: unix.EBUSY}, nil, "unloads")
		t.Expect(record.Expect{Fault: true, Why: "on purpose"})
		t.must(&uapi.Error{Op: "VFIO_SET_IOMMU", Object: "container", Errno: unix.EPERM})
		t.Step("never reached")
	}), nil)

	assert.Equal(t, list[0].Hello.Schema, record.Schema)
	assert.Equal(t, list[0].Hello.Catalogue, Catalogue())
	assert.DeepEqual(t, own(list), []string{
		"step first", "ok holds", "FALSE does not hold", "FALSE one is two", "FALSE refused", "ok in use",
		"FALSE unloads", "FALSE VFIO_SET_IOMMU container succeeds", "FALSE cleanup succeeds: two",
	})
	assert.DeepEqual(t, undone, []string{"two", "one"})
	assert.DeepEqual(t, falseInvariants(list), []string(nil))
	done := list[len(list)-1].Done
	assert.Equal(t, done.Failed, 6)
	assert.Equal(t, done.Checks, 8+16)

	for _, r := range list {
		if r.Check == nil || r.Check.Invariant || r.Check.OK {
			continue
		}
		switch r.Check.Claim {
		case "refused":
			assert.Equal(t, r.Check.Want+" "+r.Check.Got, "EBUSY success")
			assert.Assert(t, strings.HasPrefix(r.Check.Site, "lab_test.go:"), r.Check.Site)
		case "unloads":
			assert.Equal(t, r.Check.Op+" "+r.Check.Want+" "+r.Check.Got, "delete_module kvm success EBUSY")
		case "VFIO_SET_IOMMU container succeeds":
			assert.Equal(t, r.Check.Op+" "+r.Check.Got, "VFIO_SET_IOMMU container EPERM")
		}
	}
}

func TestEnds(t *testing.T) {
	undone := 0
	count := func(t *T) { t.atEnd("count", func() error { undone++; return nil }) }
	for _, c := range []struct {
		name string
		run  func(*T)
		want string
	}{
		{"skip", func(t *T) { count(t); t.SkipConfig("CONFIG_VFIO_GROUP", "no group interface"); t.Check(false, "x") }, "skip config CONFIG_VFIO_GROUP: no group interface"},
		{"broken", func(t *T) { count(t); t.Broken("dead device"); t.Check(false, "x") }, "broken dead device"},
		{"panic", func(t *T) { count(t); panic("ours") }, "broken the scenario panicked: ours"},
		{"panic in a cleanup", func(t *T) { t.atEnd("bad", func() error { panic("ours") }); count(t) }, "broken bad panicked: ours"},
		{"vendor without need", func(t *T) { count(t); t.Module(KVMVendor) }, `broken scenario a-trial asks for the KVM vendor module`},
		{"no IOMMU", func(t *T) {
			count(t)
			if err := os.RemoveAll(t.env.Root + "/sys/class/iommu"); err != nil {
				t.Broken(err.Error())
			}
			t.BindVFIO(EDU)
		}, "FALSE the kernel drives the machine's IOMMU"},
		{"built-in module", func(t *T) {
			count(t)
			if err := os.Remove(t.env.Root + "/sys/module/kvm/refcnt"); err != nil {
				t.Broken(err.Error())
			}
			t.Module("kvm").Refs()
		}, "skip config kvm: kvm is built into this kernel"},
		{"built-in module to unload", func(t *T) {
			count(t)
			if err := os.Remove(t.env.Root + "/sys/module/kvm/refcnt"); err != nil {
				t.Broken(err.Error())
			}
			t.WantErr(t.Module("kvm").Unload(), nil, "kvm may leave")
		}, "skip config kvm: kvm is built into this kernel"},
		{"machine", func(t *T) { count(t); t.SkipMachine(record.LimitNVMeFLR, "no FLR", "another QEMU") }, "skip machine nvme-flr: no FLR"},
		{"symbols without names", func(t *T) { count(t); t.KernelSymbol("vfio_x") }, "skip config CONFIG_KALLSYMS: this kernel does not name"},
		{"probes of a kernel without", func(t *T) { count(t); t.CountCalls("vfio_x") }, "skip config CONFIG_KPROBE_EVENTS: this kernel cannot count"},
	} {
		undone = 0
		list := host(t, guestRoot(t).Path(), scenario(c.run), nil)
		got := own(list)
		assert.Assert(t, len(got) == 1 && strings.HasPrefix(got[0], c.want), "%s: %q", c.name, got)
		assert.Equal(t, undone, 1, c.name)
		assert.Assert(t, list[len(list)-1].Done.Checks >= 7, "%s: no closing invariant", c.name)
	}
}

func TestClosingInvariant(t *testing.T) {
	root := guestRoot(t)
	leak := func(path, text string) {
		assert.NilError(t, os.WriteFile(root.Join(path), []byte(text), 0o644))
	}
	assert.NilError(t, os.MkdirAll(root.Join("sys/bus/pci/devices/0000:00:03.0"), 0o755))
	assert.NilError(t, os.Symlink("../../../kernel/iommu_groups/4", root.Join("sys/bus/pci/devices/0000:00:03.0/iommu_group")))
	s := scenario(func(t *T) {
		leak("sys/module/kvm/refcnt", "2\n")
		if err := os.RemoveAll(root.Join("sys/module/kvm_amd")); err != nil {
			t.Broken(err.Error())
		}
		leak("proc/self/status", "VmLck:\t       4 kB\nVmPin:\t       8 kB\n")
		leak("proc/vmstat", "nr_mlock 1\nnr_foll_pin_acquired 9\nnr_foll_pin_released 7\nnr_sec_page_table_pages 280\nnr_iommu_pages 277\n")
		leak("proc/vmallocinfo", "0x0-0x1   12288 kvm_dev_ioctl+0xa2/0xa50 [kvm] pages=2 vmalloc N0=2\n")
		leak("proc/allocinfo", "allocinfo - version: 1.0\n#     <size>  <calls> <tag info>\n  64 1 drivers/vfio/vfio_main.c:449 [vfio] func:vfio_df_alloc\n  64 1 mm/slub.c:4 func:x\n")
		leak("sys/bus/pci/devices/0000:00:03.0/driver_override", "vfio-pci\n")
		leak("proc/interrupts", "           CPU0\n 25: 1 PCI-MSI vfio-msi[0](0000:01:00.0)\n")
		for _, err := range []error{
			os.Symlink("anon_inode:kvm-vm", root.Join("proc/self/fd/9")),
			os.Symlink("../../../../bus/pci/drivers/vfio-pci", root.Join("sys/bus/pci/devices/0000:01:00.0/driver")),
			os.MkdirAll(root.Join("sys/kernel/debug/kvm/7-9"), 0o755),
			os.MkdirAll(root.Join("dev/vfio/9"), 0o755),
			os.MkdirAll(root.Join("sys/kernel/iommu_groups/9/devices"), 0o755),
			os.MkdirAll(root.Join("sys/kernel/iommu_groups/8/devices/0000:00:03.0"), 0o755),
			os.Remove(root.Join("sys/bus/pci/devices/0000:00:03.0/iommu_group")),
			os.Symlink("../../../kernel/iommu_groups/8", root.Join("sys/bus/pci/devices/0000:00:03.0/iommu_group")),
		} {
			if err != nil {
				t.Broken(err.Error())
			}
		}
		t.events.take(map[string]string{"DEVPATH": "/devices/virtual/misc/kvm", "EVENT": "create", "PID": "7"})
		t.WantIdle("nothing is held")
	})
	var list []record.Record
	path := root.Path()
	synctest.Test(t, func(t *testing.T) { list = host(t, path, s, nil) }) // it is patient with allocations
	got := falseInvariants(list)
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], path, "ROOT")
	}
	assert.DeepEqual(t, got, []string{
		"references of kvm are back: want 1, got 2",
		"references of kvm_amd are back: want 0, got not loaded",
		"every VM that KVM announced is destroyed: want 0, got 1",
		"no VM is left in KVM's debugfs: want 0, got 1",
		"locked memory is back: want 0 kB, got 4 kB",
		"pinned memory is back: want 0 kB, got 8 kB",
		"VFIO's interrupts are back: want , got vfio-msi[0](0000:01:00.0)",
		"drivers are back: want 0000:01:00.0: , got 0000:01:00.0: vfio-pci",
		"open files are back: want , got anon_inode:kvm-vm: 1",
		"pages that the guest has pinned are unpinned: want 0, got 2",
		"pages that the guest has locked are unlocked: want 0, got 1",
		"VFIO's groups and devices are back: want , got /dev/vfio/9",
		"IOMMU groups are back: want 0000:00:03.0: 4, got 0000:00:03.0: 8, group 9: no device",
		"driver overrides are back: want , got 0000:00:03.0: vfio-pci",
		// A fake has no trace instances, and the claim says so.
		"vmalloc areas and page tables of the modules under test are back (other allocations were not watched: trace instance: " +
			"mkdir ROOT/sys/kernel/tracing/instances/nestbed-memory: no such file or directory): want , got kvm_dev_ioctl [kvm] (vmalloc): 1 more, pages of KVM's page tables: 3 more, vfio_df_alloc [vfio] (allocinfo): 1 more",
	})
	got = own(list)
	assert.DeepEqual(t, got, []string{"FALSE nothing is held"})
}

func TestPrepareFails(t *testing.T) {
	root := guestRoot(t)
	s := scenario(func(t *T) { t.Check(false, "must not run") })
	s.Needs.Modules = []string{"nvidia"}
	got := own(host(t, root.Path(), s, nil))
	assert.DeepEqual(t, got, []string{"broken load module nvidia: no module file, and not built in"})

	s.Needs.Modules = []string{"kvm"}
	assert.NilError(t, os.WriteFile(root.Join("proc/cpuinfo"), []byte("flags : fpu lm\n"), 0o644))
	got = own(host(t, root.Path(), s, nil))
	assert.DeepEqual(t, got, []string{"broken the guest's CPU has neither svm nor vmx: KVM cannot work in it"})
}

func TestVendorModule(t *testing.T) {
	s := scenario(func(t *T) {
		t.WantInt(t.Module(KVMVendor).Refs(), 0, "idle")
		t.WantInt(t.Module("kvm").Held(), 0, "held")
		t.Check(t.Module(KVMVendor).name == "kvm_amd", "the CPU's")
		t.Check(t.Regime() == RSYM, "read off vfio.ko")
		t.Check(t.IOMMU() == VirtioIOMMU, "by its path")
	})
	s.Needs.Modules = []string{"kvm"}
	got := own(host(t, guestRoot(t).Path(), s, nil))
	assert.DeepEqual(t, got, []string{"ok idle", "ok held", "ok the CPU's", "ok read off vfio.ko", "ok by its path"})
}

func TestAllowInterrupts(t *testing.T) {
	names := []string{"vfio_iommu_type1", "iommufd"} // a kernel has both, or either
	for _, c := range []struct{ iommu, chip, want string }{
		{"0000:00:01.0", "IO-APIC 4-edge", "Y"},
		{"ivhd0", "IO-APIC 4-edge", "Y"},
		{"ivhd0", "IR-IO-APIC 4-edge", "N"},
		{"dmar0", "IR-IO-APIC 4-edge", "N"},
		{"dmar0", "IO-APIC 4-edge", "N"}, // would be the kernel's mistake
	} {
		for _, has := range [][]string{names, names[:1], names[1:]} {
			root := guestRoot(t)
			fs.Apply(t, root, fs.WithDir("proc", fs.WithFile("interrupts", "           CPU0\n  4: 17 "+c.chip+" ttyS0\n")))
			for _, name := range has {
				fs.Apply(t, root, fs.WithDir("sys", fs.WithDir("module", fs.WithDir(name, fs.WithDir("parameters", fs.WithFile("allow_unsafe_interrupts", "N"))))))
			}
			class := root.Join("sys/class/iommu/0000:00:01.0")
			if c.iommu != "0000:00:01.0" {
				assert.NilError(t, os.Rename(class, root.Join("sys/class/iommu/"+c.iommu)))
			}
			assert.DeepEqual(t, own(host(t, root.Path(), scenario(func(t *T) { t.allowInterrupts() }), nil)), []string(nil))
			for _, name := range has {
				got, err := os.ReadFile(root.Join("sys/module", name, "parameters/allow_unsafe_interrupts"))
				assert.NilError(t, err)
				assert.Equal(t, string(got), c.want, "%s: %s, %s", name, c.iommu, c.chip)
			}
		}
	}
}

func TestCalls(t *testing.T) {
	ask := scenario(func(t *T) { t.WantInt(t.Faults(), 3, "faults"); t.plug(EDU) })
	list := host(t, guestRoot(t).Path(), ask, func(c record.Call) record.Reply {
		if c.Verb == record.VerbFaults {
			return record.Reply{ID: c.ID, Faults: 3}
		}
		assert.Equal(t, c.Device, "edu")
		assert.Equal(t, c.Slot, 1)
		return record.Reply{ID: c.ID, Error: "no such port"}
	})
	assert.DeepEqual(t, own(list), []string{"ok faults", "broken plug edu: no such port"})

	list = host(t, guestRoot(t).Path(), ask, nil)
	assert.DeepEqual(t, own(list), []string{"broken count IOMMU faults: the host answers no more"})

	// A reply to nobody, and what is no input at all, are the host's mistake and are said.
	root := guestRoot(t).Path()
	synctest.Test(t, func(t *testing.T) {
		list := host(t, root, ask, func(c record.Call) record.Reply { return record.Reply{ID: c.ID + 1} })
		assert.DeepEqual(t, own(list), []string{
			"broken the host answers call 2, which nobody made",
			"broken count IOMMU faults: no answer from the host: context deadline exceeded",
		})
	})
}

// A second answer to one call must not be taken for another's, nor stop the reader.
func TestAnswersTwice(t *testing.T) {
	in, toAgent := io.Pipe()
	fromAgent, out := io.Pipe()
	s := newStream(in, out)
	lines := bufio.NewScanner(fromAgent)
	next := func() (rec record.Record) {
		assert.Assert(t, lines.Scan())
		assert.NilError(t, json.Unmarshal(lines.Bytes(), &rec))
		return rec
	}
	answered := make(chan error, 1)
	go func() {
		_, err := s.call(t.Context(), record.Call{Verb: record.VerbNMI})
		answered <- err
	}()
	assert.Equal(t, next().Kind, record.KindCall)
	_, err := io.WriteString(toAgent, `{"reply":{"id":1}}`+"\n"+`{"reply":{"id":1}}`+"\n"+`{"event":{"event":"DEVICE_DELETED","device":"edu"}}`+"\n")
	assert.NilError(t, err)
	assert.Equal(t, next().Broken.Reason, "the host answers call 1, which nobody made")
	assert.Equal(t, next().Log.Text, "host: DEVICE_DELETED edu")
	assert.NilError(t, <-answered)
	assert.NilError(t, toAgent.Close())
}

// When the time is up the heartbeat ends and evidence comes; a scenario that is only slow still ends well.
func TestDeadline(t *testing.T) {
	root := guestRoot(t).Path()
	synctest.Test(t, func(t *testing.T) {
		list := host(t, root, scenario(func(t *T) {
			<-t.ctx.Done()
			time.Sleep(5 * time.Second)
			t.Check(true, "late")
		}), nil)
		beats, late := 0, false
		for _, r := range list {
			switch {
			case r.Kind == record.KindBeat:
				beats++
				assert.Assert(t, !late, "a beat after the deadline")
			case r.Log != nil && strings.Contains(r.Log.Text, "time is up"):
				late = true
				assert.Assert(t, strings.Contains(r.Log.Text, "thread 7\n[<0>] vfio_unregister_group_dev"), r.Log.Text)
				assert.Assert(t, strings.Contains(r.Log.Text, "goroutine"), r.Log.Text)
			}
		}
		assert.Assert(t, late)
		assert.Assert(t, beats == 9 || beats == 10, "%d beats", beats)
		assert.DeepEqual(t, own(list), []string{"ok late"})
	})
}

func TestLogsAreBounded(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		t.Log(strings.Repeat("\x1b<>", 100_000))
		for range maxLogs + 10 {
			t.stream.logs++
		}
		t.Log("too many")
	}), nil)
	for _, r := range list {
		assert.Assert(t, r.Log == nil || r.Log.Text != "too many")
		assert.Assert(t, r.Log == nil || !strings.Contains(r.Log.Text, "\x1b"))
	}
}

var (
	childSpeaks = RegisterChild("test-speaks", func(c *C) error {
		if err := c.Say("hello " + strings.Join(c.Args, "+")); err != nil {
			return err
		}
		return c.Sleep()
	})
	childFails = RegisterChild("test-fails", func(*C) error {
		return &uapi.Error{Op: "KVM_CREATE_VM", Object: "/dev/kvm", Errno: unix.EBUSY}
	})
)

func TestChild(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		p := t.Child(childSpeaks, "a", "b")
		t.Check(p.Line() == "hello a+b", "it speaks")
		pid := p.cmd.Process.Pid
		p.Kill()
		t.WantErr(unix.Kill(pid, 0), unix.ESRCH, "it is gone")
		t.Child(childSpeaks) // killed at the end
		t.Child(childFails).Line()
	}), nil)
	got := own(list)
	assert.DeepEqual(t, got[:2], []string{"ok it speaks", "ok it is gone"})
	assert.Assert(t, strings.HasPrefix(got[2], "FALSE no error: child test-fails ended"), got[2])
	assert.Assert(t, strings.Contains(got[2], "KVM_CREATE_VM /dev/kvm: device or resource busy"), got[2])
}

func TestRunChild(t *testing.T) {
	assert.Error(t, RunChild("nobody", nil, strings.NewReader(""), io.Discard), `unknown child "nobody"`)
	// The other end of its input is the scenario.
	assert.Error(t, RunChild("test-speaks", nil, strings.NewReader(""), io.Discard), "the scenario is gone")
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(path, []byte(text), 0o644))
}

func TestACPIInterrupts(t *testing.T) {
	const table = "            CPU0       CPU1\n  4:         17          0   IO-APIC    4-edge      ttyS0\n" +
		"  9:          2          1   IO-APIC    9-fasteoi   acpi\nNMI:          0          0   Non-maskable interrupts\n"
	n, ok := acpiInterrupts([]byte(table))
	assert.Assert(t, ok)
	assert.Equal(t, n, 3)
	n, ok = acpiInterrupts([]byte(strings.ReplaceAll(table, "          2          1 ", "          0          0 ")))
	assert.Assert(t, ok)
	assert.Equal(t, n, 0)
	_, ok = acpiInterrupts([]byte("  9: x\n"))
	assert.Assert(t, !ok)
}

// A node that is missing is the kernel's fault, unless there is another way to the device.
func TestGroupNode(t *testing.T) {
	root := guestRoot(t)
	open := func() []string {
		return own(host(t, root.Path(), scenario(func(t *T) { (&VFIODevice{t: t, number: 987654}).OpenGroup() }), nil))
	}
	assert.DeepEqual(t, open(), []string{"FALSE open /dev/vfio/987654 succeeds"})
	fs.Apply(t, root, fs.WithDir("dev", fs.WithDir("vfio", fs.WithDir("devices"))))
	assert.DeepEqual(t, open(), []string{"skip config CONFIG_VFIO_GROUP: no /dev/vfio/987654: this kernel has no group interface"})
}

// A kernel without containers has no type1 to load with vfio_pci.
func TestNeedsOfAKernelWithoutType1(t *testing.T) {
	root := guestRoot(t)
	fs.Apply(t, root, fs.WithDir("sys", fs.WithDir("module", fs.WithDir("vfio_pci", fs.WithFile("initstate", "live\n")))))
	s := scenario(func(t *T) { t.Check(true, "it runs") })
	s.Needs.Modules = []string{"vfio_pci"}
	assert.DeepEqual(t, own(host(t, root.Path(), s, nil)), []string{"ok it runs"})
	s.Needs.Modules = []string{"vfio_pci", "vfio_iommu_type1"}
	assert.DeepEqual(t, own(host(t, root.Path(), s, nil)), []string{"broken load module vfio_iommu_type1: no module file, and not built in"})
}

// A module that the scenario was the first to load is as it was right after that, or gone.
func TestModuleLoadedByTheScenario(t *testing.T) {
	root := guestRoot(t)
	load := func(refs string) []record.Record {
		return host(t, root.Path(), scenario(func(t *T) {
			for path, text := range map[string]string{"vfio/refcnt": refs, "irqbypass/refcnt": "0\n"} {
				path = root.Join("sys/module", path)
				t.mustHost("load", os.MkdirAll(filepath.Join(filepath.Dir(path), "holders"), 0o755))
				t.mustHost("load", os.WriteFile(path, []byte(text), 0o644))
			}
			t.mustHost("load", os.MkdirAll(root.Join("sys/module/vfio/holders/vfio_pci_core"), 0o755))
			t.atEnd("unload", func() error { return os.RemoveAll(root.Join("sys/module/irqbypass")) })
		}), nil)
	}
	assert.DeepEqual(t, falseInvariants(load("1\n")), []string(nil))
	assert.NilError(t, os.RemoveAll(root.Join("sys/module/vfio")))
	assert.DeepEqual(t, falseInvariants(load("3\n")), []string{"references of vfio, which the scenario loaded, are back: want 1, got 3"})
}
