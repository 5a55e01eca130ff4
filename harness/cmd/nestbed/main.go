// Command nestbed boots kernels in QEMU behind a virtual IOMMU, lets an agent in the guest attach,
// unload and detach KVM and VFIO, and says what the kernel made of it.
//
// This package holds flags, signals, exit statuses and printing; what a command does is in the packages
// that it calls.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/harness/console"
)

func main() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// Main runs one command and returns its exit status: 0 fine, 1 a kernel is bad, 2 usage or our own
// trouble, 128+n ended by signal n.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signalContext()
	defer stop()
	// A file-size limit is then an error of the write. Ignored, the signal would stay so in QEMU, which must
	// end when its guest has filled a log.
	limit := make(chan os.Signal, 1)
	signal.Notify(limit, syscall.SIGXFSZ)
	defer signal.Stop(limit)

	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)

	var sig signalError
	if errors.As(context.Cause(ctx), &sig) {
		fmt.Fprintf(stderr, "nestbed: ended by %s\n", sig.Signal)
		return 128 + int(sig.Signal)
	}
	var status statusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	if text := err.Error(); strings.HasPrefix(text, "unknown command") && !strings.Contains(text, "--help") {
		err = fmt.Errorf("%w (nestbed --help shows the commands)", err) // cobra's own words name no way out
	}
	complain(stderr, err)
	return 2
}

// complain prints an error and, where the host's disk is the cause, the way out.
func complain(stderr io.Writer, err error) {
	// A guest's words may be inside an error: none reaches the terminal raw.
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "nestbed: %s\n", console.Sanitize(strings.TrimRight(line, "\n")))
	}
	const places = "XDG_CACHE_HOME (kernels), XDG_STATE_HOME or --output (runs) and TMPDIR name other places"
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		fmt.Fprintln(stderr, "nestbed: make room, for example with nestbed cache prune; "+places)
	case errors.Is(err, syscall.EROFS):
		fmt.Fprintln(stderr, "nestbed: what is there already can be used; to write, "+places)
	case errors.Is(err, syscall.EFBIG):
		fmt.Fprintln(stderr, "nestbed: allow larger files: ulimit -f unlimited")
	}
}

// statusError ends the command with a status when everything has been said already.
type statusError int

func (s statusError) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// signalError is the cause of a context that a signal ended.
type signalError struct{ syscall.Signal }

func (s signalError) Error() string { return "ended by " + s.String() }

// signalContext returns a context that the first SIGINT, SIGTERM or SIGHUP ends; a second one ends the
// process at once, and QEMU with it.
func signalContext() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 2)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // nohup means it
			signal.Notify(ch, s)
		}
	}
	done := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			select {
			case s := <-ch:
				if !first {
					os.Exit(128 + int(s.(syscall.Signal)))
				}
				cancel(signalError{s.(syscall.Signal)})
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(done)
		cancel(nil)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "nestbed",
		Short: "does this kernel keep KVM and VFIO alive, and let them go in the right order?",
		Long: `nestbed boots a kernel in QEMU with a virtual IOMMU and emulated PCI devices, lets an agent
attach, unload and detach KVM and VFIO in every order that can hurt, and judges what the agent
says and what the kernel prints.

    nestbed doctor                   what this machine can run
    nestbed run                      the suite on a stock kernel
    nestbed run 'unload-*' -k debian:6.1 -k debian:6.12
    nestbed exec -- bug.c            a program of your own in such a guest
    nestbed show last                the last run once more`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (%s --help shows the flags)", err, cmd.CommandPath())
	})
	root.AddCommand(newDoctor(), newRun(), newList(), newShow(), newCompare(), newReport(), newExec(), newSeries(), newKernel(), newShell(), newCache(), newTriage())
	return root
}
