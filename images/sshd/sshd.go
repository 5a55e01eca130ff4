// Package sshd is the guest's SSH server: exec with exit statuses, signals and terminals, scp in both
// directions, and a line shell for a person.
//
// It owns the processes that its clients start: when a channel goes, its processes go. It does not own
// the connection's transport (init opens the ports) nor the client's side (harness/guest). It runs in a
// guest that holds nothing else, so its small set of commands (help lists them) is its own: there is no
// /bin/sh.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Config is what a server needs.
type Config struct {
	HostKey   []byte                  // PEM, the server's private key
	ClientKey string                  // authorized_keys line of the only key that may log in
	Env       []string                // environment of every process, KEY=value
	Power     func(reboot bool) error // ends the guest, for the commands poweroff and reboot
}

// Server serves SSH connections. It is safe for several at once.
type Server struct {
	cfg Config
	ssh *ssh.ServerConfig
}

// New checks the keys and makes a server.
func New(cfg Config) (*Server, error) {
	host, err := ssh.ParsePrivateKey(cfg.HostKey)
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	client, _, _, _, err := ssh.ParseAuthorizedKey([]byte(cfg.ClientKey))
	if err != nil {
		return nil, fmt.Errorf("client key: %w", err)
	}
	want := string(client.Marshal())
	conf := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-nestbed",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != want {
				return nil, errors.New("another key")
			}
			return nil, nil
		},
	}
	conf.AddHostKey(host)
	return &Server{cfg: cfg, ssh: conf}, nil
}

// Serve speaks SSH on conn until the connection ends; its error is a handshake that failed. When it returns, conn is closed and every process
// that the client started has been sent SIGKILL; one that the kernel does not let die is not waited for.
func (s *Server) Serve(conn net.Conn) error {
	defer conn.Close()
	sc, channels, requests, err := ssh.NewServerConn(conn, s.ssh)
	if err != nil {
		return fmt.Errorf("ssh handshake: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		channel, reqs, err := ch.Accept()
		if err != nil {
			continue // the connection is going; channels is about to close
		}
		go s.session(ctx, channel, reqs)
	}
	_ = sc.Wait() // how a client says good-bye, or does not, changes nothing
	return nil
}

// maxEarly bounds the signals that wait for a program.
const maxEarly = 8

// session is one channel: what the client asked for before it says exec or shell, and then that command.
type session struct {
	server *Server
	ch     ssh.Channel
	dir    string
	env    []string
	term   *terminal // nil without pty-req

	mu       sync.Mutex
	running  *process // receives the client's signals
	launched bool     // there has been one
	early    []string // signals that came before
}

// session answers a channel's requests until the client or the command ends it.
func (s *Server) session(ctx context.Context, ch ssh.Channel, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the channel is gone: so is its command
	se := &session{server: s, ch: ch, dir: "/", env: append([]string(nil), s.cfg.Env...)}
	started := false
	for req := range requests {
		ok := false
		switch req.Type {
		case "env":
			var kv struct{ Key, Value string }
			if ok = ssh.Unmarshal(req.Payload, &kv) == nil && !started; ok {
				se.env = append(se.env, kv.Key+"="+kv.Value)
			}
		case "pty-req":
			if t, err := parseTerminal(req.Payload); err == nil && !started {
				se.term, ok = t, true
				se.env = append(se.env, "TERM="+t.name)
			}
		case "window-change":
			var size struct{ Columns, Rows, Width, Height uint32 }
			if ok = ssh.Unmarshal(req.Payload, &size) == nil && se.term != nil; ok {
				se.term.resize(size.Columns, size.Rows)
			}
		case "signal":
			var sig struct{ Name string }
			if ssh.Unmarshal(req.Payload, &sig) == nil {
				ok = se.signal(sig.Name)
			}
		case "exec", "shell":
			var cmd struct{ Line string }
			if started || req.Type == "exec" && ssh.Unmarshal(req.Payload, &cmd) != nil {
				break
			}
			started, ok = true, true
			reply(req, true) // before the command's first output
			go func() {
				if req.Type == "shell" {
					se.finish(se.shell(ctx))
				} else {
					se.finish(se.exec(ctx, cmd.Line))
				}
			}()
			continue
		}
		reply(req, ok)
	}
}

func reply(req *ssh.Request, ok bool) {
	if req.WantReply {
		_ = req.Reply(ok, nil) // a broken connection shows at the next request
	}
}

// result is how a command ended: a status, or the signal that killed it.
type result struct {
	status int
	signal string // SSH's name, without SIG
	core   bool
}

// finish reports the result and closes the channel.
func (se *session) finish(r result) {
	if r.signal != "" {
		_, _ = se.ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal  string
			Core    bool
			Message string
			Lang    string
		}{Signal: r.signal, Core: r.core}))
	} else {
		_, _ = se.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(r.status)}))
	}
	_ = se.ch.Close()
}

// streams are a command's standard files.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// exec runs one command line.
func (se *session) exec(ctx context.Context, line string) result {
	argv, err := split(line)
	if err != nil {
		fmt.Fprintln(se.ch.Stderr(), "nestbed:", err)
		return result{status: 2}
	}
	if len(argv) == 0 {
		return result{}
	}
	std := streams{in: se.ch, out: se.ch, err: se.ch.Stderr()}
	if argv[0] == "scp" {
		return result{status: scp(argv[1:], std)}
	}
	if b, ok := builtins[argv[0]]; ok {
		return result{status: b.run(se, argv[1:], std)}
	}
	if se.term != nil {
		keys := newKeys(ctx, se.ch)
		return se.runTerminal(ctx, argv, keys)
	}
	return se.run(ctx, argv, std)
}

func (se *session) signal(name string) bool {
	se.mu.Lock()
	defer se.mu.Unlock()
	if _, known := signals[name]; !known || se.running == nil && (se.launched || len(se.early) == maxEarly) {
		return false
	}
	if se.running == nil {
		se.early = append(se.early, name)
		return true
	}
	return se.running.signal(name) == nil
}

// path makes a name of the client absolute.
func (se *session) path(name string) string {
	if len(name) > 0 && name[0] == '/' {
		return name
	}
	return se.dir + "/" + name
}

func (se *session) open(name string) (*os.File, error) { return os.Open(se.path(name)) }
