package kernels

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// childEnv makes the test binary import os.Args[1:] = CACHE SPEC, say so at its first progress, and wait to be
// killed.
const childEnv = "NESTBED_KERNELS_TEST_CHILD"

// limitEnv makes the test binary import os.Args[1:] = CACHE SPEC with no file larger than so many bytes.
const limitEnv = "NESTBED_KERNELS_TEST_LIMIT"

func TestMain(m *testing.M) {
	if text := os.Getenv(limitEnv); text != "" {
		os.Exit(importLimited(text, os.Args[1], os.Args[2]))
	}
	if os.Getenv(childEnv) != "" {
		c, err := Open(os.Args[1])
		if err == nil {
			_, err = c.Resolve(context.Background(), os.Args[2], func(s string) {
				if strings.HasPrefix(s, "unpacking") {
					fmt.Println("importing")
					select {}
				}
			})
		}
		fmt.Println("not killed:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
