package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/kernels/build"
	"github.com/nestbed/nestbed/kernels/fragments"
	"github.com/nestbed/nestbed/results/render"
)

func newBuild() *cobra.Command {
	var r build.Request
	var asJSON bool
	cmd := &cobra.Command{
		Use: "build TREE", Short: "build a kernel from sources, small and made for guests",
		Long: `Builds a kernel out of TREE: a folder of sources, as it is or at a revision of its git history, or the
distribution's own (debian-source:6.12). The result is a kernel for -k by the name that is printed. The folder
that it was built in is kept, so that the next build compiles only what has changed.

A user's checkout is never touched: a revision is checked out in the cache.

Exit status: 0 built, 1 the kernel does not build, 2 usage or our own trouble.

` + flavourHelp(),
		Example: `  nestbed kernel build debian-source:6.12
  nestbed kernel build ~/linux --flavour kasan
  nestbed kernel build ~/linux --rev v6.12 --fragment mine.config`,
		Args: oneArg("build which tree? nestbed kernel build ~/linux, or nestbed kernel build debian-source:6.12"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Tree = args[0]
			if cmd.Flags().Changed("rev") && r.Revision == "" {
				return errors.New("--rev is empty: leave it out to build the tree as it is")
			}
			if r.Jobs < 0 {
				return errors.New("--jobs takes a number from 1")
			}
			cache, err := openKernels()
			if err != nil {
				return err
			}
			status := newStatusLine(cmd.ErrOrStderr())
			b := build.Builder{Cache: cache, Progress: build.Progress{Say: status.say, Compiled: status.compiled}}
			result, err := b.Build(cmd.Context(), r)
			status.end()
			var failed *build.FailedError
			if errors.As(err, &failed) {
				complain(cmd.ErrOrStderr(), err)
				return statusError(1)
			}
			if err != nil {
				return err
			}
			return printBuilt(cmd.OutOrStdout(), result, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.Revision, "rev", "", "revision of a git tree (default: the tree as it is)")
	flags.StringVar(&r.Flavour, "flavour", "", "how to configure it (default: base)")
	flags.StringArrayVar(&r.Fragments, "fragment", nil, "file with options of your own, merged last; may be repeated")
	flags.IntVarP(&r.Jobs, "jobs", "j", 0, "compilers at once (default: one per CPU)")
	flags.BoolVar(&asJSON, "json", false, "the result as one JSON object")
	return cmd
}

// builtSchema names the shape of what --json prints.
const builtSchema = "nestbed/built/1"

func printBuilt(w io.Writer, r build.Result, asJSON bool) error {
	k := r.Kernel
	if !asJSON {
		_, err := fmt.Fprintf(w, "%s  %s  %s\n", render.Escape(k.Spec), k.Release, k.Hash[:12])
		return err
	}
	return json.NewEncoder(w).Encode(struct {
		Schema   string  `json:"schema"`
		Spec     string  `json:"spec"`
		Release  string  `json:"release"`
		Hash     string  `json:"hash"`
		Flavour  string  `json:"flavour,omitempty"`
		Origin   string  `json:"origin"`
		Commit   string  `json:"commit,omitempty"`
		Dir      string  `json:"dir,omitempty"`
		Log      string  `json:"log,omitempty"`
		Compiled int     `json:"compiled"`
		Seconds  float64 `json:"seconds"`
	}{builtSchema, k.Spec, k.Release, k.Hash, r.Flavour, r.Origin, r.Commit, r.Dir, r.Log, r.Compiled, r.Elapsed.Seconds()})
}

// printFlavours is the table of what kernels can be built as, and what that costs.
func printFlavours(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FLAVOUR\tFOR\tSINCE\tCOST")
	for _, f := range fragments.Flavours() {
		since := "5.10"
		if f.Since.Major > 0 {
			since = f.Since.String()
		}
		cost := f.Cost
		if cost == "" {
			cost = "not measured"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", f.Name, f.Purpose, since, cost)
	}
	return tw.Flush()
}

func flavourHelp() string {
	s := "Flavours:\n\n"
	for _, f := range fragments.Flavours() {
		s += fmt.Sprintf("    %-13s %s\n", f.Name, f.Purpose)
	}
	return s
}

// statusLine shows how far a build is: one line that changes on a terminal, else one line now and then.
type statusLine struct {
	out   io.Writer
	live  bool
	every time.Duration

	mu     sync.Mutex
	last   time.Time
	onLine bool // the cursor stands behind a status line
}

func newStatusLine(w io.Writer) *statusLine {
	s := &statusLine{out: w, live: isTerminal(w), every: 30 * time.Second, last: time.Now()}
	if s.live {
		s.every = 100 * time.Millisecond
	}
	return s
}

func (s *statusLine) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintln(s.out, "nestbed: "+render.Escape(text))
}

func (s *statusLine) compiled(done, of int, object string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last) < s.every {
		return
	}
	s.last = time.Now()
	line := fmt.Sprintf("compiled %d", done)
	if of >= done {
		line += fmt.Sprintf(" of %d", of)
	}
	line += " files, now " + render.Escape(object)
	if !s.live {
		fmt.Fprintln(s.out, "nestbed: "+line)
		return
	}
	const width = 79
	s.clear()
	fmt.Fprintf(s.out, "%.*s", width, line)
	s.onLine = true
}

// clear takes the status line away. The caller holds mu.
func (s *statusLine) clear() {
	if s.onLine {
		fmt.Fprint(s.out, "\r\x1b[K")
		s.onLine = false
	}
}

func (s *statusLine) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}
