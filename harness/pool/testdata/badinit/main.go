// Command badinit is a guest's first program that misbehaves: the word at the end of its own file says how.
package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	_ = os.Mkdir("/dev", 0o755)
	_ = unix.Mount("dev", "/dev", "devtmpfs", 0, "")
	self, err := os.ReadFile("/init")
	if err != nil {
		panic(err)
	}
	if bytes.HasSuffix(self, []byte("flood")) {
		flood()
	}
	noise()
}

// flood prints as fast as the console takes it.
func flood() {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	text := bytes.Repeat([]byte("\x1b[2Jall work and no play\n"), 100)
	for {
		if _, err := console.Write(text); err != nil {
			panic(err)
		}
	}
}

// noise writes random bytes to every port.
func noise() {
	ports, err := filepath.Glob("/dev/vport*")
	if err != nil {
		panic(err)
	}
	for _, name := range ports {
		go func() {
			port, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				return
			}
			for buf := make([]byte, 4<<10); ; {
				_, _ = rand.Read(buf)
				_, _ = port.Write(buf) // fails until the host has opened its end
			}
		}()
	}
	time.Sleep(time.Hour)
}
