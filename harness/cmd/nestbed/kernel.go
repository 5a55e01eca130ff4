package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results/render"
)

const specHelp = `A SPEC names a kernel:

    debian:6.12                  the newest such kernel of the distribution's suites
    debian:trixie-backports/7.3  the newest in that suite, also one that this machine has not configured
    ./linux-image-....deb        a package, or several joined by commas
    DIR                          a folder with a vmlinuz and its modules, or a kernel build tree
    build:NAME/FLAVOUR           what nestbed kernel build made last under that name
    hash:HASH                    a kernel in the cache, by 8 or more digits of what kernel list shows
    running                      the kernel that runs on this machine`

func newKernel() *cobra.Command {
	cmd := &cobra.Command{
		Use: "kernel", Short: "import kernels, build them and look at them", Long: specHelp, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("kernel what? %s add SPEC, build TREE, list, show or rm", cmd.CommandPath())
		},
	}
	cmd.AddCommand(
		newBuild(),
		&cobra.Command{Use: "add SPEC", Short: "import a kernel, or look for a newer one of that SPEC", Long: specHelp, Args: oneArg("add which kernel? nestbed kernel add debian:6.12 (nestbed kernel --help explains SPEC)"),
			RunE: func(cmd *cobra.Command, args []string) error {
				cache, err := openKernels()
				if err != nil {
					return err
				}
				k, err := cache.Add(cmd.Context(), args[0], func(s string) {
					fmt.Fprintln(cmd.ErrOrStderr(), "nestbed: "+render.Escape(s))
				})
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", k.Release, k.Hash[:12])
				return nil
			}},
		&cobra.Command{Use: "list", Short: "kernels in the cache, and flavours that can be built", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return listKernels(cmd.OutOrStdout()) }},
		&cobra.Command{Use: "show KERNEL", Short: "one kernel: origin, files, modules, options that matter", Args: oneArg("show which kernel? nestbed kernel list shows them"),
			RunE: func(cmd *cobra.Command, args []string) error { return showKernel(cmd.OutOrStdout(), args[0]) }},
		&cobra.Command{Use: "rm KERNEL...", Short: "remove kernels from the cache", Args: cobra.MinimumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				cache, err := openKernels()
				if err != nil {
					return err
				}
				for _, ref := range args {
					if err := cache.Remove(ref); err != nil {
						return err
					}
				}
				return nil
			}},
	)
	return cmd
}

func openKernels() (*kernels.Cache, error) {
	h, err := findHome("")
	if err != nil {
		return nil, err
	}
	return h.kernels()
}

func listKernels(w io.Writer) error {
	cache, err := openKernels()
	if err != nil {
		return err
	}
	list, err := cache.List()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		fmt.Fprintf(w, "no kernels yet: nestbed kernel add %s\n\n", defaultKernel)
		return printFlavours(w)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "RELEASE\tHASH\tSIZE\tSPEC\tORIGIN")
	for _, k := range list {
		fmt.Fprintf(tw, "%s\t%s\t%d MB\t%s\t%s\n", k.Release, k.Hash[:12], k.Size>>20,
			render.Escape(strings.Join(k.Specs, " ")), render.Escape(k.Origin))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return printFlavours(w)
}

// shownOptions are what decides which scenarios fit a kernel.
var shownOptions = []string{
	"KVM", "KVM_AMD", "KVM_INTEL", "VFIO", "VFIO_PCI", "VFIO_GROUP", "VFIO_CONTAINER", "VFIO_DEVICE_CDEV", "IOMMUFD",
	"INTEL_IOMMU", "AMD_IOMMU", "VIRTIO_IOMMU", "MODULE_UNLOAD", "DEBUG_FS", "KASAN", "PROVE_LOCKING", "DEBUG_KMEMLEAK",
}

func showKernel(w io.Writer, ref string) error {
	cache, err := openKernels()
	if err != nil {
		return err
	}
	k, err := cache.Show(ref)
	if err != nil {
		return err
	}
	modules, err := k.Modules()
	if err != nil {
		return err
	}
	var names, options []string
	for _, m := range modules {
		names = append(names, m.Name)
	}
	for _, o := range shownOptions {
		value := k.Option(o)
		if value == "" {
			value = "?"
		}
		options = append(options, o+"="+value)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "release\t%s\n", k.Release)
	fmt.Fprintf(tw, "hash\t%s\n", k.Hash)
	fmt.Fprintf(tw, "spec\t%s\n", render.Escape(strings.Join(k.Specs, " ")))
	fmt.Fprintf(tw, "origin\t%s\n", render.Escape(k.Origin))
	fmt.Fprintf(tw, "imported\t%s\n", k.Imported.Local().Format("2006-01-02 15:04:05"))
	fmt.Fprintf(tw, "vmlinuz\t%s\n", render.Escape(k.Vmlinuz()))
	fmt.Fprintf(tw, "size\t%d MB\n", k.Size>>20)
	fmt.Fprintf(tw, "modules\t%s\n", strings.Join(names, " "))
	fmt.Fprintf(tw, "options\t%s\n", render.Escape(strings.Join(options, " ")))
	return tw.Flush()
}

// oneArg asks for exactly one argument, and says what to type otherwise.
func oneArg(otherwise string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return errors.New(otherwise)
		}
		return nil
	}
}
