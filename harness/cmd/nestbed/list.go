package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/render"
	"github.com/nestbed/nestbed/scenarios/lab"
)

func newList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list scenarios|kernels|machines|runs",
		Short: "list what there is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("list what? %s scenarios, kernels, machines or runs", cmd.CommandPath())
		},
	}
	var output string
	runs := &cobra.Command{Use: "runs", Short: "runs on this host, newest last", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := findHome(output)
			if err != nil {
				return err
			}
			list, err := results.Runs(h.runs)
			if err != nil {
				return err
			}
			if err := render.Runs(cmd.OutOrStdout(), list); err != nil {
				return err
			}
			unreadable, err := results.Unreadable(h.runs)
			for _, u := range unreadable {
				fmt.Fprintln(cmd.ErrOrStderr(), "nestbed: "+render.Escape(u.Error()))
			}
			return err
		}}
	runs.Flags().StringVar(&output, "output", "", "folder of runs (default: $XDG_STATE_HOME/nestbed/runs)")
	cmd.AddCommand(
		&cobra.Command{Use: "scenarios", Short: "scenarios by area, one line each", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return listScenarios(cmd.OutOrStdout()) }},
		&cobra.Command{Use: "machines", Short: "machines that -m takes", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return listMachines(cmd.OutOrStdout()) }},
		&cobra.Command{Use: "kernels", Short: "kernels in the cache", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return listKernels(cmd.OutOrStdout()) }},
		runs,
	)
	return cmd
}

func listScenarios(w io.Writer) error {
	byArea := map[lab.Area][]lab.Scenario{}
	var areas []lab.Area
	for _, s := range lab.All() {
		if byArea[s.Area] == nil {
			areas = append(areas, s.Area)
		}
		byArea[s.Area] = append(byArea[s.Area], s)
	}
	slices.SortStableFunc(areas, func(a, b lab.Area) int { // what runs on demand only stands apart, at the end
		switch {
		case a.OnDemand() == b.OnDemand():
			return 0
		case a.OnDemand():
			return 1
		}
		return -1
	})
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, area := range areas {
		if area.OnDemand() {
			fmt.Fprintf(tw, "\n%s, on demand: nestbed run '%[1]s-*'\n", area)
		} else {
			fmt.Fprintf(tw, "%s\n", area)
		}
		for _, s := range byArea[area] {
			fmt.Fprintf(tw, "  %s\t%s\n", s.Name, s.Summary)
			for _, v := range s.Variants {
				fmt.Fprintf(tw, "  %s@%s\t\n", s.Name, v.Name)
			}
		}
	}
	return tw.Flush()
}

func listMachines(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, name := range machine.Names() {
		m, err := machine.Named(name)
		if err != nil {
			return err
		}
		iommu := string(m.IOMMU) + " vIOMMU"
		if m.IOMMU == machine.NoIOMMU {
			iommu = "no vIOMMU"
		}
		fmt.Fprintf(tw, "%s\t%s, %d MB, %d vCPU, %d empty root ports\n", name, iommu, m.MemoryMB, m.VCPUs, m.RootPorts)
	}
	return tw.Flush()
}
