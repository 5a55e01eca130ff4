package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/harness/console"
	"github.com/nestbed/nestbed/harness/symbols"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/results/render"
)

func newTriage() *cobra.Command {
	var asJSON, all bool
	var vmlinux, modules string
	cmd := &cobra.Command{
		Use:   "triage LOGFILE|- [--json] [--all] [--vmlinux FILE [--modules DIR]]",
		Short: "find what a kernel reports in a log: from a serial console, dmesg, a journal, a mail",
		Long: `Prints the first report of a kernel log, titled as syzbot titles it, the stack frames that matter in front;
--all prints every report, --json an array of all of them in the order of the log.

With --vmlinux, a kernel's vmlinux with debug information, each frame comes with its file and line and with what was
inlined into it; with --modules also those in modules, whose files are looked for in and below a folder. Where the
log says a build id or a release that is not that of a file, so does nestbed.

The exit status is 0 if the log holds no report, 1 if it holds one.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("triage which log? nestbed triage LOGFILE, or dmesg | nestbed triage -")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if modules != "" && vmlinux == "" {
				return errors.New("--modules needs the vmlinux beside: --vmlinux FILE")
			}
			var sources render.Sources
			if vmlinux != "" {
				finder, err := symbols.New(vmlinux, modules)
				if err != nil {
					return fmt.Errorf("triage: %w", err)
				}
				defer finder.Close()
				defer func() {
					for _, doubt := range finder.Doubts() {
						fmt.Fprintf(cmd.ErrOrStderr(), "nestbed: %s\n", render.Escape(doubt))
					}
				}()
				sources = sourcesOf(finder)
			}
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
				err = render.TriageJSON(cmd.OutOrStdout(), reports, sources)
			case len(reports) == 0:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "no kernel report")
			default:
				err = render.Triage(cmd.OutOrStdout(), reports, all, sources)
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
	cmd.Flags().StringVar(&vmlinux, "vmlinux", "", "the kernel's vmlinux, for files and lines")
	cmd.Flags().StringVar(&modules, "modules", "", "a folder of the kernel's modules, for theirs")
	cmd.MarkFlagsMutuallyExclusive("json", "all")
	return cmd
}

// sourcesOf has a finder's lines shown.
func sourcesOf(finder *symbols.Finder) render.Sources {
	return func(r record.Report) ([][]render.Source, error) {
		found, err := finder.Lines(r)
		out := make([][]render.Source, len(found))
		for i, lines := range found {
			out[i] = []render.Source{}
			for _, l := range lines {
				out[i] = append(out[i], render.Source(l))
			}
		}
		return out, err
	}
}
