package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/results/render"
)

func newDoctor() *cobra.Command {
	var binary string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "what this machine can run, what not, and what to type to change that",
		Long: `Asks QEMU for what nestbed uses, and proves each accelerator by booting the default kernel to userspace.
Exit status 2 when nothing can be run here.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := openTools("", binary, func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), "nestbed: "+render.Escape(s)) })
			if err != nil {
				return err
			}
			x, err := t.doctor.Examine(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				var text []byte
				if text, err = json.MarshalIndent(x, "", "  "); err == nil {
					_, err = cmd.OutOrStdout().Write(append(render.EscapeJSON(text), '\n'))
				}
			} else {
				_, err = printLines(cmd.OutOrStdout(), x.Text())
			}
			if err == nil && !x.Usable() {
				return statusError(2)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "the examination as one JSON object")
	cmd.Flags().StringVar(&binary, "qemu", "", "QEMU binary (default: "+qemu.DefaultBinary+" in PATH)")
	return cmd
}

// printLines writes text line by line, harmless for a terminal: QEMU's words are in it.
func printLines(w io.Writer, text string) (n int, err error) {
	for line := range strings.Lines(text) {
		written, err := fmt.Fprintln(w, render.Escape(strings.TrimRight(line, "\n")))
		n += written
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
