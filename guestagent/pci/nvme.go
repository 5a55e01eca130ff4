package pci

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// NVMe is an NVM Express controller as far as its state, its DMA and its interrupts go: the admin queue pair on vector 0, and as many I/O
// queue pairs, each on the vector of its own number, as Start is asked for. It needs no namespace: a command
// that fails completes, and interrupts, as well as another.
type NVMe struct {
	Registers
	queues []nvmeQueue // by vector
}

// nvmeQueue is a submission queue and its completion queue, each one page.
type nvmeQueue struct {
	submit, complete []byte
	tail, head       int
	phase            uint16 // of a new completion; it turns each time round
}

// NVMeMemory is how much memory Start wants for so many vectors.
func NVMeMemory(vectors int) int { return 2 * nvmePage * vectors }

const (
	nvmePage   = 4096
	nvmeDepth  = 16 // entries of each queue
	nvmeConfig = 0x14
	nvmeStatus = 0x1c
	nvmeAQA    = 0x24
	nvmeASQ    = 0x28
	nvmeACQ    = 0x30
	nvmeBells  = 0x1000

	nvmeEnable = 1 | 6<<16 | 4<<20 // entries of 64 and of 16 bytes

	nvmeCreateSQ    = 0x01
	nvmeCreateCQ    = 0x05
	nvmeIdentify    = 0x06 // of the admin queue
	nvmeGetFeatures = 0x0a // of the admin queue
	nvmeFlush       = 0x00 // of the others
	nvmeNumQueues   = 0x07 // a feature that every controller has
)

// Start resets the controller and gives it its queues, in memory that it reaches at iova. MSI-X has to be on
// for its commands to interrupt; those of the set-up do.
func (n *NVMe) Start(ctx context.Context, memory []byte, iova uint64, vectors int) error {
	if len(memory) < NVMeMemory(vectors) || vectors < 1 {
		return fmt.Errorf("nvme: %d bytes for %d vectors", len(memory), vectors)
	}
	clear(memory)
	n.queues = nil
	for i := range vectors {
		page := memory[2*nvmePage*i:]
		n.queues = append(n.queues, nvmeQueue{submit: page[:nvmePage], complete: page[nvmePage : 2*nvmePage], phase: 1})
	}
	if err := errors.Join(n.Write32(nvmeConfig, 0), n.ready(ctx, 0)); err != nil {
		return err
	}
	for _, w := range []struct {
		at    uint64
		value uint32
	}{
		{nvmeAQA, nvmeDepth - 1 | (nvmeDepth-1)<<16},
		{nvmeASQ, uint32(iova)}, {nvmeASQ + 4, uint32(iova >> 32)},
		{nvmeACQ, uint32(iova + nvmePage)}, {nvmeACQ + 4, uint32((iova + nvmePage) >> 32)},
		{nvmeConfig, nvmeEnable},
	} {
		if err := n.Write32(w.at, w.value); err != nil {
			return err
		}
	}
	if err := n.ready(ctx, 1); err != nil {
		return err
	}
	const contiguous, interrupts = 1, 2
	for q := uint32(1); q < uint32(vectors); q++ {
		at := iova + uint64(2*nvmePage*q)
		sizes := q | (nvmeDepth-1)<<16
		if err := n.admin(ctx, nvmeCreateCQ, at+nvmePage, sizes, contiguous|interrupts|q<<16); err != nil {
			return err
		}
		if err := n.admin(ctx, nvmeCreateSQ, at, sizes, contiguous|q<<16); err != nil {
			return err
		}
	}
	return nil
}

// Running reads whether the controller is enabled, and whether it is ready.
func (n *NVMe) Running() (enabled, ready bool, err error) {
	config, err := n.Read32(nvmeConfig)
	if err != nil {
		return false, false, err
	}
	status, err := n.Read32(nvmeStatus)
	return config&1 != 0, status&1 != 0, err
}

// Identify has the controller, once started, write what it is into a page that it reaches at iova, and returns
// its PCI vendor.
func (n *NVMe) Identify(ctx context.Context, page []byte, iova uint64) (vendor uint16, err error) {
	clear(page)
	const controller = 1 // CNS
	err = n.admin(ctx, nvmeIdentify, iova, controller, 0)
	return binary.LittleEndian.Uint16(page), err
}

func (n *NVMe) ready(ctx context.Context, want uint32) error {
	return n.until(ctx, "ready", func() (bool, error) {
		status, err := n.Read32(nvmeStatus)
		return status&1 == want, err
	})
}

// until polls: what it waits for is to work without interrupts.
func (n *NVMe) until(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nvme: not %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// admin does one command of the set-up and wants it to succeed.
func (n *NVMe) admin(ctx context.Context, opcode uint32, prp uint64, cdw10, cdw11 uint32) error {
	if err := n.submit(0, opcode, prp, cdw10, cdw11); err != nil {
		return err
	}
	status, err := n.Complete(ctx, 0)
	if err == nil && status != 0 {
		err = fmt.Errorf("nvme: admin command %#x: status %#x", opcode, status)
	}
	return err
}

func (n *NVMe) submit(queue int, opcode uint32, prp uint64, cdw10, cdw11 uint32) error {
	if queue < 0 || queue >= len(n.queues) {
		return fmt.Errorf("nvme: queue %d of %d", queue, len(n.queues))
	}
	q := &n.queues[queue]
	entry := q.submit[64*q.tail : 64*(q.tail+1)]
	clear(entry)
	for _, w := range []struct {
		word  int
		value uint32
	}{{0, opcode}, {6, uint32(prp)}, {7, uint32(prp >> 32)}, {10, cdw10}, {11, cdw11}} {
		binary.LittleEndian.PutUint32(entry[4*w.word:], w.value)
	}
	q.tail = (q.tail + 1) % nvmeDepth
	return n.Write32(nvmeBells+8*uint64(queue), uint32(q.tail))
}

// Raise has the controller send the message of a vector: it gives the vector's queue a command. Complete must
// follow before the next.
func (n *NVMe) Raise(vector int) error {
	if vector == 0 {
		return n.submit(0, nvmeGetFeatures, 0, nvmeNumQueues, 0)
	}
	return n.submit(vector, nvmeFlush, 0, 0, 0)
}

// Complete waits until the controller has completed a vector's command, which is when it sends the message,
// and takes the completion back.
func (n *NVMe) Complete(ctx context.Context, vector int) (status uint16, err error) {
	q := &n.queues[vector]
	entry := q.complete[16*q.head:]
	err = n.until(ctx, "done with a command", func() (bool, error) {
		status = binary.LittleEndian.Uint16(entry[14:])
		return status&1 == q.phase, nil
	})
	if err != nil {
		return 0, err
	}
	if q.head = (q.head + 1) % nvmeDepth; q.head == 0 {
		q.phase ^= 1
	}
	return status >> 1, n.Write32(nvmeBells+8*uint64(vector)+4, uint32(q.head))
}
