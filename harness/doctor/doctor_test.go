package doctor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/qemu"
)

// remembering is a doctor who has no pool: whatever it says comes from memory.
func remembering(t *testing.T, proofs ...Proof) *Doctor {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "qemu")
	assert.NilError(t, os.WriteFile(binary, []byte("#!/bin/sh\necho QEMU emulator version 9.9.9\n"), 0o755))
	d := &Doctor{Binary: binary, KernelSpec: "debian:6.12", Memory: filepath.Join(dir, "memory"), Say: func(s string) { t.Error("asked anew: " + s) }}
	for _, p := range proofs {
		key, err := d.key(p.Accel)
		assert.NilError(t, err)
		assert.NilError(t, remember(filepath.Join(d.Memory, key+".json"), p))
	}
	return d
}

func TestChooseRemembersWhatABootHasShown(t *testing.T) {
	kvm, tcg := Proof{Accel: machine.KVM, Works: No, Reason: "emulation failure"}, Proof{Accel: machine.TCG, Works: Yes, Nested: Yes}
	choice, err := remembering(t, kvm, tcg).Choose(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, choice.Accel, machine.TCG)
	assert.Assert(t, choice.Proven)
	assert.Assert(t, cmp.Contains(strings.Join(choice.NotCovered(), "; "), "no VMX"))

	tcg = Proof{Accel: machine.TCG, Works: No, Reason: "silent"}
	_, err = remembering(t, kvm, tcg).Choose(t.Context())
	assert.ErrorContains(t, err, "tcg: silent")
}

// A proof holds for one QEMU: another program, even of the same name, is asked anew.
func TestProofHoldsForOneQEMU(t *testing.T) {
	d := remembering(t)
	before, err := d.key(machine.TCG)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(d.Binary, []byte("#!/bin/sh\necho QEMU emulator version 9.9.10\n"), 0o755))
	after, err := d.key(machine.TCG)
	assert.NilError(t, err)
	assert.Assert(t, before != after)
	kvm, err := d.key(machine.KVM)
	assert.NilError(t, err)
	assert.Assert(t, kvm != after)
}

func TestExaminationDrawsConclusions(t *testing.T) {
	x := Examination{
		QEMU: QEMU{Path: "qemu", Version: "7.2", Features: features(qemu.Capabilities{})},
		Accelerators: []Proof{
			{Accel: machine.KVM, Works: No, Reason: "emulation failure", Remedy: "another host"},
			{Accel: machine.TCG, Works: Yes, Nested: Yes},
		},
		Tools: []Tool{{Name: "git", For: "kernel trees", Package: "git"}},
		Disk:  Disk{Folder: "/x", FreeMB: 10},
	}
	x.sum()
	assert.Assert(t, !x.Usable(), "a QEMU without q35 runs nothing")
	text := x.Text()
	for _, want := range []string{"emulation failure", "another host", "apt-get install git", "10 MB free in /x", "kvm_amd", "no q35", "VMX"} {
		assert.Check(t, cmp.Contains(text, want))
	}
	for _, s := range x.Cannot {
		assert.Check(t, s.What != "" && s.Why != "" && s.Remedy != "", "%+v", s)
	}
	data, err := json.Marshal(x)
	assert.NilError(t, err)
	var back Examination
	assert.NilError(t, json.Unmarshal(data, &back))
	assert.DeepEqual(t, back, x)

	for i := range x.QEMU.Features {
		x.QEMU.Features[i].Have = true
	}
	assert.Assert(t, x.Usable())
	x.Accelerators[1].Works = No
	assert.Assert(t, !x.Usable(), "no accelerator, no guest")
}
