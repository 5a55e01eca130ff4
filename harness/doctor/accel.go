package doctor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/harness/console"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/qemu"
)

// Answer is what a probe says. The zero value is CannotTell, which is never remembered.
type Answer string

// The answers.
const (
	CannotTell Answer = ""
	Yes        Answer = "yes"
	No         Answer = "no"
)

// Proof is what is known of an accelerator on this host.
type Proof struct {
	Accel   machine.Accel `json:"accelerator"`
	Works   Answer        `json:"works"`
	Reason  string        `json:"reason"`            // why not, or what was seen
	Remedy  string        `json:"remedy,omitempty"`  // what to type to change it
	Kernel  string        `json:"kernel,omitempty"`  // release that was booted
	Seconds float64       `json:"seconds,omitempty"` // to init's first word, guest clock
	Nested  Answer        `json:"nested"`            // whether KVM works in the guest
	Tried   time.Time     `json:"tried,omitzero"`
}

// Machine is the one that proving boots run on.
const Machine = "intel"

// bootDeadline bounds one proving boot. A stock kernel needs 4 s under TCG; KVM that does not work shows
// that within a second.
const bootDeadline = 90 * time.Second

// prove says whether a guest of the default kernel reaches userspace with accel. Yes and no are
// remembered until the host boots again or QEMU or the CPU change.
func (d *Doctor) prove(ctx context.Context, accel machine.Accel) (Proof, error) {
	p := Proof{Accel: accel}
	if accel == machine.KVM {
		if p.Works, p.Reason, p.Remedy = openKVM(); p.Works == No {
			return p, nil // cheap to ask again, and quickly changed
		}
	}
	key, err := d.key(accel)
	if err != nil {
		return p, err
	}
	file := filepath.Join(d.Memory, key+".json")
	if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &p) == nil && p.Works != CannotTell {
		return p, nil
	}
	d.Say(fmt.Sprintf("does %s work here? booting %s (once per boot of this host)", accel, d.KernelSpec))
	p, certain, err := d.boot(ctx, accel)
	// A boot that failed for a reason of the moment (memory, a busy host) must not count for ever.
	if err != nil || p.Works == CannotTell || p.Works == No && !certain {
		return p, err
	}
	if err := remember(file, p); err != nil {
		d.Say("could not remember that: " + err.Error())
	}
	return p, nil
}

// boot tries the default kernel. An error is one of the host; what the guest does is in the proof, and
// certain says that the host itself named the cause.
func (d *Doctor) boot(ctx context.Context, accel machine.Accel) (p Proof, certain bool, err error) {
	p = Proof{Accel: accel, Tried: time.Now().UTC().Truncate(time.Second)}
	k, err := d.Kernels.Resolve(ctx, d.KernelSpec, d.Say)
	if err != nil {
		p.Reason = err.Error()
		return p, false, ctx.Err()
	}
	p.Kernel = k.Release
	m, err := machine.Named(Machine)
	if err != nil {
		return p, false, err
	}
	m.Accel = accel
	dir, err := os.MkdirTemp("", "nestbed-doctor-")
	if err != nil {
		return p, false, err
	}
	defer os.RemoveAll(dir)
	booting, cancel := context.WithTimeout(ctx, bootDeadline)
	defer cancel()
	g, err := d.Pool.Get(booting, pool.Spec{Kernel: k, Machine: m, Dir: dir, Boot: true})
	if err == nil {
		p.Works, p.Seconds, p.Nested = Yes, g.Timing.Ready.Seconds(), nested(accel)
		p.Reason = fmt.Sprintf("%s reached userspace in %.1f s", k.Release, p.Seconds)
		return p, true, g.Close()
	}
	switch {
	case ctx.Err() != nil:
		return p, false, context.Cause(ctx)
	case booting.Err() != nil:
		p.Reason = fmt.Sprintf("%s did not reach userspace within %v", k.Release, bootDeadline)
		return p, false, nil
	}
	log, _ := os.ReadFile(filepath.Join(dir, machine.ConsoleLog)) // may be missing
	var words []byte
	var start *qemu.StartError
	var boot *pool.BootError
	switch {
	case errors.As(err, &start):
		words = []byte(start.Stderr)
	case errors.As(err, &boot):
		words = []byte(boot.QEMUStatus + "\n" + boot.Stderr)
	default:
		// No word of the guest: a full disk, a cache that cannot be read.
		return p, false, err
	}
	p.Works, p.Reason = No, err.Error()
	for _, text := range [][]byte{words, log} {
		if reason, ok := console.KVMUnusable(text); ok && accel == machine.KVM {
			p.Reason, certain = reason, true
			break
		}
	}
	if accel == machine.KVM {
		p.Reason = "/dev/kvm opens, but no guest boots: " + p.Reason
		p.Remedy = "a host whose KVM runs guests (bare metal, or nested virtualisation that works)"
	}
	return p, certain, nil
}

// openKVM says no when there is no /dev/kvm for us; that it opens proves nothing.
func openKVM() (works Answer, reason, remedy string) {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return No, "no /dev/kvm on this host", "modprobe kvm_intel or kvm_amd; in a virtual machine, ask for nested virtualisation"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return No, "/dev/kvm: " + err.Error(), "sudo usermod -aG kvm $USER, then log in again"
	case err != nil:
		return No, "/dev/kvm: " + err.Error(), ""
	}
	_ = unix.Close(fd)
	return CannotTell, "", ""
}

// nested says whether KVM works in a guest with this accelerator.
func nested(accel machine.Accel) Answer {
	if accel == machine.TCG {
		return Yes // SVM, emulated
	}
	for _, vendor := range []string{"kvm_intel", "kvm_amd"} {
		switch text, err := os.ReadFile("/sys/module/" + vendor + "/parameters/nested"); {
		case err != nil:
		case strings.ContainsAny(strings.TrimSpace(string(text)), "1Y"):
			return Yes
		default:
			return No
		}
	}
	return CannotTell
}

// key names what a proof depends on: this boot of the host, QEMU's program, the CPU model, the kernel asked for.
func (d *Doctor) key(accel machine.Accel) (string, error) {
	path, version, err := qemu.Find(d.Binary)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, accel, path, version, info.Size(), info.ModTime().UnixNano(), string(boot), cpuModel(), d.KernelSpec)
	return string(accel) + "-" + hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func cpuModel() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(data) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func remember(file string, p Proof) error {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".proof-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
