package bpf

import (
	"encoding/hex"
	"testing"

	"gotest.tools/v3/assert"
)

// As the kernel's own macros of include/linux/filter.h encode it.
func TestProgram(t *testing.T) {
	text := program(5)
	assert.Equal(t, len(text)%8, 0)
	var lines []string
	for ; len(text) > 0; text = text[8:] {
		lines = append(lines, hex.EncodeToString(text[:8]))
	}
	assert.DeepEqual(t, lines, []string{
		"1826000005000000", "0000000000000000", // BPF_LD_IMM64_RAW(BPF_REG_6, BPF_PSEUDO_MAP_VALUE, fd)
		"b707000000000000", // BPF_MOV64_IMM(BPF_REG_7, 0)
		"bf61000000000000", // BPF_MOV64_REG(BPF_REG_1, BPF_REG_6)
		"b702000000f03f00", // BPF_MOV64_IMM(BPF_REG_2, (4 << 20) - 4096)
		"bf63000000000000", // BPF_MOV64_REG(BPF_REG_3, BPF_REG_6)
		"8500000071000000", // BPF_EMIT_CALL(BPF_FUNC_probe_read_kernel)
		"0707000001000000", // BPF_ALU64_IMM(BPF_ADD, BPF_REG_7, 1)
		"a507faff007d0000", // BPF_JMP_IMM(BPF_JLT, BPF_REG_7, 32000, -6)
		"b700000000000000", // BPF_MOV64_IMM(BPF_REG_0, 0)
		"9500000000000000", // BPF_EXIT_INSN()
	})
}
