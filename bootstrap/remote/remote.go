package remote

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"clusterctl/bootstrap/ssh"
	"clusterctl/hostop"
)

// How long things may take.
const (
	startLimit = 20 * time.Second // from starting the hand to its greeting
	stopLimit  = 10 * time.Second // from the end of its input to its end
	signEvery  = hostop.SilenceLimit / 6
)

// Remote is a hand at work on a host. Its methods are safe for concurrent use;
// calls queue up, since a hand does one thing at a time.
type Remote struct {
	client *ssh.Client
	root   *ssh.Root
	wire   *wire
	arch   string
	once   sync.Once
}

// Connect logs in, makes sure that the hand is there, and starts it. The
// context bounds that only.
func Connect(ctx context.Context, dialer *ssh.Dialer, target ssh.Target, hand *Hand) (*Remote, error) {
	client, err := dialer.Dial(ctx, target)
	if err != nil {
		return nil, err
	}
	r, err := begin(ctx, client, hand)
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("%s: %w", client.Target(), err)
	}
	return r, nil
}

func begin(ctx context.Context, client *ssh.Client, hand *Hand) (*Remote, error) {
	f, root, err := hand.probe(ctx, client)
	if err != nil {
		return nil, err
	}
	if f.hand == "" {
		compressed, err := hand.compressed(f.arch)
		if err != nil {
			return nil, err
		}
		out, _, err := root.Run(ctx, "sh -c "+ssh.Quote(hand.put(f.arch)), bytes.NewReader(compressed))
		if err != nil {
			return nil, fmt.Errorf("upload the hand: %w", err)
		}
		lines := strings.Fields(string(out))
		if len(lines) == 0 {
			return nil, errors.New("upload the hand: the host did not say where it is")
		}
		f.hand = lines[len(lines)-1]
	}
	// The session outlives ctx, which is for connecting.
	process, err := root.Start(context.WithoutCancel(ctx), ssh.Quote(f.hand)+" host serve")
	if err != nil {
		return nil, fmt.Errorf("start the hand: %w", err)
	}
	r := &Remote{client: client, root: root, arch: f.arch}
	r.wire = newWire(process)
	greeting, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	hello, err := r.wire.greeting(greeting)
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("start the hand: %w", err)
	}
	if hello.Protocol != hostop.Protocol {
		r.Close()
		return nil, fmt.Errorf("start the hand: it speaks protocol %d, clusterctl %d", hello.Protocol, hostop.Protocol)
	}
	return r, nil
}

// Call asks the hand for one thing and waits for its answer. Body has
// request.BodySize bytes; it may be nil where that is 0. The request's ID is
// set here. Events are passed to onEvent (may be nil) in order, before Call
// returns.
//
// When ctx ends, the hand is told to stop: it brings what it does to a safe
// point and exits, so that no later Call succeeds.
func (r *Remote) Call(ctx context.Context, request hostop.Request, body io.Reader, onEvent func(hostop.Event)) (json.RawMessage, error) {
	result, err := r.wire.call(ctx, request, body, onEvent)
	if err != nil && r.client.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w (while it did %q)", r.client.Err(), request.Method)
	}
	return result, err
}

// Arch is the host's GOARCH.
func (r *Remote) Arch() string { return r.arch }

// Target names the connection: user@address.
func (r *Remote) Target() string { return r.client.Target() }

// Done is closed when the hand or the connection has ended.
func (r *Remote) Done() <-chan struct{} { return r.wire.ended }

// DialHost connects to address as seen from the host, for clients that can
// reach the cluster through SSH only. The network is tcp or unix.
func (r *Remote) DialHost(ctx context.Context, network, address string) (net.Conn, error) {
	return r.client.DialContext(ctx, network, address)
}

// Close ends the hand, waiting a little for it to reach a safe point, and the
// connection.
func (r *Remote) Close() error {
	r.once.Do(func() {
		r.wire.stop(stopLimit)
		r.client.Close()
	})
	return nil
}

// wire is the conversation with a hand.
type wire struct {
	in   io.WriteCloser
	hung sync.Once     // in is closed
	kill func()        // ends the session
	turn chan struct{} // holds one token: whose call it is

	writing sync.Mutex // requests with bodies, and signs of life between them
	nextID  int

	responses chan hostop.Response
	abandoned chan struct{} // closed when nobody takes responses any more
	abandon   sync.Once
	ended     chan struct{} // closed when no more responses come
	fault     error         // why; set before ended is closed

	stderr tailBuffer
}

func newWire(p *ssh.Process) *wire {
	w := &wire{in: p.Stdin, kill: func() { p.Close() }, turn: make(chan struct{}, 1), responses: make(chan hostop.Response), abandoned: make(chan struct{}), ended: make(chan struct{})}
	w.turn <- struct{}{}
	said := make(chan struct{})
	go func() {
		defer close(said)
		_, _ = io.Copy(&w.stderr, p.Stderr)
	}()
	go func() {
		if err := w.read(p.Stdout); err != nil {
			w.fault = fmt.Errorf("talk to the hand: %w", err)
			close(w.ended)
			w.hangUp()
		}
		// Whatever else comes is of no use, but must not block the hand.
		_, _ = io.Copy(io.Discard, p.Stdout)
		<-said
		err := p.Wait()
		if w.fault == nil {
			w.fault = ending(err, strings.TrimSpace(w.stderr.String()))
			close(w.ended)
		}
	}()
	go w.live()
	return w
}

// read passes responses on until the hand says no more.
func (w *wire) read(out io.Reader) error {
	r := bufio.NewReaderSize(out, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 && err == nil {
			var response hostop.Response
			if jsonErr := json.Unmarshal(line, &response); jsonErr != nil {
				return fmt.Errorf("it said something else than a response: %.100q", line)
			}
			select {
			case w.responses <- response:
			case <-w.abandoned:
				return nil
			}
		}
		if err != nil {
			return nil
		}
	}
}

// ending says how a hand ended: its status, and what it complained about.
func ending(err error, said string) error {
	switch {
	case err != nil && said != "":
		return fmt.Errorf("the hand ended: %w: %s", err, said)
	case err != nil:
		return fmt.Errorf("the hand ended: %w", err)
	case said != "":
		return fmt.Errorf("the hand ended: %s", said)
	}
	return errors.New("the hand ended")
}

// live sends a sign of life while nothing else is being sent.
func (w *wire) live() {
	ticker := time.NewTicker(signEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if w.writing.TryLock() {
				_, _ = io.WriteString(w.in, "\n") // a broken pipe is noticed by the reader
				w.writing.Unlock()
			}
		case <-w.ended:
			return
		}
	}
}

func (w *wire) greeting(ctx context.Context) (hostop.Hello, error) {
	var hello hostop.Hello
	select {
	case r := <-w.responses:
		if err := json.Unmarshal(r.Result, &hello); err != nil || r.ID != 0 {
			return hello, errors.New("it did not greet")
		}
		return hello, nil
	case <-w.ended:
		return hello, w.fault
	case <-ctx.Done():
		return hello, fmt.Errorf("no greeting: %w", ctx.Err())
	}
}

func (w *wire) call(ctx context.Context, request hostop.Request, body io.Reader, onEvent func(hostop.Event)) (json.RawMessage, error) {
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.ended:
		return nil, w.fault
	}
	w.nextID++
	request.ID = w.nextID
	line, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- w.send(append(line, '\n'), body, request.BodySize) }()
	for {
		select {
		case r := <-w.responses:
			switch {
			case r.ID != request.ID:
				// An answer to a call that was given up.
			case r.Event != nil && onEvent != nil:
				onEvent(*r.Event)
			case r.Done:
				if r.Error != "" {
					return nil, errors.New(r.Error)
				}
				return r.Result, nil
			}
		case err := <-sent:
			if err != nil {
				w.stop(0)
				return nil, err
			}
		case <-w.ended:
			return nil, w.fault
		case <-ctx.Done():
			w.stop(stopLimit)
			return nil, ctx.Err()
		}
	}
}

// send writes a request and its body. A body that is shorter than promised
// leaves the wire unusable.
func (w *wire) send(line []byte, body io.Reader, size int64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if _, err := w.in.Write(line); err != nil {
		return nil // the reader tells why the hand ended
	}
	if size == 0 {
		return nil
	}
	source := &noting{r: body}
	n, _ := io.Copy(w.in, io.LimitReader(source, size))
	switch {
	case source.err != nil && !errors.Is(source.err, io.EOF):
		return fmt.Errorf("send body: %w", source.err)
	case source.err != nil && n < size:
		return fmt.Errorf("send body: it has %d of %d bytes", n, size)
	}
	return nil // where writing failed the reader tells why
}

// noting remembers a reader's error, to tell it from a writer's.
type noting struct {
	r   io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	count, err := n.r.Read(p)
	if err != nil {
		n.err = err
	}
	return count, err
}

// stop ends the hand's input and waits for its end, taking in what it still
// says.
func (w *wire) stop(limit time.Duration) {
	w.hangUp()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-w.ended:
			return
		case <-timer.C:
			w.abandon.Do(func() { close(w.abandoned) })
			return
		case <-w.responses:
		}
	}
}

// hangUp ends the hand's input. In the middle of a body that takes closing the
// session, which the hand sees as the same.
func (w *wire) hangUp() {
	if !w.writing.TryLock() {
		w.kill()
		return
	}
	defer w.writing.Unlock()
	w.hung.Do(func() { w.in.Close() })
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	raw []byte
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.raw = append(t.raw, p...)
	if n := len(t.raw); n > 2000 {
		t.raw = append([]byte(nil), t.raw[n-1000:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.raw)
}
