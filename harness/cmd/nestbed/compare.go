package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/render"
)

func newCompare() *cobra.Command {
	var output string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare RUN RUN",
		Short: "what a newer run has that an older one had not, and the other way round",
		Long: `Compares two runs, the older one first, cell by cell. Two runs of one kernel each are compared kernel against
kernel, several kernels by their release. Repeats count together: "2 of 10". A finding is told by its signature:

  new           the older run had a verdict in the cell, and not this finding
  worse         a finding that became another one
  not compared  a finding in a cell for which the older run has no verdict, and why: nobody knows since when
  gone          the newer run has no verdict any more, and why
  still, fixed

RUN is an id, a unique prefix of one, "last", or a run's folder.

Exit status: 2 if the newer run has cells that are error or unfinished; else 1 if something is new, worse or not
compared that no known issue explains; else 0.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("compare which two runs? nestbed compare OLD NEW (nestbed list runs shows them)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := findHome(output)
			if err != nil {
				return err
			}
			var headers []results.Header
			var cells [][]results.Cell
			for _, ref := range args {
				run, err := results.Open(h.runs, ref)
				if err != nil {
					return err
				}
				if err := sayDamage(cmd.ErrOrStderr(), run); err != nil {
					return err
				}
				all, err := run.AllCells()
				if err := errors.Join(err, run.Close()); err != nil {
					return err
				}
				headers, cells = append(headers, run.Header()), append(cells, all)
			}
			c := results.Compare(cells[0], cells[1])
			if asJSON {
				text, err := json.MarshalIndent(c, "", "  ")
				if err != nil {
					return fmt.Errorf("compare: %w", err)
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", render.EscapeJSON(text)); err != nil {
					return err
				}
			} else if err := render.Compare(cmd.OutOrStdout(), headers[0], headers[1], c); err != nil {
				return err
			}
			if n := c.ExitStatus(); n != 0 {
				return statusError(n)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&output, "output", "", "folder of runs (default: $XDG_STATE_HOME/nestbed/runs)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}
