package uapi

// Desc owns one raw file descriptor. Closing twice is harmless, so that a scenario's own Close and its
// cleanup need not know of each other.
type Desc struct {
	fd   int
	name string
}

// Own takes a descriptor over; name is what errors call it.
func Own(fd int, name string) Desc { return Desc{fd, name} }

// Close closes the descriptor, once.
func (d *Desc) Close() error {
	if d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	return Close(fd, d.name)
}

// FD is the raw descriptor, -1 once closed.
func (d *Desc) FD() int { return d.fd }

// Name is what errors call it.
func (d *Desc) Name() string { return d.name }
