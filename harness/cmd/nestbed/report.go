package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/render"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// formats are the forms of a report.
var formats = []string{"text", "markdown", "junit", "ktap"}

func newReport() *cobra.Command {
	var output, format string
	cmd := &cobra.Command{
		Use:   "report RUN [--format text|markdown|junit|ktap]",
		Short: "tell others about a run: for a mail, a page, a test collector",
		Long: `Writes a run as a report: findings first, each once for all cells that show it, with the kernel's words and
the command that reproduces it; then known issues, what did not run, and what green does not cover. Text
is under 80 columns wide. In junit a known issue is a skipped case, in ktap an expected failure.

The exit status is 0 whatever the verdicts are: nestbed show RUN has theirs.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("report which run? nestbed report last, or nestbed report RUN (nestbed list runs shows them)")
			}
			if !slices.Contains(formats, format) {
				return fmt.Errorf("unknown format %q: want %s", format, strings.Join(formats, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := findHome(output)
			if err != nil {
				return err
			}
			run, err := results.Open(h.runs, args[0])
			if err != nil {
				return err
			}
			defer run.Close()
			if err := sayDamage(cmd.ErrOrStderr(), run); err != nil {
				return err
			}
			cells, err := run.AllCells()
			if err != nil {
				return err
			}
			r := render.Report{Header: run.Header(), Cells: cells, Outcome: run.Outcome, Claims: map[string]string{}, Areas: map[string]string{}}
			for _, s := range lab.All() {
				r.Claims[s.Name], r.Areas[s.Name] = s.Summary, string(s.Area)
			}
			write := render.ReportText
			switch format {
			case "markdown":
				write = render.ReportMarkdown
			case "junit":
				write = render.ReportJUnit
			case "ktap":
				write = render.ReportKTAP
			}
			return write(cmd.OutOrStdout(), r)
		},
	}
	cmd.Flags().StringVar(&output, "output", "", "folder of runs (default: $XDG_STATE_HOME/nestbed/runs)")
	cmd.Flags().StringVar(&format, "format", "text", strings.Join(formats, ", "))
	return cmd
}

// sayDamage names what is wrong with a run's files to a person; what can be read is told all the same.
func sayDamage(stderr io.Writer, run *results.Run) error {
	damage, err := run.Damage()
	for _, d := range damage {
		fmt.Fprintf(stderr, "nestbed: %s is damaged: %s\n", render.Escape(run.ID()), render.Escape(d))
	}
	return err
}
