package plan

import "github.com/nestbed/nestbed/kernels"

// sanitizedMB is what a guest has whose kernel keeps a shadow of all memory and a record of every object and
// lock.
const sanitizedMB = 1024

// memory is how many MB a machine that usually has so many gets for a kernel.
func memory(usual int, k kernels.Kernel) int {
	if k.Option("KASAN") == "y" {
		return max(usual, sanitizedMB)
	}
	return usual
}

// LargestMB is the memory of the largest guest that will be run.
func (p Plan) LargestMB() int {
	most := 0
	for _, c := range p.Runs() {
		most = max(most, c.Machine.MemoryMB)
	}
	return most
}
