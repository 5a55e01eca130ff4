// Command agent runs scenarios in the guest, or a program in the place of one: it reads the host's answers on
// standard input and writes one record per line on standard output.
//
// It owns the command line. What a scenario does is in package scenarios, how it runs in scenarios/lab.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"

	_ "github.com/nestbed/nestbed/scenarios"
	"github.com/nestbed/nestbed/scenarios/lab"
)

const usage = `usage:
  agent run NAME [--variant V] [--scale F]   run a scenario
  agent exec [--device D]... [--name N] [--timeout T] [--reproducer] [--scale F] -- PROG [ARG]...
                                             run a program beside devices that are bound to vfio-pci
  agent prepare [--exec] [MODULE]...         do what these begin with, before the guest is saved
  agent list                                 name the scenarios
  agent version                              what this agent was built from
  agent child NAME [ARG]...                  internal: a scenario's other process
`

// Exit statuses. A scenario whose claims are false is a success of the agent.
const (
	exitFailure = 1 // the records could not be written, or a child failed
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	misused := func(what string) int {
		fmt.Fprintf(stderr, "agent: %s\n%s", what, usage)
		return exitUsage
	}
	status := func(err error) int {
		if err != nil {
			fmt.Fprintln(stderr, "agent:", err)
			return exitFailure
		}
		return 0
	}
	if len(args) == 0 {
		return misused("no command")
	}
	switch command, args := args[0], args[1:]; command {
	case "run":
		s, env, err := scenario(args)
		if err != nil {
			return misused("run: " + err.Error())
		}
		env.In, env.Out = stdin, stdout
		return status(lab.Execute(s, env))
	case "exec":
		p, env, err := program(args)
		if err != nil {
			return misused("exec: " + err.Error())
		}
		env.In, env.Out = stdin, stdout
		return status(lab.Execute(p.Scenario(), env))
	case "prepare":
		exec := len(args) > 0 && args[0] == "--exec"
		if exec {
			args = args[1:]
		}
		return status(lab.Prepare(args, exec, ""))
	case "child":
		if len(args) == 0 {
			return misused("child: no name")
		}
		return status(lab.RunChild(args[0], args[1:], stdin, stdout))
	case "list":
		for _, s := range lab.All() {
			fmt.Fprintln(stdout, s.Name)
		}
		return 0
	case "version":
		fmt.Fprintf(stdout, "catalogue %s\n%s\n", lab.Catalogue(), runtime.Version())
		return 0
	default:
		return misused("unknown command " + command)
	}
}

// scenario reads the arguments of run. Flags may stand before the name and after it.
func scenario(args []string) (lab.Scenario, lab.Env, error) {
	var env lab.Env
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error is shown, with our usage
	flags.StringVar(&env.Variant, "variant", "", "")
	flags.Float64Var(&env.Scale, "scale", 1, "")
	if err := flags.Parse(args); err != nil {
		return lab.Scenario{}, env, err
	}
	name := flags.Arg(0)
	if flags.NArg() > 1 {
		if err := flags.Parse(flags.Args()[1:]); err != nil {
			return lab.Scenario{}, env, err
		}
		if flags.NArg() > 0 {
			return lab.Scenario{}, env, errors.New("a word too many: " + flags.Arg(0))
		}
	}
	s, ok := lab.Lookup(name)
	switch {
	case name == "":
		return s, env, errors.New("no scenario")
	case !ok:
		return s, env, errors.New("unknown scenario " + name)
	case env.Scale <= 0:
		return s, env, errors.New("the scale is not positive")
	}
	var err error
	env.Self, err = os.Executable()
	return s, env, err
}

// program reads the arguments of exec.
func program(args []string) (lab.Program, lab.Env, error) {
	p, scale, err := lab.ParseProgram(args)
	if err != nil {
		return p, lab.Env{}, err
	}
	self, err := os.Executable()
	return p, lab.Env{Variant: p.Name, Scale: scale, Self: self}, err
}
