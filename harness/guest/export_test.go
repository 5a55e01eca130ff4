package guest

import (
	"context"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// Connect waits until init is ready and welcomes it.
func Connect(ctx context.Context, conns Conns) (*Guest, error) {
	w, err := Await(ctx, conns)
	if err != nil {
		return nil, err
	}
	return w.Welcome(ctx)
}

// WriteSSHConfig makes what OpenSSH's programs need in the folder dir, for as long as this guest lives:
// `ssh -F dir/config guest` and `scp -O -F dir/config FILE guest:` reach it through proxyCommand, a
// command that connects its standard input and output to control.PortShell.
func (g *Guest) WriteSSHConfig(dir, proxyCommand string) error {
	block, err := ssh.MarshalPrivateKey(g.login, "")
	if err != nil {
		return fmt.Errorf("write ssh config: %w", err)
	}
	config := "Host guest\n" +
		"  User root\n" +
		"  ProxyCommand " + proxyCommand + "\n" +
		"  IdentityFile " + filepath.Join(dir, "id_ed25519") + "\n" +
		"  IdentitiesOnly yes\n" +
		"  UserKnownHostsFile " + filepath.Join(dir, "known_hosts") + "\n" +
		"  StrictHostKeyChecking yes\n"
	for name, data := range map[string][]byte{
		"id_ed25519":  pem.EncodeToMemory(block),
		"known_hosts": append([]byte("guest "), ssh.MarshalAuthorizedKey(g.hostKey)...),
		"config":      []byte(config),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("write ssh config: %w", err)
		}
	}
	return nil
}
