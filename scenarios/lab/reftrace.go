package lab

import "fmt"

// RefTrace follows the references of every loaded module under test through a scenario that says of each step
// which it takes.
type RefTrace struct {
	t     *T
	names []string
	want  map[string]int
}

// TraceRefs begins a trace, at rest.
func (t *T) TraceRefs() *RefTrace {
	return &RefTrace{t: t, names: t.loadedUnderTest(), want: map[string]int{}}
}

// Take expects n more references of a module, by its name or KVMVendor, fewer when n is negative.
func (r *RefTrace) Take(module string, n int) { r.want[r.t.Module(module).Name()] += n }

// Want expects n references of a module in all.
func (r *RefTrace) Want(module string, n int) { r.want[r.t.Module(module).Name()] = n }

// Rest expects none of any module.
func (r *RefTrace) Rest() { clear(r.want) }

// Claim claims, for each module, that what is expected is what it has. The step is what has just been done.
func (r *RefTrace) Claim(step string) {
	at := callerOutside()
	for _, name := range r.names {
		r.t.wantInt(r.t.Module(name).Held(), r.want[name], fmt.Sprintf("%s: references of %s", step, name), at)
	}
}
