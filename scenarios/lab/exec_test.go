package lab

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/fs"

	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/results/record"
)

// programRoot is a guest in which a program finds what it needs.
func programRoot(t *testing.T) *fs.Dir {
	t.Helper()
	root := guestRoot(t)
	live := func(name string) fs.PathOp {
		return fs.WithDir(name, fs.WithFile("refcnt", "0\n"), fs.WithFile("initstate", "live\n"))
	}
	fs.Apply(t, root, fs.WithDir("sys", fs.WithDir("module", live("vfio_pci"), live("vfio_iommu_type1"))))
	return root
}

func shell(script string) Program {
	return Program{Name: "trial", Argv: []string{"/bin/sh", "-c", script}, Timeout: 30 * time.Second}
}

// perform runs a program and gives what it claimed, what it wrote, and how it is said to have ended.
func perform(t *testing.T, p Program) (claims []string, output, end string, logs string) {
	t.Helper()
	list := host(t, programRoot(t).Path(), p.Scenario(), nil)
	for _, r := range list {
		switch {
		case r.Log == nil:
		case r.Log.From == record.FromProgram:
			output += r.Log.Text
		case r.Log.From == record.FromExit:
			end = r.Log.Text
		default:
			logs += r.Log.Text + "\n"
		}
	}
	assert.Check(t, len(children()) == 0, "children are left: %v", children())
	return own(list), output, end, logs
}

func TestProgram(t *testing.T) {
	const step, zero = "step " + record.ProgramStep, "the program exits with status 0"
	for _, c := range []struct {
		script string
		expect bool // it is a reproducer
		claims []string
		output string
		end    string
	}{
		{"echo out; echo err >&2; printf 'no newline'", false, []string{step, "ok " + zero}, "out\nerr\nno newline", "exit status 0 after"},
		{"exit 3", false, []string{step, "FALSE " + zero}, "", "exit status 3 after"},
		{"exit 3", true, []string{step}, "", "exit status 3 after"},
		{"kill -SEGV $$", false, []string{step, "FALSE " + zero}, "", "killed by SIGSEGV after"},
		{"echo $NESTBED_IOMMU $NESTBED_KVM_MODULE $NESTBED_DEVICES $NESTBED_BDF.", false, []string{step, "ok " + zero}, "virtio kvm_amd 0 .\n", "exit status 0 after"},
		{"read x; echo got $?", false, []string{step, "ok " + zero}, "got 1\n", "exit status 0 after"}, // nobody types
		{`printf 'bell \007 escape \033[2J bad \377 end'`, false, []string{step, "ok " + zero}, "bell \a escape \x1b[2J bad \uFFFD end", "exit status 0 after"},
		{"test -t 1", false, []string{step, "ok " + zero}, "", "exit status 0 after"}, // so that stdio writes lines
	} {
		p := shell(c.script)
		p.Reproducer = c.expect
		claims, output, end, _ := perform(t, p)
		assert.Check(t, cmp.DeepEqual(claims, c.claims), c.script)
		assert.Check(t, cmp.Equal(output, c.output), c.script)
		assert.Check(t, strings.HasPrefix(end, c.end), "%s: %s", c.script, end)
	}
}

func TestProgramThatDoesNotStart(t *testing.T) {
	claims, _, _, _ := perform(t, Program{Name: "trial", Argv: []string{"/nowhere"}, Timeout: time.Second})
	assert.DeepEqual(t, claims, []string{"step " + record.ProgramStep, "broken start the program: fork/exec /nowhere: no such file or directory"})
}

func TestProgramThatNeverEnds(t *testing.T) {
	p := shell("echo begun; /bin/sleep 1000 & wait")
	p.Timeout = 300 * time.Millisecond
	claims, output, end, logs := perform(t, p)
	assert.DeepEqual(t, claims, []string{"step " + record.ProgramStep, "FALSE the program ends within 300ms"})
	assert.Equal(t, output, "begun\n")
	assert.Equal(t, end, "no end within 300ms, killed")
	assert.Check(t, cmp.Contains(logs, "the program has not ended within 300ms\nthread "))

	p.Reproducer = true
	claims, _, _, _ = perform(t, p)
	assert.DeepEqual(t, claims, []string{"step " + record.ProgramStep})
}

// What a program leaves behind is dead before the closing invariant is taken, in its group or not, and holds
// nobody up by the terminal that it keeps open.
func TestProgramLeavesNothingBehind(t *testing.T) {
	for _, daemon := range []string{
		"/bin/sleep 1000 & echo $!",
		"/usr/bin/setsid /bin/sh -c 'echo $$; /bin/sleep 1000; :' & /bin/sleep 0.2",
		"(/usr/bin/setsid /bin/sh -c 'trap \"\" HUP TERM; echo $$; /usr/bin/setsid /bin/sleep 1000; :' &) ; /bin/sleep 0.2",
	} {
		_, output, end, logs := perform(t, shell(daemon))
		assert.Check(t, strings.HasPrefix(end, "exit status 0"), end)
		var pid int
		_, err := fmt.Sscan(output, &pid)
		assert.NilError(t, err, output)
		assert.Check(t, cmp.ErrorIs(unix.Kill(pid, 0), unix.ESRCH), daemon)
		assert.Check(t, cmp.Contains(logs, fmt.Sprintf("left behind by the program, killed: %d", pid)))
	}
}

func TestProgramThatFloods(t *testing.T) {
	claims, output, _, _ := perform(t, shell("i=0; /usr/bin/yes 0123456789abcde | /usr/bin/head -c 1000000; echo; echo last words"))
	assert.Equal(t, len(claims), 2)
	assert.Check(t, strings.HasPrefix(output, "0123456789abcde\n0123"))
	assert.Check(t, strings.HasSuffix(output, "last words\n"))
	assert.Check(t, cmp.Contains(output, fmt.Sprintf("\n[%d bytes left out here]\n", 1000000+1+11-maxOutput-maxTail)))
	assert.Check(t, len(output) < maxOutput+maxTail+100, len(output))
}

// A writer of single bytes must not use up the records that a run may have.
func TestManySmallPieces(t *testing.T) {
	var written, pieces int
	list := host(t, programRoot(t).Path(), scenario(func(t *T) {
		o := &output{t: t}
		for range 100_000 {
			o.write([]byte("é")[:1])
			o.write([]byte("é")[1:])
		}
		o.close()
	}), nil)
	for _, r := range list {
		if r.Log != nil && r.Log.From == record.FromProgram {
			pieces++
			written += len(r.Log.Text)
			assert.Assert(t, !strings.Contains(r.Log.Text, "\uFFFD"), "a character was cut")
		}
	}
	assert.Equal(t, written, 200_000)
	assert.Assert(t, pieces < fewPieces+200, "%d pieces", pieces)
}

func TestProgramEnvironment(t *testing.T) {
	root := guestRoot(t)
	fs.Apply(t, root,
		fs.WithDir("dev", fs.WithDir("vfio", fs.WithDir("devices", fs.WithFile("vfio3", "")))),
		fs.WithDir("sys", fs.WithDir("bus", fs.WithDir("pci", fs.WithDir("devices",
			fs.WithDir("0000:01:00.0", fs.WithDir("vfio-dev", fs.WithDir("vfio3"))),
			fs.WithDir("0000:02:00.0", fs.WithDir("vfio-dev", fs.WithDir("vfio4")))))))) // its node is missing
	lab := &T{env: Env{Root: root.Path(), Self: "/bin/agent"}, vendor: "kvm_intel"}
	bus := pci.NewBus(root.Path())
	p := Program{Devices: []Device{EDU, NVMe}}
	got := p.environ(lab, []*VFIODevice{{pci: bus.Device("0000:01:00.0"), number: 7}, {pci: bus.Device("0000:02:00.0"), number: 12}})
	assert.DeepEqual(t, got, []string{
		"PATH=/bin", "HOME=/root", "TERM=dumb",
		"NESTBED_IOMMU=virtio", "NESTBED_KVM_MODULE=kvm_intel", "NESTBED_DEVICES=2",
		"NESTBED_DEVICE=edu", "NESTBED_BDF=0000:01:00.0", "NESTBED_GROUP=7", "NESTBED_CDEV=/dev/vfio/devices/vfio3",
		"NESTBED_DEVICE_2=nvme", "NESTBED_BDF_2=0000:02:00.0", "NESTBED_GROUP_2=12",
	})
	assert.NilError(t, os.RemoveAll(root.Join("sys/class/iommu")))
	assert.Equal(t, p.environ(lab, nil)[3], "NESTBED_IOMMU=none")
}

func TestProgramWords(t *testing.T) {
	p := Program{
		Name: "l1", Argv: []string{"/tmp/l1", "--device", "x y", "", "it's"}, Devices: []Device{EDU, Testdev, EDU},
		Timeout: 90 * time.Second, Reproducer: true,
	}
	words := p.Words(2.5)
	assert.Equal(t, words[0], "exec")
	got, scale, err := ParseProgram(words[1:])
	assert.NilError(t, err)
	assert.Equal(t, scale, 2.5)
	assert.DeepEqual(t, got.Argv, p.Argv)
	assert.Equal(t, fmt.Sprint(got.Devices[0].Name, got.Devices[1].Name, got.Devices[2].Name, len(got.Devices)), "edupci-testdevedu3")
	assert.Check(t, got.Name == p.Name && got.Timeout == p.Timeout && got.Reproducer)

	for args, want := range map[string]string{
		"":                         "no program",
		"--device vga -- x":        `unknown device "vga", there are: edu, nvme, e1000e, pci-testdev`,
		"--timeout 0s -- x":        "a time limit of 0s is none",
		"--scale 0 -- x":           "the scale is not positive",
		"--name A_b -- x":          `program name "A_b": not lower-case words`,
		"--timeout soon -- x":      "invalid value",
		"--nothing -- x":           "flag provided but not defined",
		"--device edu --scale 1.0": "no program",
	} {
		_, _, err := ParseProgram(strings.Fields(args))
		assert.Check(t, cmp.ErrorContains(err, want), args)
	}
}

// What the plan reads off a program.
func TestProgramNeeds(t *testing.T) {
	needs := shell("true").Scenario().NeedsOf("trial")
	assert.Equal(t, needs.IOMMU, NoIOMMU)
	p := shell("true")
	p.Devices = []Device{EDU}
	s := p.Scenario()
	assert.Equal(t, s.NeedsOf("trial").IOMMU, AnyIOMMU)
	assert.Assert(t, s.Timeout > p.Timeout)
	_, listed := Lookup(ExecName)
	assert.Assert(t, !listed, "a program is in no catalogue")
}
