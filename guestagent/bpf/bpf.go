// Package bpf has the kernel run a BPF program, on this CPU, with preemption disabled and for minutes: the one way
// in which user space can occupy a CPU inside a kernel that has no test module for it.
//
// It owns the program and the bpf(2) calls that bring it in. It is no loader: programs that observe the kernel
// belong to tracefs and kprobe.
package bpf

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands and kinds of bpf(2), of include/uapi/linux/bpf.h.
const (
	mapCreate   = 0
	progLoad    = 5
	progTestRun = 10

	mapTypeArray          = 2
	progTypeRawTracepoint = 17
	pseudoMapValue        = 2
	probeReadKernel       = 113
)

const (
	// valueSize is what one call of the program's copies onto itself. Old kernels (5.10) take no value beyond what
	// kmalloc can give.
	valueSize = 4<<20 - 4096
	// turns is how often it does. A copy takes milliseconds; the verifier walks through all of them beforehand.
	turns = 32_000
)

// Occupy runs the program, and returns when it has ended by itself. A raw tracepoint's program is run inside
// get_cpu() when it is run for a test (bpf_prog_test_run_raw_tp, since 5.10). The process may lock any amount of
// memory from then on.
func Occupy() error {
	// Up to 5.10 a map counts as locked memory.
	err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if err != nil {
		return fmt.Errorf("bpf: limit of locked memory: %w", err)
	}
	mapFD, err := createMap()
	if err != nil {
		return err
	}
	defer unix.Close(mapFD)
	progFD, err := load(program(mapFD))
	if err != nil {
		return err
	}
	defer unix.Close(progFD)
	attr := struct {
		fd uint32
		_  [17]uint32
	}{fd: uint32(progFD)}
	_, err = call(progTestRun, "run a program", unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func createMap() (fd int, err error) {
	attr := struct{ kind, keySize, valueSize, entries uint32 }{mapTypeArray, 4, valueSize, 1}
	return call(mapCreate, "create a map", unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

func load(insns []byte) (fd int, err error) {
	license := []byte("GPL\x00") // which probe_read_kernel asks for
	attr := struct {
		kind, count    uint32
		insns, license uint64
		_              [4]uint32
	}{kind: progTypeRawTracepoint, count: uint32(len(insns) / 8), insns: address(insns), license: address(license)}
	fd, err = call(progLoad, "load a program", unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(insns)
	runtime.KeepAlive(license)
	return fd, err
}

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

func call(command uintptr, what string, attr unsafe.Pointer, size uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return -1, fmt.Errorf("bpf: %s: %w", what, errno)
	}
	return int(r), nil
}

// program copies the map's one value onto itself, again and again.
func program(mapFD int) []byte {
	var insns []byte
	add := func(code, dst, src byte, off int16, imm int32) {
		insns = append(insns, code, src<<4|dst)
		insns = binary.LittleEndian.AppendUint16(insns, uint16(off))
		insns = binary.LittleEndian.AppendUint32(insns, uint32(imm))
	}
	const (
		loadImm64, movReg, movImm, addImm, jumpLess, callHelper, exit = 0x18, 0xbf, 0xb7, 0x07, 0xa5, 0x85, 0x95
	)
	add(loadImm64, 6, pseudoMapValue, 0, int32(mapFD)) // r6 = the value's address
	add(0, 0, 0, 0, 0)
	add(movImm, 7, 0, 0, 0) // r7 counts
	add(movReg, 1, 6, 0, 0)
	add(movImm, 2, 0, 0, valueSize)
	add(movReg, 3, 6, 0, 0)
	add(callHelper, 0, 0, 0, probeReadKernel)
	add(addImm, 7, 0, 0, 1)
	add(jumpLess, 7, 0, -6, turns)
	add(movImm, 0, 0, 0, 0)
	add(exit, 0, 0, 0, 0)
	return insns
}
