package ssh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kevinburke/ssh_config"
	"golang.org/x/crypto/ssh"
)

// Options is what all connections of a Dialer have in common. The zero value
// is what a person at a terminal would expect.
type Options struct {
	// Prompt asks for passphrases and passwords. Nil: nobody can be asked.
	Prompt Prompt

	// ConfigFiles are read in this order, the first value found wins; nil:
	// ~/.ssh/config and /etc/ssh/ssh_config. Empty but not nil: none.
	ConfigFiles []string

	// Home is where ~ points; empty: the user's home directory.
	Home string

	ConnectTimeout time.Duration // TCP connect; 0: 10 s
	LoginTimeout   time.Duration // handshake and authentication, a person's typing excepted; 0: 15 s
	KeepAlive      time.Duration // between keep-alives; 0: 5 s. A dead peer is noticed after three times this.

	Logger *slog.Logger // nil: none
}

// Dialer opens connections. It is safe for concurrent use; Close it after the
// last Client is closed.
type Dialer struct {
	options Options
	configs []*ssh_config.Config
	secrets *secrets
	keys    *keyring

	mu    sync.Mutex
	jumps map[string]*jump
}

// jump is a connection to a jump host, shared by all that go through it.
type jump struct {
	ready  chan struct{} // closed when client or err is set
	client *Client
	err    error
}

// NewDialer reads the ssh configuration.
func NewDialer(o Options) (*Dialer, error) {
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.LoginTimeout == 0 {
		o.LoginTimeout = 15 * time.Second
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Home == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("find the home directory: %w", err)
		}
		o.Home = home
	}
	if o.ConfigFiles == nil {
		o.ConfigFiles = []string{filepath.Join(o.Home, ".ssh", "config"), "/etc/ssh/ssh_config"}
	}
	configs, err := readConfigs(o.ConfigFiles)
	if err != nil {
		return nil, err
	}
	s := &secrets{prompt: o.Prompt}
	return &Dialer{options: o, configs: configs, secrets: s, keys: &keyring{secrets: s}, jumps: map[string]*jump{}}, nil
}

// Close ends the connections to jump hosts and to the agent.
func (d *Dialer) Close() error {
	d.mu.Lock()
	jumps := d.jumps
	d.jumps = map[string]*jump{}
	d.mu.Unlock()
	var errs []error
	for _, j := range jumps {
		<-j.ready
		if j.client != nil {
			errs = append(errs, j.client.Close())
		}
	}
	d.keys.close()
	return errors.Join(errs...)
}

// maxJumps bounds a chain, so that a loop in ssh_config ends.
const maxJumps = 8

// Dial connects and logs in. The context bounds only that; the Client lives
// until it is closed or its peer is dead.
func (d *Dialer) Dial(ctx context.Context, target Target) (*Client, error) {
	return d.dial(ctx, target, 0)
}

func (d *Dialer) dial(ctx context.Context, target Target, depth int) (*Client, error) {
	if depth > maxJumps {
		return nil, fmt.Errorf("connect to %s: more than %d jump hosts; is there a loop in the ssh configuration?", target.Host, maxJumps)
	}
	r, err := resolve(target, d.configs, d.options.Home)
	if err != nil {
		return nil, err
	}
	var via *Client
	if n := len(r.Jump); n > 0 {
		last, err := ParseJump(r.Jump[n-1])
		if err != nil {
			return nil, err
		}
		last.Jump = r.Jump[:n-1]
		last.HostKeys, last.KnownHosts, last.Keys, last.Password = target.HostKeys, target.KnownHosts, target.Keys, target.Password
		if via, err = d.jump(ctx, last, depth+1); err != nil {
			return nil, fmt.Errorf("connect to %s through jump host %s: %w", r, last, err)
		}
	}
	client, err := d.login(ctx, r, via)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", r, err)
	}
	return client, nil
}

// jump connects to a jump host, or shares the connection that exists.
func (d *Dialer) jump(ctx context.Context, target Target, depth int) (*Client, error) {
	key := target.String() + " via " + strings.Join(target.Jump, ",")
	for {
		d.mu.Lock()
		j, ok := d.jumps[key]
		if !ok {
			j = &jump{ready: make(chan struct{})}
			d.jumps[key] = j
		}
		d.mu.Unlock()
		if !ok {
			j.client, j.err = d.dial(ctx, target, depth)
			if j.err != nil {
				d.forget(key, j)
			}
			close(j.ready)
			return j.client, j.err
		}
		select {
		case <-j.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case j.err != nil && (errors.Is(j.err, context.Canceled) || errors.Is(j.err, context.DeadlineExceeded)) && ctx.Err() == nil:
			continue // whoever dialed gave up; this caller has not
		case j.err != nil:
			return nil, j.err
		case j.client.Err() != nil:
			d.forget(key, j)
			continue
		}
		return j.client, nil
	}
}

func (d *Dialer) forget(key string, j *jump) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.jumps[key] == j {
		delete(d.jumps, key)
	}
}

// login opens the transport and authenticates. With pinned keys it tries again
// for each type of key the host has, until a pin matches.
func (d *Dialer) login(ctx context.Context, r resolved, via *Client) (*Client, error) {
	keys, err := newHostKeys(r)
	if err != nil {
		return nil, err
	}
	var spent []string
	for {
		algorithms := keys.algorithms(spent)
		if len(algorithms) == 0 {
			return nil, keys.rejected
		}
		keys.seen = nil
		conn, err := d.open(ctx, r, via)
		if err != nil {
			return nil, err
		}
		client, err := d.handshake(ctx, r, conn, keys, algorithms)
		switch {
		case err == nil:
			return client, nil
		case keys.rejected != nil && len(r.Pinned) > 0 && keys.seen != nil:
			spent = append(spent, keyAlgorithms(keys.seen.Type())...)
		case keys.rejected != nil:
			return nil, keys.rejected
		default:
			return nil, err
		}
	}
}

// open makes the byte stream that the log-in runs on.
func (d *Dialer) open(ctx context.Context, r resolved, via *Client) (net.Conn, error) {
	limit := d.options.ConnectTimeout
	if r.connectTimeout > 0 {
		limit = r.connectTimeout
	}
	dialCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var conn net.Conn
	var err error
	if via != nil {
		conn, err = via.DialContext(dialCtx, "tcp", r.addr)
	} else {
		conn, err = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext(dialCtx, "tcp", r.addr)
	}
	if err != nil && ctx.Err() == nil && errors.Is(dialCtx.Err(), context.DeadlineExceeded) {
		return nil, fmt.Errorf("no answer from %s within %s: is the host up, and the address right?", r.addr, limit)
	}
	return conn, err
}

func (d *Dialer) handshake(ctx context.Context, r resolved, conn net.Conn, keys *hostKeys, algorithms []string) (*Client, error) {
	timedOut := make(chan struct{})
	limit := startClock(d.options.LoginTimeout, func() {
		close(timedOut)
		conn.Close()
	})
	defer limit.stop()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	offer, err := d.keys.offer(ctx, limit, r)
	if err != nil {
		conn.Close()
		return nil, err
	}
	config := &ssh.ClientConfig{
		User:              r.User,
		Auth:              d.methods(ctx, limit, r, offer),
		HostKeyCallback:   keys.callback,
		HostKeyAlgorithms: algorithms,
		ClientVersion:     "SSH-2.0-clusterctl",
	}
	// The certificate checker compares the name dialed with the principals.
	sshConn, channels, requests, err := ssh.NewClientConn(conn, keys.name, config)
	if err != nil {
		conn.Close()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case keys.rejected != nil:
			return nil, keys.rejected
		}
		select {
		case <-timedOut:
			return nil, fmt.Errorf("the ssh server did not finish the log-in within %s", d.options.LoginTimeout)
		default:
		}
		return nil, offer.explain(r, negotiated(keys, err))
	}
	d.options.Logger.Debug("ssh connected", "target", r.String(), "server", string(sshConn.ServerVersion()))
	return newClient(ssh.NewClient(sshConn, channels, requests), r, d), nil
}

// negotiated explains a failed negotiation of the host key's algorithm: the
// host no longer has a key of the type that known_hosts lists.
func negotiated(keys *hostKeys, err error) error {
	var negotiation *ssh.AlgorithmNegotiationError
	if !errors.As(err, &negotiation) || !strings.Contains(err.Error(), "host key") {
		return err
	}
	if len(keys.pinned) > 0 && keys.rejected != nil {
		return keys.rejected
	}
	if len(keys.known) == 0 {
		return err
	}
	var lines []string
	for _, k := range keys.known {
		lines = append(lines, fmt.Sprintf("%s:%d (%s)", keys.file(k), k.Line, k.Key.Type()))
	}
	return &HostKeyError{Host: keys.name, Reason: "changed", Known: lines,
		Message: fmt.Sprintf("the host key of %s has CHANGED: it has no key of a type that is known of it (%s). If the host was reinstalled, remove the old key (ssh-keygen -R '%s') and connect again; if not, somebody may be in between: do not connect", keys.name, strings.Join(lines, ", "), keys.name)}
}
