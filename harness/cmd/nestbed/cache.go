package main

import (
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/series"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/build"
	"github.com/nestbed/nestbed/results/render"
)

func newCache() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cache", Short: "what the cache holds, and less of it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("cache what? %s du or prune", cmd.CommandPath())
		},
	}
	var builds bool
	prune := &cobra.Command{Use: "prune", Short: "remove what can be made again: kernels that no SPEC names any more, package lists, unpacked kernels, initramfs files, saved guests", Args: cobra.NoArgs,
		Long: `Removes what can be made again: kernels that no SPEC names any more (those of the patches of a series, unless one is
running), package lists, unpacked kernels and initramfs files; and from what series remember, the cells whose runs
are gone. Without it, builds keep 512 MB of kernels that nothing names any more, those that were used last.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cachePrune(cmd, builds) }}
	prune.Flags().BoolVar(&builds, "builds", false, "also the folders that kernels are built in, and their sources; the next builds compile everything")
	cmd.AddCommand(
		&cobra.Command{Use: "du", Short: "what the cache holds, in MB", Args: cobra.NoArgs, RunE: cacheDu},
		prune,
	)
	return cmd
}

func cacheDu(cmd *cobra.Command, _ []string) error {
	h, err := findHome("")
	if err != nil {
		return err
	}
	cache, err := h.kernels()
	if err != nil {
		return err
	}
	u, err := cache.Usage()
	if err != nil {
		return err
	}
	boot, err := pool.Usage(h.boot())
	if err != nil {
		return err
	}
	saved, err := h.snapshots().Usage()
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(bytes int64, what string) { fmt.Fprintf(tw, "%.1f\t MB  %s\n", float64(bytes)/(1<<20), what) }
	for _, k := range u.Kernels {
		row(k.Size, "kernel "+k.Release)
	}
	row(u.Builds, "folders of builds")
	row(u.Sources, "sources of builds")
	row(u.Lists, "package lists")
	row(u.Temp, "imports under way")
	row(boot, "unpacked kernels and initramfs files")
	row(saved, "saved guests")
	row(u.Total+boot+saved, "in "+h.cache)
	return tw.Flush()
}

func cachePrune(cmd *cobra.Command, builds bool) error {
	h, err := findHome("")
	if err != nil {
		return err
	}
	cache, err := h.kernels()
	if err != nil {
		return err
	}
	pruned, err := cache.Prune(nil)
	if err != nil {
		return err
	}
	boot, err := pool.Prune(h.boot())
	if err != nil {
		return err
	}
	saved, err := h.snapshots().Prune()
	if err != nil {
		return err
	}
	for _, k := range pruned.Kernels {
		fmt.Fprintf(cmd.OutOrStdout(), "removed kernel %s (%s, %s)\n", k.Release, k.Hash[:12], render.Escape(k.Origin))
	}
	left, err := cache.List()
	if err != nil {
		return err
	}
	forgot, err := series.Prune(cmd.Context(), h.seriesIndex(""), h.runs, func(hash string) bool {
		return slices.ContainsFunc(left, func(k kernels.Kernel) bool { return k.Hash == hash })
	})
	if err != nil {
		return fmt.Errorf("prune what series remember: %w", err)
	}
	if forgot != (series.Pruned{}) {
		fmt.Fprintf(cmd.OutOrStdout(), "forgot %d runs of cells and %d builds of earlier series\n", forgot.Cells, forgot.Builds)
	}
	if builds {
		p, err := build.Prune(cache)
		if err != nil {
			return fmt.Errorf("prune builds: %w", err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "removed %d folders of builds and sources\n", p.Folders)
		pruned.Bytes += p.Bytes
	}
	fmt.Fprintf(cmd.OutOrStdout(), "freed %.1f MB\n", float64(pruned.Bytes+boot+saved)/(1<<20))
	return nil
}
