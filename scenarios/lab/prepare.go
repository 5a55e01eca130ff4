package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/kmod"
	"github.com/nestbed/nestbed/guestagent/tracefs"
)

// preparedFile says in a guest what was done before it was saved.
const preparedFile = "/run/nestbed-prepared.json"

// prepared is what Prepare leaves behind for Execute: all that the set-up of a scenario knows and cannot read
// off the guest again.
type prepared struct {
	Exec    bool         `json:"exec"`
	Modules []string     `json:"modules"`
	Ledger  *savedLedger `json:"ledger"` // null: Why
	Why     string       `json:"why"`
	RefsWhy string       `json:"refs_why"` // why module references are not traced
}

// savedLedger is a ledger between two processes. Its trace goes on.
type savedLedger struct {
	Kinds map[int]savedKind `json:"kinds"` // by the event's number
	Live  []savedBlock      `json:"live"`
	Lost  bool              `json:"lost"`
}

type savedKind struct {
	What string `json:"what"`
	At   []int  `json:"at"`
}

type savedBlock struct {
	Address uint64 `json:"a"`
	Site    uint64 `json:"s"`
	When    uint64 `json:"t"`
	Load    string `json:"m,omitempty"`
}

// Prepare does in a guest that is about to be saved what every scenario begins with that needs these modules, or
// every program of the user's if exec is set: Execute finds it done.
func Prepare(modules []string, exec bool, root string) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	t := &T{env: Env{Root: root}, scenario: Scenario{Needs: Needs{Modules: modules}}}
	if exec {
		t.scenario.Name = ExecName
	}
	var err error
	if t.kernel, err = parseVersion(unix.ByteSliceToString(uts.Release[:])); err != nil {
		return err
	}
	if t.mods, err = kmod.Open(root, kmod.Dir); err != nil {
		return err
	}
	if err := t.setUp(); err != nil {
		return err
	}
	defer t.unwatch()
	p := prepared{Exec: exec, Modules: modules, Why: t.allocs.why, RefsWhy: t.refs.why}
	if l := t.allocs.ledger; l != nil {
		// Twice: what is freed in one batch is looked for in the next as well.
		for range 2 {
			if err := l.update(); err != nil {
				return err
			}
		}
		p.Ledger = l.save()
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, preparedFile), text, 0o600)
}

// takeUp goes on from what Prepare did, if it did and that is what this scenario needs. It can be taken up once:
// afterwards the guest is not what it was.
func (t *T) takeUp() (bool, error) {
	file := filepath.Join(t.env.Root, preparedFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil {
		return false, err
	}
	var p prepared
	if err := json.Unmarshal(text, &p); err != nil {
		return false, fmt.Errorf("%s: %w", preparedFile, err)
	}
	has := func(name string) bool { return slices.Contains(p.Modules, name) }
	needs := t.scenario.NeedsOf(t.env.Variant).Modules
	if p.Exec != (t.scenario.Name == ExecName) || slices.ContainsFunc(needs, func(name string) bool { return !has(name) }) {
		return false, nil
	}
	t.allocs = &allocs{root: t.env.Root, why: p.Why}
	if p.Ledger != nil {
		if t.allocs.ledger, err = p.Ledger.open(t.env.Root); err != nil {
			return false, err
		}
	}
	t.refs = newModuleTrace(p.RefsWhy)
	if p.RefsWhy == "" {
		name := ""
		if p.Exec {
			name = refsTrace
		}
		if t.refs.trace, err = tracefs.Attach(t.env.Root, name); err != nil {
			return false, err
		}
	}
	return true, t.loadNeeds() // it finds them loaded, and which the vendor's is
}

func (l *ledger) save() *savedLedger {
	s := &savedLedger{Kinds: map[int]savedKind{}, Lost: l.lost}
	for number, k := range l.kinds {
		s.Kinds[number] = savedKind{k.what, k.at}
	}
	for address, b := range l.live {
		s.Live = append(s.Live, savedBlock{address, b.site, b.when, b.load})
	}
	return s
}

func (s *savedLedger) open(root string) (*ledger, error) {
	l := newLedger()
	l.lost = s.Lost
	for number, k := range s.Kinds {
		l.kinds[number] = kind{k.What, k.At}
	}
	for _, b := range s.Live {
		l.live[b.Address] = block{b.Site, b.When, b.Load}
	}
	var err error
	if l.trace, err = tracefs.Attach(root, ledgerTrace); err != nil {
		return nil, err
	}
	return l, l.trace.Open()
}
