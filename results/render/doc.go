// Package render shows runs to a person and to a program: the table at the end, a cell in detail, progress
// while it runs, and --json lines.
//
// It owns layout and what may reach a terminal: nothing that a guest printed gets there unescaped. It does
// not own what a verdict is (package results) or which command shows what (harness/cmd/nestbed).
package render
