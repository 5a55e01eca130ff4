// Command agent runs scenarios in the guest: it reads the host's answers on standard input and writes one
// record per line on standard output.
//
// It owns the command line. What a scenario does is in package scenarios, how it runs in scenarios/lab.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	_ "github.com/nestbed/nestbed/scenarios"
	"github.com/nestbed/nestbed/scenarios/lab"
)

const usage = `usage:
  agent run NAME [--variant V] [--scale F]   run a scenario
  agent list                                 name the scenarios
  agent version                              what this agent was built from
  agent child NAME [ARG]...                  internal: a scenario's other process
`

// Exit statuses. A scenario whose claims are false is a success of the agent.
const (
	exitFailure = 1 // the records could not be written, or a child failed
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		return misused("no command")
	}
	switch command, args := args[0], args[1:]; command {
	case "run":
		return runScenario(args)
	case "child":
		if len(args) == 0 {
			return misused("child: no name")
		}
		return status(lab.RunChild(args[0], args[1:], os.Stdin, os.Stdout))
	case "list":
		for _, s := range lab.All() {
			fmt.Println(s.Name)
		}
		return 0
	case "version":
		fmt.Printf("catalogue %s\n%s\n", lab.Catalogue(), runtime.Version())
		return 0
	default:
		return misused("unknown command " + command)
	}
}

func runScenario(args []string) int {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	variant := flags.String("variant", "", "one of the scenario's `variants`")
	scale := flags.Float64("scale", 1, "how slow this guest is, 1 being the reference")
	// Flags may stand before the name and after it.
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	name := flags.Arg(0)
	if flags.NArg() > 1 {
		if err := flags.Parse(flags.Args()[1:]); err != nil {
			return exitUsage
		}
		if flags.NArg() > 0 {
			return misused("run: a word too many: " + flags.Arg(0))
		}
	}
	s, ok := lab.Lookup(name)
	switch {
	case name == "":
		return misused("run: no scenario")
	case !ok:
		return misused("run: unknown scenario " + name)
	case *scale <= 0:
		return misused("run: the scale is not positive")
	}
	self, err := os.Executable()
	if err != nil {
		return status(err)
	}
	return status(lab.Execute(s, lab.Env{
		In: os.Stdin, Out: os.Stdout, Variant: *variant, Scale: *scale, Self: self,
	}))
}

func misused(what string) int {
	fmt.Fprintf(os.Stderr, "agent: %s\n%s", what, usage)
	return exitUsage
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return exitFailure
	}
	return 0
}
