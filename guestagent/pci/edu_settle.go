package pci

import (
	"context"
	"fmt"
	"time"
)

// Settle waits until no transfer runs, whoever began it. Until then edu ignores what is written to its DMA
// registers, and a new owner's first transfer would be the old owner's.
func (e EDU) Settle(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		cmd, err := e.Read32(eduDMACmd)
		if err != nil || cmd&eduRun == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("edu: a transfer of another owner not finished: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
