package scenarios

var (
	_ = seenToFail("l2-runs", "the guest's ADD changed to 6: 'the word is what only the guest computes' was false, want 64782, got 64783, on 6.12")
	_ = seenToFail("l2-device-irq", "the irqfd left out: 'the guest's next exit' had no end within 5s, on 6.12")
)
