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
// Without the agent's done there is no pass.
//
// A kernel report that a scenario declares (record.Expect) is no crash; it is owed: where it does not come, or
// comes as another class, or ends the kernel when it was not to or does not when it was, there is no pass. One
// that was declared to end the kernel and has ended it stands for what cannot come any more, the agent's done and
// the closing invariant, and what the kernel says behind it is its consequence. All else counts as ever: a report
// before it, a false claim, an error of ours.
//
// One rule comes before all of them: if a guest's QEMU waited ten
// seconds or more for a CPU, and an RCU stall is all that was wrong in a finished scenario, it is an error.
package results
