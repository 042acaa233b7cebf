package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Client is one logged-in connection. It is safe for concurrent use.
type Client struct {
	conn   *ssh.Client
	target resolved
	dialer *Dialer

	done   context.Context // ends with the connection; its cause says why
	end    context.CancelCauseFunc
	ending sync.Once
}

var errClosed = errors.New("the ssh connection was closed")

func newClient(conn *ssh.Client, r resolved, d *Dialer) *Client {
	c := &Client{conn: conn, target: r, dialer: d}
	c.done, c.end = context.WithCancelCause(context.Background())
	go func() {
		err := conn.Wait()
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("the host ended the ssh connection")
		}
		c.end(fmt.Errorf("connection to %s lost: %w", r, err))
	}()
	go c.keepAlive(d.options.KeepAlive)
	return c
}

// keepAlive asks the peer for a sign of life every interval and gives it two
// intervals to answer.
func (c *Client) keepAlive(interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-c.done.Done():
			return
		case <-ticker.C:
		}
		answered := make(chan error, 1)
		go func() {
			_, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil)
			answered <- err
		}()
		timer := time.NewTimer(2 * interval)
		select {
		case err := <-answered:
			timer.Stop()
			if err != nil {
				return // conn.Wait tells why
			}
		case <-timer.C:
			c.end(fmt.Errorf("connection to %s lost: no sign of life for %s", c.target, 3*interval))
			c.conn.Close()
			return
		case <-c.done.Done():
			timer.Stop()
			return
		}
	}
}

// Target names the connection: user@address.
func (c *Client) Target() string { return c.target.String() }

// User is the name that is logged in.
func (c *Client) User() string { return c.target.User }

// Done is closed when the connection has ended; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done.Done() }

// Err is nil while the connection lives.
func (c *Client) Err() error { return context.Cause(c.done) }

// Close ends the connection and everything that runs on it.
func (c *Client) Close() error {
	c.ending.Do(func() {
		c.end(errClosed)
		c.conn.Close()
	})
	return nil
}

// DialContext connects to address from the host's side of the connection. The
// network is tcp or unix.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.conn.DialContext(ctx, network, address)
	if err != nil {
		if dead := c.Err(); dead != nil {
			return nil, dead
		}
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) && refused.Reason == ssh.Prohibited {
			return nil, fmt.Errorf("connect to %s through %s: its ssh server forbids forwarding (AllowTcpForwarding)", address, c.target)
		}
		return nil, fmt.Errorf("connect to %s through %s: %w", address, c.target, err)
	}
	return conn, nil
}

// ExitError says how a command ended.
type ExitError struct {
	Command string
	Status  int    // -1: killed by a signal, or the connection broke
	Signal  string // without SIG
	Stderr  string // the last of it
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Status)
	if e.Signal != "" {
		how = "killed by signal " + e.Signal
	}
	if e.Stderr == "" {
		return how
	}
	return how + ": " + e.Stderr
}

// Run runs a command of the login shell to its end. Stdin may be nil. A
// command that ends with another status than 0 gives an *ExitError. When the
// context ends the command gets SIGTERM and its channel is closed.
func (c *Client) Run(ctx context.Context, command string, stdin io.Reader) (stdout, stderr []byte, err error) {
	p, err := c.Start(ctx, command)
	if err != nil {
		return nil, nil, err
	}
	var out, errOut bytes.Buffer
	var readers sync.WaitGroup
	readers.Go(func() { _, _ = io.Copy(&out, p.Stdout) })
	readers.Go(func() { _, _ = io.Copy(&errOut, p.Stderr) })
	var inputErr error
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if stdin != nil {
			_, inputErr = io.Copy(p.Stdin, stdin)
		}
		p.Stdin.Close()
	}()
	readers.Wait()
	err = p.Wait()
	// A command may end without reading all it was given: its status counts.
	select {
	case <-fed:
		if err == nil && inputErr != nil && !errors.Is(inputErr, io.EOF) {
			err = fmt.Errorf("send input: %w", inputErr)
		}
	default:
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Command = command
		exit.Stderr = tail(errOut.String())
	}
	return out.Bytes(), errOut.Bytes(), err
}

// tail is the last lines of a command's complaint.
func tail(s string) string {
	s = strings.TrimSpace(s)
	const limit = 600
	if len(s) > limit {
		s = "…" + s[len(s)-limit:]
	}
	return s
}

// Process is a running command. Stdout and Stderr must both be read.
type Process struct {
	Stdin  io.WriteCloser
	Stdout io.Reader
	Stderr io.Reader

	session *ssh.Session
	client  *Client
	ctx     context.Context
	stop    func() bool
}

// Start starts a command. When the context ends it gets SIGTERM and its
// channel is closed.
func (c *Client) Start(ctx context.Context, command string) (*Process, error) {
	if err := c.Err(); err != nil {
		return nil, err
	}
	type opened struct {
		session *ssh.Session
		err     error
	}
	sessions := make(chan opened, 1)
	go func() {
		s, err := c.conn.NewSession()
		sessions <- opened{s, err}
	}()
	var session *ssh.Session
	select {
	case o := <-sessions:
		if o.err != nil {
			return nil, c.reason(fmt.Errorf("open an ssh session: %w", o.err))
		}
		session = o.session
	case <-ctx.Done():
		go func() {
			if o := <-sessions; o.session != nil {
				o.session.Close()
			}
		}()
		return nil, ctx.Err()
	case <-c.Done():
		return nil, c.Err()
	}
	p := &Process{session: session, client: c, ctx: ctx}
	var err error
	if p.Stdin, err = session.StdinPipe(); err == nil {
		if p.Stdout, err = session.StdoutPipe(); err == nil {
			p.Stderr, err = session.StderrPipe()
		}
	}
	if err == nil {
		p.stop = context.AfterFunc(ctx, func() {
			_ = session.Signal(ssh.SIGTERM)
			session.Close()
		})
		err = session.Start(command)
	}
	if err != nil {
		if p.stop != nil {
			p.stop()
		}
		session.Close()
		return nil, c.reason(fmt.Errorf("start a command: %w", err))
	}
	return p, nil
}

// Wait waits for the command's end, after Stdout and Stderr were read to their
// ends.
func (p *Process) Wait() error {
	err := p.session.Wait()
	p.stop()
	p.session.Close()
	if err == nil {
		return nil
	}
	if p.ctx.Err() != nil {
		return p.ctx.Err()
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return &ExitError{Status: exit.ExitStatus(), Signal: exit.Signal()}
	}
	return p.client.reason(err)
}

// Close abandons the command: its channel is closed, which ends most commands.
func (p *Process) Close() error {
	p.stop()
	return p.session.Close()
}

// reason prefers the connection's end as an explanation.
func (c *Client) reason(err error) error {
	if dead := c.Err(); dead != nil {
		return dead
	}
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		// The connection's end is noticed a moment after its sessions'.
		select {
		case <-c.Done():
			return c.Err()
		case <-time.After(2 * time.Second):
		}
	}
	return err
}

// Quote makes one word of a POSIX shell out of s.
func Quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
