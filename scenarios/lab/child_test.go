package lab

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"
)

// childEchoes answers words and, when told to, writes to the descriptor that it was given, or ends.
var childEchoes = RegisterChild("test-echoes", func(c *C) error {
	for {
		word, err := c.Hear()
		if err != nil {
			return err
		}
		switch word {
		case "write":
			if _, err := unix.Write(c.FD(1), []byte("passed")); err != nil {
				return err
			}
		case "end":
			return nil
		case "die":
			_ = c.Say("dying")
			return unix.Kill(unix.Getpid(), unix.SIGKILL)
		case "fail":
			return errors.New("told to")
		}
		if err := c.Say("heard " + word); err != nil {
			return err
		}
	}
})

func TestChildHearsAndEnds(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		a, b := t.SocketPair()
		p := t.ChildWith(childEchoes, []int{a.FD(), b.FD()})
		t.WantText(p.Ask("one"), "heard one", "it hears and answers")
		t.WantText(p.Ask("write"), "heard write", "and has what it was given")
		b.Close()
		got := make([]byte, 16)
		n, err := unix.Read(a.FD(), got)
		t.mustHost("read", err)
		t.WantText(string(got[:n]), "passed", "which is what the scenario has")
		p.Tell("end")
		p.Wait()
		t.WantErr(unix.Kill(p.PID(), 0), unix.ESRCH, "it is gone")
		q := t.Child(childEchoes)
		q.Tell("fail")
		q.Wait()
		t.Check(false, "never reached")
	}), nil)
	got := own(list)
	assert.DeepEqual(t, got[:4], []string{
		"ok it hears and answers", "ok and has what it was given", "ok which is what the scenario has", "ok it is gone",
	})
	assert.Equal(t, len(got), 5)
	assert.Assert(t, strings.HasPrefix(got[4], "FALSE no error: child test-echoes ended by itself (exit status 1): told to"), got[4])
}

func TestChildKillsItself(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		p := t.Child(childEchoes)
		p.Tell("die")
		t.WantText(strings.Join(p.WaitKilled(), ", "), "dying", "its last words")
		q := t.Child(childEchoes)
		q.Tell("end")
		q.WaitKilled()
		t.Check(false, "never reached")
	}), nil)
	got := own(list)
	assert.Equal(t, len(got), 2)
	assert.Equal(t, got[0], "ok its last words")
	assert.Assert(t, strings.HasPrefix(got[1], "FALSE no error: child test-echoes ended by itself (exit status 0)"), got[1])
}

// A child that hears nothing must still see that the scenario is gone.
func TestChildHearsNothing(t *testing.T) {
	in, words := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- RunChild("test-speaks", nil, in, io.Discard) }()
	for range maxUnheard + 1 {
		_, err := io.WriteString(words, "word\n")
		assert.NilError(t, err)
	}
	assert.Error(t, <-ended, "the scenario says more than the child hears")
}

func TestRefCounter(t *testing.T) {
	root := guestRoot(t)
	list := host(t, root.Path(), scenario(func(t *T) {
		refs := t.RefCounter(t.Module("kvm"), t.Module("kvm_amd"))
		t.WantText(refs.String(), "kvm 0 kvm_amd 0", "idle")
		t.mustHost("write", os.WriteFile(root.Join("sys/module/kvm/refcnt"), []byte("12\n"), 0o644))
		t.WantText(refs.String(), "kvm 11 kvm_amd 0", "eleven more")
		t.mustHost("write", os.WriteFile(root.Join("sys/module/kvm/refcnt"), []byte("1\n"), 0o644))
	}), nil)
	assert.DeepEqual(t, own(list), []string{"ok idle", "ok eleven more"})
	assert.DeepEqual(t, falseInvariants(list), []string(nil))
}

func TestKernelSymbol(t *testing.T) {
	root := guestRoot(t)
	fs.Apply(t, root, fs.WithDir("proc", fs.WithFile("kallsyms",
		"0000000000000000 t vfio_unregister_group_dev_old\n0000000000000000 T vfio_del_group_dev\t[vfio]\n")))
	list := host(t, root.Path(), scenario(func(t *T) {
		t.Check(t.HasSymbol("vfio_del_group_dev") && t.HasSymbol("vfio_unregister_group_dev_old"), "both are there")
		t.Check(!t.HasSymbol("vfio_unregister_group_dev"), "and no other")
		t.WantText(t.KernelSymbol("vfio_unregister_group_dev", "vfio_del_group_dev"), "vfio_del_group_dev", "a module's function")
		t.KernelSymbol("vfio_nothing")
	}), nil)
	assert.DeepEqual(t, own(list), []string{
		"ok both are there", "ok and no other", "ok a module's function",
		"broken this kernel has no function vfio_nothing: its name has changed",
	})
}
