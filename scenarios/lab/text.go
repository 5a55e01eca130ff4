package lab

import "github.com/nestbed/nestbed/results/record"

// WantText claims a text.
func (t *T) WantText(got, want, claim string) {
	t.stream.check(record.Check{OK: got == want, Claim: claim, Want: want, Got: got, Site: site(1)})
}
