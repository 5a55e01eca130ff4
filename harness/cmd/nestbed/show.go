package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/render"
)

func newShow() *cobra.Command {
	var output string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show RUN [CELL]",
		Short: "print a run, or one of its cells with its evidence",
		Long: `RUN is an id, a unique prefix of one, "last", or a run's folder. CELL is SCENARIO[@VARIANT]/KERNEL/MACHINE,
or as much of its beginning as is unique. The exit status is that of the run, or of the cell.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return errors.New("show which run? nestbed show last, or nestbed show RUN CELL (nestbed list runs shows them)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := findHome(output)
			if err != nil {
				return err
			}
			usual, err := findHome("")
			if err != nil {
				return err
			}
			run, err := results.Open(h.runs, args[0])
			if err != nil {
				return err
			}
			defer run.Close()
			if len(args) == 2 {
				c, err := run.Find(args[1])
				if err != nil {
					return err
				}
				if asJSON {
					if err := render.JSON(cmd.OutOrStdout(), run, c); err != nil {
						return err
					}
					return status([]results.Cell{c}, nil)
				}
				if err := render.Detail(cmd.OutOrStdout(), run, c); err != nil {
					return err
				}
				return status([]results.Cell{c}, nil)
			}
			cells, err := run.Cells()
			if err != nil {
				return err
			}
			unfinished, err := run.Unfinished()
			if err != nil {
				return err
			}
			if asJSON {
				for _, c := range cells {
					if err := render.JSON(cmd.OutOrStdout(), run, c); err != nil {
						return err
					}
				}
				return runStatus(run, cells, unfinished)
			}
			s := summary(run, filepath.Dir(run.Dir()) != usual.runs, cells, unfinished, results.Known{}, elapsed(run, cells))
			if s.Damage, err = run.Damage(); err != nil {
				return err
			}
			if err := render.Table(cmd.OutOrStdout(), s); err != nil {
				return err
			}
			if run.Header().Program != nil {
				tally, err := run.Tally()
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout())
				if err := render.Tally(cmd.OutOrStdout(), tally); err != nil {
					return err
				}
			}
			return runStatus(run, cells, unfinished)
		},
	}
	cmd.Flags().StringVar(&output, "output", "", "folder of runs (default: $XDG_STATE_HOME/nestbed/runs)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object per cell per line")
	return cmd
}

// runStatus is the exit status that the run's own command had.
func runStatus(run *results.Run, cells []results.Cell, unfinished []results.Planned) error {
	if run.Header().Program == nil {
		return status(cells, unfinished)
	}
	tally, err := run.Tally()
	if err != nil {
		return err
	}
	return tallied(tally)
}

// elapsed is the time from a run's start to its last verdict.
func elapsed(run *results.Run, cells []results.Cell) time.Duration {
	var last time.Duration
	for _, c := range cells {
		end := c.Started.Add(time.Duration(c.Duration * float64(time.Second)))
		last = max(last, end.Sub(run.Header().Started))
	}
	return last
}
