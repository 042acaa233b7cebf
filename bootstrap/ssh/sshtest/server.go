package sshtest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Server listens on loopback until its test ends.
type Server struct {
	Addr string // host:port

	config  *ssh.ServerConfig
	running sync.WaitGroup // what serves connections, and commands

	mu     sync.Mutex
	frozen bool // answers nothing any more
	conns  []net.Conn
	logins int
	dialed []string // direct-tcpip destinations
}

// Options says whom a server lets in.
type Options struct {
	HostKeys  []ssh.Signer    // at least one
	User      []ssh.PublicKey // keys that may log in
	Authority ssh.PublicKey   // signs user certificates
	Password  string          // empty: none is taken
	Env       []string        // of commands, beside the test's own
}

// New starts a server. When the test ends, so have its commands: they may write to
// the test's directories.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{}
	checker := &ssh.CertChecker{
		IsUserAuthority: func(key ssh.PublicKey) bool { return o.Authority != nil && equal(key, o.Authority) },
		UserKeyFallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			for _, k := range o.User {
				if equal(k, key) {
					return nil, nil
				}
			}
			return nil, errors.New("not this key")
		},
	}
	s.config = &ssh.ServerConfig{PublicKeyCallback: checker.Authenticate}
	if o.Password != "" {
		s.config.PasswordCallback = func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if string(password) != o.Password {
				return nil, errors.New("wrong password")
			}
			return nil, nil
		}
	}
	for _, key := range o.HostKeys {
		s.config.AddHostKey(key)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = l.Addr().String()
	accepting := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-accepting
		s.Cut()
		s.running.Wait()
	})
	go func() {
		defer close(accepting)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.running.Go(func() { s.serve(conn, o.Env) })
		}
	}()
	return s
}

// Cut breaks every connection.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

// Freeze makes the server deaf: connections stay and nothing is answered.
func (s *Server) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
}

// Logins counts successful log-ins.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// Dialed lists what clients connected to through this server.
func (s *Server) Dialed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.dialed...)
}

func (s *Server) isFrozen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frozen
}

func (s *Server) serve(nc net.Conn, env []string) {
	conn, channels, requests, err := ssh.NewServerConn(nc, s.config)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.logins++
	s.mu.Unlock()
	defer conn.Close()
	go func() {
		for r := range requests {
			if r.WantReply && !s.isFrozen() {
				_ = r.Reply(false, nil)
			}
		}
	}()
	for c := range channels {
		switch c.ChannelType() {
		case "session":
			s.running.Go(func() { s.session(c, env) })
		case "direct-tcpip":
			s.running.Go(func() { s.forward(c) })
		default:
			_ = c.Reject(ssh.UnknownChannelType, "")
		}
	}
}

func (s *Server) forward(c ssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if err := ssh.Unmarshal(c.ExtraData(), &to); err != nil {
		_ = c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	address := net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port)))
	s.mu.Lock()
	s.dialed = append(s.dialed, address)
	s.mu.Unlock()
	out, err := net.Dial("tcp", address)
	if err != nil {
		_ = c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := c.Accept()
	if err != nil {
		out.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	go func() { _, _ = io.Copy(channel, out); channel.Close() }()
	_, _ = io.Copy(out, channel)
	out.Close()
}

func (s *Server) session(c ssh.NewChannel, env []string) {
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for r := range requests {
		switch r.Type {
		case "exec":
			var command struct{ Line string }
			_ = ssh.Unmarshal(r.Payload, &command)
			_ = r.Reply(true, nil)
			s.running.Go(func() {
				cmd := exec.CommandContext(ctx, "sh", "-c", command.Line)
				cmd.Env = append(os.Environ(), env...)
				cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
				stdin, _ := cmd.StdinPipe()
				go func() { _, _ = io.Copy(stdin, channel); stdin.Close() }()
				status := 0
				if err := cmd.Run(); err != nil {
					status = 255
					var exit *exec.ExitError
					if errors.As(err, &exit) {
						status = exit.ExitCode()
					}
				}
				_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
				channel.Close()
			})
		case "signal":
			cancel()
		default:
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
		}
	}
}

func equal(a, b ssh.PublicKey) bool { return string(a.Marshal()) == string(b.Marshal()) }
