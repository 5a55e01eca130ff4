package render

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nestbed/nestbed/results"
)

// Timing writes where the time of a run's cells went: medians of the cells that came up, and CPU time per cell.
// own is the CPU time of this process, elapsed what the run took.
func Timing(w io.Writer, cells []results.Cell, own, elapsed time.Duration) error {
	var out bytes.Buffer
	row := func(what string, timings []results.Timing) {
		if len(timings) == 0 {
			return
		}
		part := func(of func(results.Timing) float64) string {
			values := make([]float64, len(timings))
			for i, t := range timings {
				values[i] = of(t)
			}
			slices.Sort(values)
			return fmt.Sprintf("%6.2f", values[len(values)/2])
		}
		fmt.Fprintf(&out, "%-9s %5d  %s  %s  %s  %s  %s\n", what, len(timings),
			part(func(t results.Timing) float64 { return t.Guest }), part(func(t results.Timing) float64 { return t.Push }),
			part(func(t results.Timing) float64 { return t.Agent }), part(func(t results.Timing) float64 { return t.End }),
			part(func(t results.Timing) float64 { return t.CPU }))
	}
	var restored, booted []results.Timing
	var qemu float64
	for _, c := range cells {
		switch {
		case c.Timing == nil:
			continue
		case c.Timing.Restored:
			restored = append(restored, *c.Timing)
		default:
			booted = append(booted, *c.Timing)
		}
		qemu += c.Timing.CPU
	}
	n := len(restored) + len(booted)
	if n == 0 {
		return flush(w, &out)
	}
	fmt.Fprintf(&out, "%-9s %5s  %6s  %6s  %6s  %6s  %6s   seconds, medians\n", "guest", "cells", "guest", "push", "agent", "end", "CPU")
	row("restored", restored)
	row("booted", booted)
	fmt.Fprintln(&out, strings.TrimSpace(fmt.Sprintf("%.2f cells a second; CPU a cell: QEMU %.2f s, nestbed itself %.2f s, which is %.0f%% of QEMU's",
		float64(n)/elapsed.Seconds(), qemu/float64(n), own.Seconds()/float64(n), 100*own.Seconds()/max(qemu, 0.001))))
	return flush(w, &out)
}
