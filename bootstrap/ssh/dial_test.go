package ssh

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"clusterctl/bootstrap/ssh/sshtest"
)

func TestAuthentication(t *testing.T) {
	const secret = "correct horse"
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, home string, o *sshtest.Options, target *Target)
		answers []string
		asked   int    // how many questions a person got
		fails   string // empty: succeeds
	}{
		{
			name: "default key",
			prepare: func(t *testing.T, home string, o *sshtest.Options, _ *Target) {
				_, key := keyFile(t, home, "id_ed25519", "")
				o.User = append(o.User, key)
			},
		},
		{
			name: "inventory's key before default ones",
			prepare: func(t *testing.T, home string, o *sshtest.Options, target *Target) {
				keyFile(t, home, "id_ed25519", "")
				path, key := keyFile(t, home, "cluster", "")
				target.Keys = []string{"~/.ssh/" + filepath.Base(path)}
				o.User = append(o.User, key)
			},
		},
		{
			name: "encrypted key, second try right", answers: []string{"wrong", secret}, asked: 2,
			prepare: func(t *testing.T, home string, o *sshtest.Options, target *Target) {
				path, key := keyFile(t, home, "locked", secret)
				target.Keys = []string{path}
				o.User = append(o.User, key)
			},
		},
		{
			name: "encrypted key, three tries wrong", answers: []string{"a", "b", "c", secret}, asked: 3, fails: "gave up after 3 tries: the passphrase is wrong",
			prepare: func(t *testing.T, home string, o *sshtest.Options, target *Target) {
				path, key := keyFile(t, home, "locked", secret)
				target.Keys = []string{path}
				o.User = append(o.User, key)
			},
		},
		{
			name: "nobody is asked for a key that the host does not take",
			prepare: func(t *testing.T, home string, o *sshtest.Options, target *Target) {
				locked, _ := keyFile(t, home, "locked", secret)
				open, key := keyFile(t, home, "open", "")
				target.Keys = []string{locked, open}
				o.User = append(o.User, key)
			},
		},
		{
			name: "certificate beside the key",
			prepare: func(t *testing.T, home string, o *sshtest.Options, target *Target) {
				path, key := keyFile(t, home, "cluster", "")
				authority := newKey(t)
				cert := &ssh.Certificate{Key: key, CertType: ssh.UserCert, ValidPrincipals: []string{"tester"}, ValidBefore: ssh.CertTimeInfinity}
				if err := cert.SignCert(rand.Reader, authority); err != nil {
					t.Fatal(err)
				}
				writeFile(t, path+"-cert.pub", string(ssh.MarshalAuthorizedKey(cert)))
				target.Keys = []string{path}
				o.Authority = authority.PublicKey()
			},
		},
		{
			name: "no key fits", fails: "refused every key (offered: ",
			prepare: func(t *testing.T, home string, _ *sshtest.Options, _ *Target) { keyFile(t, home, "id_ed25519", "") },
		},
		{
			name: "a key of the inventory is missing", fails: "no such file",
			prepare: func(t *testing.T, home string, _ *sshtest.Options, target *Target) {
				target.Keys = []string{filepath.Join(home, "nowhere")}
			},
		},
		{
			name: "password", answers: []string{"no", "letmein"}, asked: 2,
			prepare: func(t *testing.T, _ string, o *sshtest.Options, target *Target) {
				o.Password = "letmein"
				target.Password = true
			},
		},
		{
			name: "password only if allowed", fails: "there was none to offer",
			prepare: func(t *testing.T, _ string, o *sshtest.Options, _ *Target) { o.Password = "letmein" },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			var o sshtest.Options
			var extra Target
			c.prepare(t, home, &o, &extra)
			s := newServer(t, o)
			person := &asked{answers: c.answers}
			d := newDialer(t, home, Options{Prompt: person.prompt})
			to := target(s)
			to.Keys, to.Password, to.HostKeys = extra.Keys, extra.Password, HostKeyAcceptNew
			client, err := d.Dial(t.Context(), to)
			if len(person.questions) != c.asked {
				t.Errorf("asked %q, want %d questions", person.questions, c.asked)
			}
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("got %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			out, _, err := client.Run(t.Context(), "cat; echo -$((1+1))", strings.NewReader("in"))
			if err != nil || string(out) != "in-2\n" {
				t.Errorf("run: %q, %v", out, err)
			}
			// What was typed once is not asked again.
			second, err := d.Dial(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			second.Close()
			if len(person.questions) != c.asked {
				t.Errorf("asked again: %q", person.questions)
			}
		})
	}
}

func TestAgent(t *testing.T) {
	home := t.TempDir()
	_, private, err := newPrivate()
	if err != nil {
		t.Fatal(err)
	}
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keys, conn) }()
		}
	}()
	signers, err := keys.Signers()
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, sshtest.Options{User: []ssh.PublicKey{signers[0].PublicKey()}})
	d := newDialer(t, home, Options{})
	to := target(s)
	to.HostKeys = HostKeyAcceptNew

	t.Setenv("SSH_AUTH_SOCK", l.Addr().String())
	client, err := d.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	client.Close()

	// IdentitiesOnly keeps the agent's keys back unless a file names them.
	writeFile(t, filepath.Join(home, ".ssh", "config"), "Host *\n  IdentitiesOnly yes\n  IdentityFile ~/.ssh/named\n")
	d = newDialer(t, home, Options{})
	t.Setenv("SSH_AUTH_SOCK", l.Addr().String())
	if client, err := d.Dial(t.Context(), to); err == nil {
		client.Close()
		t.Error("an agent's key was offered in spite of IdentitiesOnly")
	}
	writeFile(t, filepath.Join(home, ".ssh", "named.pub"), string(ssh.MarshalAuthorizedKey(signers[0].PublicKey())))
	client, err = d.Dial(t.Context(), to)
	if err != nil {
		t.Fatalf("a key that a .pub file names: %v", err)
	}
	client.Close()
}

func TestHostKeys(t *testing.T) {
	ed, rsaKey, other := newKey(t), newRSAKey(t), newKey(t)
	authority := newKey(t)
	certified := hostCertificate(t, ed, authority, "127.0.0.1")
	for _, c := range []struct {
		name   string
		server []ssh.Signer
		known  func(addr string) string // known_hosts
		policy HostKeyPolicy
		pinned []string
		reason string // of the refusal; empty: accepted
		says   []string
		stays  bool // known_hosts must not change
	}{
		{name: "unknown, strict", server: []ssh.Signer{ed}, reason: "unknown", says: []string{"is not known", "ssh-keyscan", ssh.FingerprintSHA256(ed.PublicKey())}, stays: true},
		{name: "unknown, accept-new", server: []ssh.Signer{ed}, policy: HostKeyAcceptNew},
		{name: "known", server: []ssh.Signer{ed}, known: func(a string) string { return knownLine(bracket(a), ed.PublicKey()) }, stays: true},
		{name: "known by hash", server: []ssh.Signer{ed}, known: func(a string) string { return knownLine(knownhosts.HashHostname(bracket(a)), ed.PublicKey()) }, stays: true},
		{name: "known by its other type", server: []ssh.Signer{ed, rsaKey}, known: func(a string) string { return knownLine(bracket(a), rsaKey.PublicKey()) }, stays: true},
		{name: "among lines of other clients", server: []ssh.Signer{ed}, known: func(a string) string {
			return "host unheard-of AAAA\n" + knownLine(bracket(a), ed.PublicKey())
		}, stays: true},
		{name: "changed", server: []ssh.Signer{other}, policy: HostKeyAcceptNew, known: func(a string) string { return "# mine\n" + knownLine(bracket(a), ed.PublicKey()) },
			reason: "changed", says: []string{"has CHANGED", "known_hosts:2", "ssh-keygen -R '[127.0.0.1]:", "do not connect"}, stays: true},
		{name: "changed, of another type", server: []ssh.Signer{other}, policy: HostKeyAcceptNew, known: func(a string) string { return knownLine(bracket(a), rsaKey.PublicKey()) },
			reason: "changed", says: []string{"has CHANGED", "known_hosts:1 (ssh-rsa)"}, stays: true},
		{name: "revoked", server: []ssh.Signer{ed}, policy: HostKeyAcceptNew, known: func(string) string { return "@revoked * " + string(ssh.MarshalAuthorizedKey(ed.PublicKey())) },
			reason: "revoked", says: []string{"known_hosts:1"}, stays: true},
		{name: "certified", server: []ssh.Signer{certified, rsaKey}, known: func(a string) string {
			return "@cert-authority " + bracket(a) + " " + string(ssh.MarshalAuthorizedKey(authority.PublicKey()))
		}, stays: true},
		{name: "pinned", server: []ssh.Signer{ed}, policy: HostKeyPinned, pinned: []string{ssh.FingerprintSHA256(ed.PublicKey())}, stays: true},
		{name: "pinned by its other type", server: []ssh.Signer{ed, rsaKey}, pinned: []string{ssh.FingerprintSHA256(rsaKey.PublicKey())}, stays: true},
		{name: "not the pinned one", server: []ssh.Signer{ed, rsaKey}, policy: HostKeyAcceptNew, pinned: []string{ssh.FingerprintSHA256(other.PublicKey())},
			reason: "not pinned", says: []string{"not the one pinned"}, stays: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			_, key := keyFile(t, home, "id_ed25519", "")
			s := newServer(t, sshtest.Options{HostKeys: c.server, User: []ssh.PublicKey{key}})
			file := filepath.Join(home, ".ssh", "known_hosts")
			content := ""
			if c.known != nil {
				content = c.known(s.Addr)
				writeFile(t, file, content)
			}
			d := newDialer(t, home, Options{})
			to := target(s)
			to.HostKeys, to.Pinned = c.policy, c.pinned
			client, err := d.Dial(t.Context(), to)
			if client != nil {
				client.Close()
			}
			if after, _ := os.ReadFile(file); c.stays && string(after) != content {
				t.Errorf("known_hosts became %q", after)
			}
			if c.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				if !c.stays { // what was accepted is now known
					to.HostKeys = HostKeyStrict
					client, err := d.Dial(t.Context(), to)
					if err != nil {
						t.Fatal(err)
					}
					client.Close()
				}
				return
			}
			var refused *HostKeyError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a *HostKeyError", err)
			}
			if refused.Reason != c.reason {
				t.Errorf("reason %q, want %q (%v)", refused.Reason, c.reason, err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if s.Logins() != 0 {
				t.Error("logged in all the same")
			}
		})
	}
}

func TestAcceptNewTogether(t *testing.T) {
	home := t.TempDir()
	_, key := keyFile(t, home, "id_ed25519", "")
	s := newServer(t, sshtest.Options{User: []ssh.PublicKey{key}})
	d := newDialer(t, home, Options{})
	to := target(s)
	to.HostKeys = HostKeyAcceptNew
	errs := make(chan error)
	for range 8 {
		go func() {
			client, err := d.Dial(t.Context(), to)
			if err == nil {
				client.Close()
			}
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(home, ".ssh", "known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(raw), "\n"); n != 1 {
		t.Errorf("known_hosts has %d lines:\n%s", n, raw)
	}
}

func TestJumpHosts(t *testing.T) {
	home := t.TempDir()
	_, key := keyFile(t, home, "id_ed25519", "")
	o := sshtest.Options{User: []ssh.PublicKey{key}}
	first, second, last := newServer(t, o), newServer(t, o), newServer(t, o)
	d := newDialer(t, home, Options{})
	to := target(last)
	to.HostKeys = HostKeyAcceptNew
	to.Jump = []string{"tester@" + first.Addr, "ssh://tester@" + second.Addr}
	for range 2 {
		client, err := d.Dial(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		out, _, err := client.Run(t.Context(), "echo through", nil)
		if err != nil || string(out) != "through\n" {
			t.Errorf("run: %q, %v", out, err)
		}
		client.Close()
	}
	if len(first.Dialed()) != 1 || first.Dialed()[0] != second.Addr || len(second.Dialed()) != 2 || second.Dialed()[0] != last.Addr {
		t.Errorf("first dialed %v, second %v", first.Dialed(), second.Dialed())
	}

	// A jump host that went away is connected to anew.
	first.Cut()
	second.Cut()
	deadline := time.Now().Add(time.Minute)
	for {
		client, err := d.Dial(t.Context(), to)
		if err == nil {
			client.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestConfiguration(t *testing.T) {
	home := t.TempDir()
	_, key := keyFile(t, home, "work", "")
	s := newServer(t, sshtest.Options{User: []ssh.PublicKey{key}})
	host, port, _ := net.SplitHostPort(s.Addr)
	config := filepath.Join(home, ".ssh", "config")
	writeFile(t, config, "Include "+home+"/.ssh/extra\nHost node-*\n  IdentityFile %d/.ssh/work\n  User configured\n  UserKnownHostsFile ~/.ssh/known_cluster\n  StrictHostKeyChecking accept-new\n")
	writeFile(t, filepath.Join(home, ".ssh", "extra"), "Host node-1\n  HostName "+host+"\n  Port "+port+"\n")
	d := newDialer(t, home, Options{})
	client, err := d.Dial(t.Context(), Target{Host: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if got := client.Target(); got != "configured@"+s.Addr {
		t.Errorf("logged in as %s", got)
	}
	if _, err := os.Stat(filepath.Join(home, ".ssh", "known_cluster")); err != nil {
		t.Errorf("UserKnownHostsFile was not used: %v", err)
	}

	// "no" in ssh_config never means less than strict.
	writeFile(t, config, "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n")
	d = newDialer(t, home, Options{})
	var refused *HostKeyError
	if _, err := d.Dial(t.Context(), target(s)); !errors.As(err, &refused) {
		t.Errorf("got %v, want a *HostKeyError", err)
	}

	for _, c := range []struct{ config, want string }{
		{"Host *\n  ProxyCommand nc %h %p\n", "ProxyCommand"},
		{"Host *\n  Port many\n", "not a number"},
	} {
		writeFile(t, config, c.config)
		d, err := NewDialer(Options{Home: home, ConfigFiles: []string{config}})
		if err == nil {
			_, err = d.Dial(t.Context(), Target{Host: "127.0.0.1"})
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.config, err, c.want)
		}
	}
}

func TestTimeLimits(t *testing.T) {
	home := t.TempDir()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s := &sshtest.Server{Addr: silent.Addr().String()}
	d := newDialer(t, home, Options{LoginTimeout: 200 * time.Millisecond})
	begin := time.Now()
	if _, err := d.Dial(t.Context(), target(s)); err == nil || !strings.Contains(err.Error(), "did not finish the log-in within 200ms") {
		t.Errorf("silent server: %v", err)
	}
	d = newDialer(t, home, Options{LoginTimeout: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, target(s)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	if took := time.Since(begin); took > 30*time.Second { // not the minute of the second
		t.Errorf("took %s", took)
	}
}

func TestDeadPeerIsNoticed(t *testing.T) {
	home := t.TempDir()
	_, key := keyFile(t, home, "id_ed25519", "")
	s := newServer(t, sshtest.Options{User: []ssh.PublicKey{key}})
	const interval = 2 * time.Second // the peer may take four to answer, on any machine
	d := newDialer(t, home, Options{KeepAlive: interval})
	to := target(s)
	to.HostKeys = HostKeyAcceptNew
	client, err := d.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	time.Sleep(5 * interval / 2)
	if err := client.Err(); err != nil {
		t.Fatalf("a living peer was given up: %v", err)
	}
	s.Freeze()
	if _, _, err := client.Run(t.Context(), "sleep 10", nil); err == nil || !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("got %v", err)
	}
}

func TestCommands(t *testing.T) {
	home := t.TempDir()
	_, key := keyFile(t, home, "id_ed25519", "")
	s := newServer(t, sshtest.Options{User: []ssh.PublicKey{key}})
	d := newDialer(t, home, Options{})
	to := target(s)
	to.HostKeys = HostKeyAcceptNew
	client, err := d.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	var exit *ExitError
	if _, _, err := client.Run(t.Context(), "echo reason >&2; exit 3", nil); !errors.As(err, &exit) || exit.Status != 3 || exit.Stderr != "reason" {
		t.Errorf("got %v", err)
	}
	quoted := "a'b \"$HOME\" \n`c`"
	if out, _, err := client.Run(t.Context(), "printf %s "+Quote(quoted), nil); err != nil || string(out) != quoted {
		t.Errorf("quoted: %q, %v", out, err)
	}
	// A command that ends before it has read all its input.
	if _, _, err := client.Run(t.Context(), "true", io.LimitReader(zeroes{}, 8<<20)); err != nil {
		t.Errorf("unread input: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, _, err := client.Run(ctx, "exec sleep 300", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("cancelling took %s", took)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	conn, err := client.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(conn); string(got) != "hello" {
		t.Errorf("through the connection came %q", got)
	}
	s.Cut()
	if _, _, err := client.Run(t.Context(), "true", nil); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("after the connection broke: %v", err)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }
