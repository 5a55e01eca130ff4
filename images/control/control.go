// Package control defines the words on the guest's control port: Ready, Welcome and Notice, one JSON
// object per line, and the names of the guest's virtio-serial ports.
//
// init (the guest) and harness/guest (the host) speak it; nothing else does. It holds no I/O.
package control

// Version of the control protocol. The guest says which one it speaks, the host refuses another.
const Version = 1

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

// Welcome is the host's answer. Only after it does the guest speak SSH: an image holds no key.
type Welcome struct {
	Version   int    `json:"version"`
	Time      int64  `json:"time"`       // nanoseconds since the epoch, the guest's clock is set to it
	Seed      []byte `json:"seed"`       // 64 bytes for the guest's random number generator
	HostKey   []byte `json:"host_key"`   // PEM, the SSH server's private key, for this guest alone
	ClientKey string `json:"client_key"` // authorized_keys line
}

// Notice is any later line of the guest.
type Notice struct {
	Serving bool   `json:"serving,omitempty"` // SSH is being served on PortSSH and PortShell
	Problem string `json:"problem,omitempty"` // what init could not do, for the console of the host
}
