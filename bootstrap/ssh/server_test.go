package ssh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"clusterctl/bootstrap/ssh/sshtest"
)

// newServer starts a server, with a host key where o has none.
func newServer(t *testing.T, o sshtest.Options) *sshtest.Server {
	t.Helper()
	if len(o.HostKeys) == 0 {
		o.HostKeys = []ssh.Signer{newKey(t)}
	}
	return sshtest.New(t, o)
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newRSAKey(t *testing.T) ssh.Signer {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// keyFile writes a new key, encrypted when there is a passphrase.
func keyFile(t *testing.T, home, name, passphrase string) (string, ssh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, ".ssh", name)
	writeFile(t, path, string(pem.EncodeToMemory(block)))
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return path, key
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// knownLine is a line of known_hosts.
func knownLine(host string, key ssh.PublicKey) string {
	return host + " " + string(ssh.MarshalAuthorizedKey(key))
}

// bracket is how known_hosts writes host:port.
func bracket(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return "[" + host + "]:" + port
}

// asked is a Prompt that gives answers in turn and counts.
type asked struct {
	mu        sync.Mutex
	answers   []string
	questions []string
}

func (a *asked) prompt(_ context.Context, question string) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.questions = append(a.questions, question)
	if len(a.answers) == 0 {
		return nil, fmt.Errorf("nobody answers %q", question)
	}
	answer := a.answers[0]
	a.answers = a.answers[1:]
	return []byte(answer), nil
}

// newDialer makes a Dialer that sees nothing of the machine's own set-up.
func newDialer(t *testing.T, home string, o Options) *Dialer {
	t.Helper()
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("USER", "tester")
	o.Home = home
	if o.ConfigFiles == nil {
		o.ConfigFiles = []string{filepath.Join(home, ".ssh", "config")}
	}
	if o.LoginTimeout == 0 {
		o.LoginTimeout = time.Minute
	}
	d, err := NewDialer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func target(s *sshtest.Server) Target {
	host, port, _ := net.SplitHostPort(s.Addr)
	n, _ := strconv.Atoi(port)
	return Target{Host: host, Port: n, User: "tester"}
}
