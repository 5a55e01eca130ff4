// Command family is the program that the boot test runs in a guest: it says hello as an agent does, starts
// a child in a process group of its own, and waits.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

func main() {
	switch os.Args[1] {
	case "exit":
		status, _ := strconv.Atoi(os.Args[2])
		os.Exit(status)
	case "signal":
		n, _ := strconv.Atoi(os.Args[2])
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		select {}
	case "parent":
		fmt.Println(`{"seq":1,"kind":"hello","hello":{"schema":"nestbed/record/1"}}`)
		child := exec.Command(os.Args[0], "child")
		child.Stdout = os.Stdout
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := child.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "child":
		fmt.Println(`{"seq":2,"kind":"step","step":{"text":"two processes"}}`)
		_, _ = os.Stdin.Read(make([]byte, 1)) // /dev/null: ends at once
		_ = syscall.Pause()
	}
}
