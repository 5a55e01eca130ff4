package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/harness/console"
	"github.com/nestbed/nestbed/results/render"
)

func newTriage() *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "triage LOGFILE|- [--json] [--all]",
		Short: "find what a kernel reports in a log: from a serial console, dmesg, a journal, a mail",
		Long: `Prints the first report of a kernel log, titled as syzbot titles it, the stack frames that matter in front;
--all prints every report, --json an array of all of them in the order of the log.

The exit status is 0 if the log holds no report, 1 if it holds one.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("triage which log? nestbed triage LOGFILE, or dmesg | nestbed triage -")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in, name := cmd.InOrStdin(), "standard input"
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("triage: %w", err)
				}
				defer f.Close()
				in, name = io.Reader(f), args[0]
			}
			reports, err := console.Read(in)
			if err != nil {
				return fmt.Errorf("triage %s: %w", name, err)
			}
			switch {
			case asJSON:
				err = render.TriageJSON(cmd.OutOrStdout(), reports)
			case len(reports) == 0:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "no kernel report")
			default:
				err = render.Triage(cmd.OutOrStdout(), reports, all)
			}
			if err != nil {
				return fmt.Errorf("triage %s: %w", name, err)
			}
			if len(reports) > 0 {
				return statusError(1)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "an array of all reports")
	cmd.Flags().BoolVar(&all, "all", false, "every report, not only the first")
	cmd.MarkFlagsMutuallyExclusive("json", "all")
	return cmd
}
