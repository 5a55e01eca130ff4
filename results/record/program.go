package record

// What a log says of a program that nestbed exec runs in the place of a scenario.
const (
	FromProgram = "program" // a piece of what it wrote; all pieces joined are the whole, as far as it was kept
	FromExit    = "exit"    // how it ended: "exit status 3", "killed by SIGSEGV"
)

// ProgramStep is the step in which such a program runs. A cell that ended in an earlier one says nothing
// about the program.
const ProgramStep = "run the program"
