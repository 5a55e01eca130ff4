package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/harness/snapshot"
)

// prepareLimit bounds what is done to a guest before it is saved, some seconds on an idle machine: a stock kernel
// loads half a dozen modules.
const prepareLimit = 2 * time.Minute

// restored gives a guest that goes on from where one was saved, which it saves where there is none. The error is
// about saving or restoring: such a guest can boot instead.
func (p *Pool) restored(ctx context.Context, spec Spec, m machine.Machine) (*Guest, error) {
	key, err := p.key(ctx, spec, m)
	if err != nil {
		return nil, err
	}
	if p.isCold(key) {
		return nil, errCold
	}
	snap, err := p.snapshot(ctx, spec, m, key)
	prepared := spec.Prepare != nil
	if problem := new(guest.PrepareError); errors.As(err, &problem) {
		// What the guest could not do its taker will be told when it tries: by a guest without preparation.
		bare := spec
		bare.Prepare = nil
		snap, err = p.snapshot(ctx, bare, m, key)
		prepared = false
	}
	if err != nil {
		p.setCold(key)
		return nil, err
	}
	defer snap.Close()
	if snap.Refused != "" {
		return nil, &qemu.UnsavableError{Reason: snap.Refused}
	}
	m.Memory = machine.Memory{File: snap.Path(snapshot.RAM), Private: true}
	g, waiting, err := p.resume(ctx, m, snap, spec.Dir)
	if err == nil {
		g, err = g.welcome(ctx, waiting)
	}
	if err != nil {
		p.setCold(key)
		return nil, err
	}
	g.Restored, g.Prepared = true, prepared
	return g, nil
}

// snapshot gives the spec's snapshot, made if need be. key is that of the guest without preparation.
func (p *Pool) snapshot(ctx context.Context, spec Spec, m machine.Machine, key string) (*snapshot.Snapshot, error) {
	if spec.Prepare == nil {
		return p.Snapshots.Open(ctx, key, func(ctx context.Context, dir string) (snapshot.Made, error) {
			return p.saveBooted(ctx, m, dir)
		})
	}
	return p.Snapshots.Open(ctx, preparedKey(key, *spec.Prepare), func(ctx context.Context, dir string) (snapshot.Made, error) {
		bare := spec
		bare.Prepare = nil
		first, err := p.snapshot(ctx, bare, m, key)
		if err != nil {
			return snapshot.Made{}, err
		}
		defer first.Close()
		if first.Refused != "" {
			return snapshot.Made{Refused: first.Refused}, nil
		}
		return p.savePrepared(ctx, m, first, *spec.Prepare, dir)
	})
}

// saveBooted boots a guest and saves it as soon as its init has said that it runs.
func (p *Pool) saveBooted(ctx context.Context, m machine.Machine, dir string) (snapshot.Made, error) {
	m.Memory = machine.Memory{File: filepath.Join(dir, snapshot.RAM)}
	if err := snapshot.Allocate(m.Memory.File, int64(m.MemoryMB)<<20); err != nil {
		return snapshot.Made{}, err
	}
	g, waiting, err := p.boot(ctx, m, dir)
	if err != nil {
		return snapshot.Made{}, err
	}
	return g.save(ctx, waiting)
}

// savePrepared restores a guest, prepares it and saves it again.
func (p *Pool) savePrepared(ctx context.Context, m machine.Machine, first *snapshot.Snapshot, prep Preparation, dir string) (snapshot.Made, error) {
	m.Memory = machine.Memory{File: filepath.Join(dir, snapshot.RAM)}
	if err := snapshot.Copy(m.Memory.File, first.Path(snapshot.RAM)); err != nil {
		return snapshot.Made{}, err
	}
	g, waiting, err := p.resume(ctx, m, first, dir)
	if err != nil {
		return snapshot.Made{}, err
	}
	err = g.expect(ctx, prepareLimit, false, func(ctx context.Context) error {
		return waiting.Prepare(ctx, prep.Files, prep.Command)
	})
	if err != nil {
		return snapshot.Made{}, g.failed(err)
	}
	return g.save(ctx, waiting)
}

// resume starts a guest from a snapshot, with its memory where m says, in a folder that gets the logs of its life
// so far: what the kernel said while it booted is said to every guest's judge.
func (p *Pool) resume(ctx context.Context, m machine.Machine, snap *snapshot.Snapshot, dir string) (*Guest, *guest.Waiting, error) {
	for from, to := range map[string]string{snapshot.Console: machine.ConsoleLog, snapshot.Kmsg: machine.KmsgLog} {
		data, err := os.ReadFile(snap.Path(from))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), data, 0o644)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	state, err := os.Open(snap.Path(snapshot.State))
	if err != nil {
		return nil, nil, err
	}
	defer state.Close()
	m.Incoming = true
	g, err := p.start(ctx, m, dir)
	if err != nil {
		return nil, nil, err
	}
	if err := g.QEMU.Restore(ctx, state); err != nil {
		return nil, nil, g.failed(err)
	}
	g.Timing.Ready = time.Duration(snap.Ready.Uptime * float64(time.Second))
	return g, guest.Resume(g.conns(), snap.Ready), nil
}

// save writes the guest's state into its folder and ends it.
func (g *Guest) save(ctx context.Context, waiting *guest.Waiting) (made snapshot.Made, err error) {
	defer func() {
		if closeErr := g.Close(); closeErr != nil {
			err = multierror.Append(err, closeErr)
		}
	}()
	if faults, err := Faults(g.dir); err != nil || faults > 0 {
		// Every guest that is made of this one would have to be charged with them.
		return made, errors.Join(err, fmt.Errorf("save the guest: %d IOMMU faults before anything began", faults))
	}
	state, err := os.OpenFile(filepath.Join(g.dir, snapshot.State), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return made, err
	}
	err = g.QEMU.Save(ctx, state)
	err = errors.Join(err, state.Close())
	if refused := new(qemu.UnsavableError); errors.As(err, &refused) {
		return snapshot.Made{Refused: refused.Reason}, nil
	}
	return snapshot.Made{Ready: waiting.Ready()}, err
}

var errCold = errors.New("a guest of this kind could not be saved or restored before")

func (p *Pool) isCold(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cold[key]
}

func (p *Pool) setCold(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cold == nil {
		p.cold = map[string]bool{}
	}
	p.cold[key] = true
}

// bootsInstead says, once for each kernel and machine, that its guests boot.
func (p *Pool) bootsInstead(spec Spec, err error) {
	which := spec.Kernel.Release + " on " + spec.Machine.Name
	p.mu.Lock()
	again := p.said[which]
	if p.said == nil {
		p.said = map[string]bool{}
	}
	p.said[which] = true
	p.mu.Unlock()
	if p.Say != nil && !again {
		p.Say(fmt.Sprintf("%s boots for every cell: %v", which, err))
	}
}

// copyAll is for hashes.
func copyAll(to io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, f)
	return errors.Join(err, f.Close())
}
