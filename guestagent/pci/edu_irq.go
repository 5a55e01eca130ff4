package pci

const (
	eduRaised      = 0x24
	eduRaise       = 0x60
	eduAcknowledge = 0x64
)

// EDURaiseRegister and EDUAcknowledgeRegister are for a guest that has the registers mapped.
const (
	EDURaiseRegister       = eduRaise
	EDUAcknowledgeRegister = eduAcknowledge
)

// Raise sets bits of the interrupt status. Each call sends one MSI; without MSI the INTx line is up as long
// as any bit is set.
func (e EDU) Raise(bits uint32) error { return e.Write32(eduRaise, bits) }

// Acknowledge clears bits of the interrupt status.
func (e EDU) Acknowledge(bits uint32) error { return e.Write32(eduAcknowledge, bits) }

// Raised reads the interrupt status.
func (e EDU) Raised() (uint32, error) { return e.Read32(eduRaised) }
