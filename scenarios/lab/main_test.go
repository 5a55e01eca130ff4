package lab

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the agent's `child` command, because T.Child starts its own executable.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		if err := RunChild(os.Args[2], os.Args[3:], os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
