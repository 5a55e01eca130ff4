// Package scenarios holds the scenarios, one to a file that bears its name; the vocabulary they are written
// in is package lab.
//
// A scenario's comment says what should hold and why, with the kernel's own words, and where kernels
// differ. Nothing else belongs here: a verb that two scenarios share goes to lab, a wrapper of a system
// call to guestagent.
package scenarios

import (
	"embed"

	"github.com/nestbed/nestbed/scenarios/lab"
)

//go:embed *.go
var source embed.FS

var _ = lab.RegisterSource("scenarios", source)
