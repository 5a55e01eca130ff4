// Package results judges cells and keeps runs: Judge, the known-issues file, and run directories.
//
// It owns how a verdict comes about from records, kernel reports and the way things ended, and the files
// of a run: run.json, cells.jsonl, and per cell records.jsonl and outcome.json. It does not own the words
// that an agent says (results/record), how reports are found in a log (harness/console), what a person
// sees of them (results/render) or when a cell runs (harness/runner).
//
// # Verdicts
//
// A crash is an unexpected kernel report, a panic or an IOMMU fault that nobody declared. A hang is no
// progress until the deadline, or the agent or SSH lost while QEMU lives. An error is ours: the host,
// QEMU, the agent. A fail is a false claim. They rank in this order; then come known, skip and pass.
// Without the agent's done there is no pass. One rule comes before all of them: if a guest's QEMU waited ten
// seconds or more for a CPU, and an RCU stall is all that was wrong in a finished scenario, it is an error.
package results
