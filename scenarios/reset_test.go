package scenarios

// All on 6.12, intel, by a change to the scenario that takes away what it is about.
var (
	_ = seenToFail("reset-flr", "the reset left out: 'it is disabled' and 'it takes no commands' false")
	_ = seenToFail("reset-bus", "the resets left out: 'the mark is gone', want 0, got 0xfee01000, both ways")
	_ = seenToFail("reset-bar-disable-sigbus",
		"COMMAND.MEM left set: 'a read of the mapping raises SIGBUS' false; 'a read of the region', want EIO, got success")
	_ = seenToFail("reset-close-clears-busmaster",
		"claimed before close, and the bit set after open: 'the device does not master the bus', want 0, got 4; bytes changed")
	_ = seenToFail("pm-lowpower-feature", "LOW_POWER_ENTRY left out: 'it sleeps' false, 'in D3hot: D0'")
)
