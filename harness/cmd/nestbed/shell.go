package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/harness/runner"
	"github.com/nestbed/nestbed/results/render"
)

func newShell() *cobra.Command {
	var f struct{ kernel, machine, qemu string }
	cmd := &cobra.Command{
		Use:   "shell [-k KERNEL] [-m MACHINE] [-- COMMAND ARGS...]",
		Short: "boot a guest and open a shell in it",
		Long: `Boots a guest as run would, with the agent in /bin, and opens a shell on the terminal. The shell is a
small one (help lists its commands); the guest ends with it. With a command the exit status is the command's.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return shell(cmd.Context(), f.kernel, f.machine, f.qemu, args, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVarP(&f.kernel, "kernel", "k", defaultKernel, "kernel SPEC")
	cmd.Flags().StringVarP(&f.machine, "machine", "m", "intel", "machine by its vIOMMU")
	cmd.Flags().StringVar(&f.qemu, "qemu", "", "QEMU binary (default: "+qemu.DefaultBinary+" in PATH)")
	return cmd
}

func shell(ctx context.Context, kernel, machineName, binary string, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	machines, err := namedMachines([]string{machineName})
	if err != nil {
		return err
	}
	path, _, err := qemu.Find(binary)
	if err != nil {
		return err
	}
	say := func(s string) { fmt.Fprintln(stderr, "nestbed: "+render.Escape(s)) }
	t, err := openTools("", path, say)
	if err != nil {
		return err
	}
	ks, err := resolve(ctx, t.kernels, []string{kernel}, say)
	if err != nil {
		return err
	}
	accel, err := t.doctor.Choose(ctx)
	if err != nil {
		return err
	}
	machines[0].Accel = accel.Accel
	dir, err := os.MkdirTemp("", "nestbed-shell-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	g, err := t.pool.Get(ctx, pool.Spec{Kernel: ks[0], Machine: machines[0], Dir: dir})
	if err != nil {
		return err
	}
	defer g.Close()
	if err := g.SSH.Push(ctx, runner.AgentPath, 0o755, t.agent); err != nil {
		return err
	}
	say(fmt.Sprintf("%s on %s; console: %s/console.log", ks[0].Release, machineName, dir))
	status, err := attach(ctx, g, guest.Command(args...), stdin, stdout, stderr)
	if err != nil {
		return err
	}
	if status != 0 {
		return statusError(status)
	}
	return nil
}

// attach gives a person's terminal to a shell in the guest.
func attach(ctx context.Context, g *pool.Guest, command string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	tty := guest.Terminal{In: stdin, Out: stdout, Err: stderr}
	in, ok := stdin.(*os.File)
	if ok && command == "" && term.IsTerminal(int(in.Fd())) {
		columns, rows, err := term.GetSize(int(in.Fd()))
		if err != nil {
			return -1, fmt.Errorf("terminal size: %w", err)
		}
		state, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return -1, fmt.Errorf("terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(in.Fd()), state) }()
		sizes, stop := resizes(int(in.Fd()))
		defer stop()
		tty.Name, tty.Size, tty.Resized = os.Getenv("TERM"), guest.Size{Columns: columns, Rows: rows}, sizes
		if tty.Name == "" {
			tty.Name = "dumb"
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-g.Gone():
			cancel(errors.New("the guest has ended: " + g.Ends().QEMUStatus))
		case <-ctx.Done():
		}
	}()
	status, err := g.Shell(ctx, tty, command)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return -1, cause
	}
	return status, err
}

// resizes tells of the terminal's new sizes until stop is called.
func resizes(fd int) (<-chan guest.Size, func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGWINCH)
	sizes := make(chan guest.Size)
	done := make(chan struct{})
	go func() {
		defer close(sizes)
		for {
			select {
			case <-signals:
			case <-done:
				return
			}
			columns, rows, err := term.GetSize(fd)
			if err != nil {
				continue
			}
			select {
			case sizes <- guest.Size{Columns: columns, Rows: rows}:
			case <-done:
				return
			}
		}
	}()
	return sizes, func() { signal.Stop(signals); close(done) }
}
