// Package layout defines where things lie in the guest's root and the shape of the files that describe it.
//
// images writes these files, init and the agent read them. It holds no I/O.
package layout

// Paths in the guest.
const (
	Init       = "/init"
	ModuleDir  = "/lib/nestbed/modules"      // NAME.ko, uncompressed
	ModuleList = "/lib/nestbed/modules.json" // []Module
	BootList   = "/lib/nestbed/boot.json"    // []string: names of modules that init loads, in this order
	Programs   = "/tmp"                      // where nestbed exec puts a user's program
	Path       = "/bin"                      // where a command without a slash is looked for; the agent is pushed here
)

// Module is one entry of ModuleList.
type Module struct {
	Name string   `json:"name"` // with underscores, as /proc/modules has it
	Deps []string `json:"deps"` // modules that must be loaded before it, direct ones only
}

// ModuleFile is the file of a module.
func ModuleFile(name string) string { return ModuleDir + "/" + name + ".ko" }
