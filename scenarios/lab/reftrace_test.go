package lab

import (
	"os"
	"testing"

	"gotest.tools/v3/assert"
)

func TestRefTrace(t *testing.T) {
	root := guestRoot(t)
	refs := func(module, n string) {
		assert.NilError(t, os.WriteFile(root.Join("sys/module", module, "refcnt"), []byte(n), 0o644))
	}
	s := scenario(func(t *T) {
		trace := t.TraceRefs()
		trace.Claim("at rest")
		trace.Take("kvm", 1)
		trace.Take(KVMVendor, 2)
		trace.Take("vfio", 4) // not loaded: nothing to claim
		refs("kvm", "2\n")
		refs("kvm_amd", "3\n")
		trace.Claim("open")
		trace.Take(KVMVendor, 1)
		trace.Want("kvm", 0)
		refs("kvm", "1\n")
		trace.Claim("half open")
		trace.Rest()
		refs("kvm_amd", "0\n")
		trace.Claim("closed")
	})
	s.Needs.Modules = []string{"kvm"}
	list := host(t, root.Path(), s, nil)
	assert.DeepEqual(t, own(list), []string{
		"ok at rest: references of kvm", "ok at rest: references of kvm_amd",
		"ok open: references of kvm", "FALSE open: references of kvm_amd",
		"ok half open: references of kvm", "ok half open: references of kvm_amd",
		"ok closed: references of kvm", "ok closed: references of kvm_amd",
	})
	for _, r := range list {
		if r.Check != nil && !r.Check.Invariant && !r.Check.OK {
			assert.Equal(t, r.Check.Want+" "+r.Check.Got, "2 3")
		}
	}
}
