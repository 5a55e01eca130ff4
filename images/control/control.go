// Package control defines the words on the guest's control port, one JSON object per line, and the names of
// the guest's virtio-serial ports. The guest says Ready; the host says any number of times Prepare, each of which
// the guest answers with a Notice that says Prepared, and then Welcome; what the guest says later is a Notice.
//
// init (the guest) and harness/guest (the host) speak it; nothing else does. It holds no I/O.
package control

// Version of the control protocol. The guest says which one it speaks, the host refuses another.
const Version = 2

// The guest's virtio-serial ports, /dev/virtio-ports/NAME in the guest.
const (
	PortControl = "nestbed.control" // this protocol
	PortSSH     = "nestbed.ssh"     // the harness's SSH connection
	PortShell   = "nestbed.shell"   // a second SSH connection, for a person
	PortKmsg    = "nestbed.kmsg"    // guest to host: /dev/kmsg records, raw, one per line
)

// MaxLine bounds one line of the protocol, in bytes.
const MaxLine = 16 << 10

// Ready is the guest's first line: init runs and waits for a Welcome.
type Ready struct {
	Version int     `json:"version"`
	Kernel  string  `json:"kernel"` // uname -r
	Uptime  float64 `json:"uptime"` // seconds since the kernel started
}

// Word is a line of the host: it has one of these.
type Word struct {
	Prepare *Prepare `json:"prepare,omitempty"`
	Welcome *Welcome `json:"welcome,omitempty"`
}

// Prepare asks for what a guest has before it is saved, to be restored many times. The bytes of Files
// follow the line, one file after the other.
type Prepare struct {
	Files   []File   `json:"files"`
	Command []string `json:"command"` // runs to its end; the first word is a path
}

// File is a file for the guest.
type File struct {
	Name string `json:"name"` // absolute
	Mode uint32 `json:"mode"` // permission bits
	Size int64  `json:"size"`
}

// Welcome ends the waiting. Only after it does the guest speak SSH: an image holds no key, nor does a saved guest.
type Welcome struct {
	Version   int    `json:"version"`
	Time      int64  `json:"time"`       // nanoseconds since the epoch, the guest's clock is set to it
	Seed      []byte `json:"seed"`       // 64 bytes for the guest's random number generator
	HostKey   []byte `json:"host_key"`   // PEM, the SSH server's private key, for this guest alone
	ClientKey string `json:"client_key"` // authorized_keys line
}

// Notice is any later line of the guest.
type Notice struct {
	Prepared bool   `json:"prepared,omitempty"` // the answer to a Prepare; Problem says what went wrong with it
	Serving  bool   `json:"serving,omitempty"`  // SSH is being served on PortSSH and PortShell
	Problem  string `json:"problem,omitempty"`  // what init could not do, for the console of the host
}
