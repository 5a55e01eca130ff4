// Command badagent is an agent that misbehaves in a guest that is up: the word at the end of its own file says
// how.
package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

func main() {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	for word, misbehave := range map[string]func(){
		"garbage": garbage, "long": long, "disorder": disorder, "flood": flood,
	} {
		if bytes.HasSuffix(self, []byte("\n"+word)) {
			misbehave()
		}
	}
	time.Sleep(time.Hour)
}

// garbage writes random bytes, line breaks among them.
func garbage() {
	rnd := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4<<10)
	for {
		for i := range buf {
			buf[i] = byte(rnd.Uint32())
		}
		_, _ = os.Stdout.Write(buf) // fails when the host has seen enough
	}
}

// long writes a record of 10 MB.
func long() {
	fmt.Printf(`{"seq":1,"t":0,"kind":"log","log":{"text":"%s"}}`+"\n", strings.Repeat("x", 10<<20))
}

// disorder begins with the second record.
func disorder() {
	fmt.Println(`{"seq":2,"t":0,"kind":"beat"}`)
}

// flood prints on the console as fast as that takes it.
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
