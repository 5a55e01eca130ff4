// Package bench measures what nestbed costs, against bare QEMU and in one run: make bench.
//
// It holds benchmarks only. Each runs a spinner beside and reports what share of its speed alone the spinner
// kept, because the machines that this runs on are noisy: compare ratios of one run, never seconds of two.
// Nothing here can fail a build because a machine was busy.
package bench
