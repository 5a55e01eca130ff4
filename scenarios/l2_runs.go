package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A nested guest runs: two instructions' worth of arithmetic that only it does, told to the outside by OUT
// and left in its memory, then HLT. Twice with different numbers, so that nothing left over can pass for a
// result.
var _ = lab.Register(lab.Scenario{
	Name:    "l2-runs",
	Summary: "a nested guest computes, does port I/O, halts, and leaves no VM behind",
	Area:    lab.Nested,
	Needs: lab.Needs{
		Modules: []string{"kvm"},
		Options: []string{"CONFIG_KVM"},
	},
	Timeout: 20 * time.Second,
	Run: func(t *lab.T) {
		const (
			code   = 0x1000 // where the page is and the guest begins
			result = 0x0ff0 // within the page
			port   = 0x3f8
		)
		program := []byte{
			0xf7, 0xe3, // mul bx            dx:ax = ax * bx
			0x05, 0x05, 0x00, // add ax, 5
			0xa3, 0xf0, 0x1f, // mov [0x1ff0], ax
			0xba, 0xf8, 0x03, // mov dx, 0x3f8
			0xef, // out dx, ax
			0xf4, // hlt
		}
		vm := t.NewVM()
		page := vm.SetCode(code, program)
		cpu := vm.NewVCPU()

		for _, n := range []struct{ a, b uint16 }{{211, 307}, {17, 499}} {
			want := n.a*n.b + 5
			t.Step("run the guest")
			cpu.StartReal(code, n.a, n.b)
			exit := cpu.Run()
			t.Log("first exit: " + exit.String())
			t.Check(exit.Reason == uapi.KVMExitIO && exit.Out && exit.Port == port, "the guest writes to the port")
			if t.Check(len(exit.Data) == 2, "it writes one word"); len(exit.Data) == 2 {
				t.WantInt(int(exit.Data[0])|int(exit.Data[1])<<8, int(want), "the word is what only the guest computes")
			}
			exit = cpu.Run()
			t.Log("second exit: " + exit.String())
			t.Check(exit.Reason == uapi.KVMExitHLT, "the guest halts")
			t.WantInt(int(page.Uint16(result)), int(want), "the guest's memory holds the same")
		}

		t.Step("close the VM")
		t.Check(!vm.Destroyed(), "the VM lives while it is open")
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with its last descriptor")
		t.WantIdle("every reference is back")
	},
})
