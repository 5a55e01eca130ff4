package main

import (
	"encoding/json"
	"os"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/kernels/fragments"
	"github.com/nestbed/nestbed/results/record"
)

// Every flavour of 6.12 builds, boots and runs the scenarios that use every module; base builds of older and newer
// sources too, and runs the whole tier.
func TestFlavours(t *testing.T) {
	if os.Getenv("NESTBED_ALL") == "" {
		t.Skip("make test-all builds every flavour, for two hours")
	}
	smoke := []string{"attach-group-container", "attach-cdev-iommufd", "unload-vfio-pci-idle-bound", "irq-msi-irqfd-lapic", "hotplug-del-open"}
	for _, source := range []string{"debian-source:6.12", "debian-source:6.1", "debian-source:trixie-backports/7.3"} {
		for _, f := range fragments.Flavours() {
			if f.Name != "base" && source != "debian-source:6.12" {
				continue
			}
			t.Run(source+"/"+f.Name, func(t *testing.T) {
				status, stdout, stderr := finish(t, nestbed(t, "kernel", "build", source, "--flavour", f.Name, "--json"))
				assert.Equal(t, status, 0, stderr)
				var k struct{ Spec string }
				assert.NilError(t, json.Unmarshal([]byte(stdout), &k))
				if f.Name == "base" {
					tier(t, k.Spec, "intel", source != "debian-source:6.1")
					return
				}
				_, cells := suite(t, append([]string{"-k", k.Spec, "-m", "intel"}, smoke...)...)
				ran := 0
				for _, c := range cells {
					assert.Check(t, c.Verdict == record.Pass || c.Verdict == record.Skip || c.Verdict == record.Known, "%s: %s %s; %s", c.ID(), c.Verdict, c.Title, c.Reason)
					if c.Verdict == record.Pass {
						ran++
					}
				}
				assert.Check(t, ran > 0 || f.Name == "kvm-n", "nothing ran")
			})
		}
	}
}
