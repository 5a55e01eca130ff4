// Package harness is the host's half of nestbed; its folders are its packages, one noun each.
//
// It holds no code, only the tests of the house: which package may import which, that each says what it
// owns, that scenario names survive the Go tool, and that nothing in the repository names a machine of ours.
package harness
