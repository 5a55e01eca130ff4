// Command init is PID 1 of a guest.
//
// It mounts the kernel's file systems, loads the modules that carry the virtio-serial ports, says ready,
// and serves SSH once the host has answered (package control has the words). It owns the guest's root and
// its ports; what runs in the guest afterwards (the agent) is pushed and started by the host.
//
// It is two processes. PID 1 itself only reaps orphans and must never end: a kernel whose PID 1 ends
// panics, and that would read as the kernel's fault. All the work is in its child, "init serve"; if that
// dies, PID 1 says so on the console and stays.
package main

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/images/layout"
)

// The prefix of every line that init writes on the console.
const prefix = "nestbed-init: "

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, prefix+format+"\n", args...) }

func main() {
	switch {
	case os.Getpid() == 1: // its arguments are words of the kernel's command line
		supervise(layout.Init)
	case len(os.Args) == 2 && os.Args[1] == "serve":
		if err := serve(); err != nil {
			say("%v", err)
			os.Exit(1)
		}
	default:
		say("this program is PID 1 of a guest")
		os.Exit(2)
	}
}

// supervise starts the server, then reaps for ever.
func supervise(program string) {
	// Without a receiver these are dropped: the Go runtime would end on them, and PID 1 must not. Ignoring
	// them instead would be inherited by every process of the guest.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	server := 0
	if p, err := os.StartProcess(program, []string{"nestbed-init", "serve"}, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + layout.Path, "HOME=/root"}, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	}); err != nil {
		say("start the server: %v", err)
	} else {
		server = p.Pid
		_ = p.Release() // wait4 below is the one owner of every child's status
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.ECHILD:
			_ = unix.Pause() // nothing is left but the console
		case err == nil && pid == server && ws.Signaled():
			say("the server was killed: %v", ws.Signal())
		case err == nil && pid == server:
			say("the server ended: status %d", ws.ExitStatus())
		}
	}
}
