package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"clusterctl/hostop"
)

// maxRequest bounds one line of the wire, in bytes. Operations carry files and
// manifests; blobs travel as bodies.
const maxRequest = 64 << 20

// errEnded says that the caller is gone.
var errEnded = errors.New("standard input ended")

// Serve answers requests from in on out until in ends, in is silent for too
// long, or ctx is done. An operation under way when that happens runs to its
// next safe point. The error is nil when the input ended between two requests.
func (h *Hand) Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer h.Close()

	w := &responder{out: out, broken: cancel}
	hello, err := json.Marshal(hostop.Hello{Protocol: hostop.Protocol, Version: h.version, PID: os.Getpid()})
	if err != nil {
		return fmt.Errorf("encode greeting: %w", err)
	}
	w.send(hostop.Response{Done: true, Result: hello})

	silence := time.AfterFunc(hostop.SilenceLimit, func() {
		cancel(fmt.Errorf("nothing heard from clusterctl for %s", hostop.SilenceLimit))
	})
	defer silence.Stop()
	requests := make(chan *incoming)
	go func() {
		r := bufio.NewReaderSize(&heard{in, silence}, 64<<10)
		for {
			request, err := readRequest(r)
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = errEnded
				}
				cancel(err)
				return
			}
			select {
			case requests <- request:
			case <-ctx.Done():
				return
			}
			<-request.body.finished
		}
	}()
	for {
		select {
		case request := <-requests:
			h.answer(ctx, request, w)
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, errEnded) {
				return err
			}
			return nil
		}
	}
}

// incoming is a request and the raw bytes that follow it.
type incoming struct {
	hostop.Request
	fault error // what is wrong with the request; it is answered with that
	body  *body
}

// readRequest reads the next request, skipping empty lines. A line that is too
// long or is not a request at all is an error, since what follows it cannot be
// trusted; a request with an operation this hand does not know is a fault,
// answered like any other failure.
func readRequest(r *bufio.Reader) (*incoming, error) {
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		request := &incoming{}
		if err := json.Unmarshal(line, &request.Request); err != nil {
			var frame struct {
				ID       int   `json:"id"`
				BodySize int64 `json:"bodySize"`
			}
			if json.Unmarshal(line, &frame) != nil || frame.ID < 1 {
				return nil, fmt.Errorf("read request: %w", err)
			}
			request.Request = hostop.Request{ID: frame.ID, BodySize: frame.BodySize}
			request.fault = err
		}
		if request.ID < 1 || request.BodySize < 0 {
			return nil, fmt.Errorf("read request: id %d with a body of %d bytes", request.ID, request.BodySize)
		}
		request.body = newBody(r, request.BodySize)
		return request, nil
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxRequest {
			return nil, fmt.Errorf("read request: line longer than %d bytes", maxRequest)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(line)) > 0:
			return nil, fmt.Errorf("read request: %w", io.ErrUnexpectedEOF)
		default:
			return nil, err
		}
	}
}

// body is the raw bytes behind a request. Reading the next request waits until
// it is finished: read to its end, or drained.
type body struct {
	r        io.Reader
	left     int64
	finished chan struct{}
	once     sync.Once
}

func newBody(r io.Reader, size int64) *body {
	b := &body{r: r, left: size, finished: make(chan struct{})}
	if size == 0 {
		b.finish()
	}
	return b
}

func (b *body) finish() { b.once.Do(func() { close(b.finished) }) }

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	if err != nil || b.left == 0 {
		if errors.Is(err, io.EOF) && b.left > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			b.left = 0
		}
		b.finish()
	}
	return n, err
}

func (b *body) drain() {
	_, _ = io.Copy(io.Discard, b)
	b.finish()
}

// heard puts off the silence timer with every byte.
type heard struct {
	r     io.Reader
	timer *time.Timer
}

func (s *heard) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if n > 0 {
		s.timer.Reset(hostop.SilenceLimit)
	}
	return n, err
}

// responder writes responses, each one line.
type responder struct {
	mu     sync.Mutex
	out    io.Writer
	broken func(error)
}

func (w *responder) send(r hostop.Response) {
	line, err := json.Marshal(r)
	if err != nil {
		line, _ = json.Marshal(hostop.Response{ID: r.ID, Done: r.Done, Error: "encode response: " + err.Error()})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.out.Write(append(line, '\n')); err != nil {
		w.broken(fmt.Errorf("write response: %w", err))
	}
}

// answer carries out one request.
func (h *Hand) answer(ctx context.Context, request *incoming, w *responder) {
	defer request.body.drain()
	if request.Method != hostop.MethodDial {
		h.closeListeners()
	}
	response := hostop.Response{ID: request.ID, Done: true}
	emit := func(e hostop.Event) { w.send(hostop.Response{ID: request.ID, Event: &e}) }
	result, err := any(nil), request.fault
	if err == nil {
		result, err = h.handle(ctx, request, emit)
	}
	if err == nil && result != nil {
		response.Result, err = json.Marshal(result)
	}
	if err != nil {
		response.Error = err.Error()
	}
	request.body.drain()
	w.send(response)
}

// handle finds the method and runs it.
func (h *Hand) handle(ctx context.Context, request *incoming, emit func(hostop.Event)) (any, error) {
	switch request.Method {
	case hostop.MethodFacts:
		return h.Facts(ctx)
	case hostop.MethodCheck:
		return nil, h.checkAll(ctx, request.Ops, emit)
	case hostop.MethodApply:
		return nil, h.applyAll(ctx, request.Ops, emit)
	case hostop.MethodHave:
		digests, err := params[[]string](request)
		if err != nil {
			return nil, err
		}
		return h.missingBlobs(digests)
	case hostop.MethodPut:
		put, err := params[hostop.PutParams](request)
		if err != nil {
			return nil, err
		}
		return nil, h.putBlob(put.Digest, request.body)
	case hostop.MethodImportImage:
		return h.importArchive(ctx, request.body)
	case hostop.MethodAuthorities:
		return h.readAuthorities()
	case hostop.MethodEncryption:
		return h.readEncryption()
	case hostop.MethodAdmin:
		return h.readAdmin()
	case hostop.MethodListen:
		ports, err := params[hostop.ListenParams](request)
		if err != nil {
			return nil, err
		}
		return h.listen(ctx, ports)
	case hostop.MethodDial:
		dial, err := params[hostop.DialParams](request)
		if err != nil {
			return nil, err
		}
		return h.dial(ctx, dial), nil
	case hostop.MethodEtcd:
		return h.etcdStatus(ctx)
	case hostop.MethodLock:
		lock, err := params[hostop.LockParams](request)
		if err != nil {
			return nil, err
		}
		return nil, h.takeLock(lock.Holder)
	case hostop.MethodJournal:
		journal, err := params[hostop.JournalParams](request)
		if err != nil {
			return nil, err
		}
		return h.init.Journal(ctx, journal.Unit, journal.Lines)
	case hostop.MethodReset:
		return nil, h.Reset(ctx, func(what string) {
			emit(hostop.Event{Op: -1, State: hostop.StateChanged, Detail: what})
		})
	}
	return nil, fmt.Errorf("method %q is not known to this hand (version %s)", request.Method, h.version)
}

func params[T any](request *incoming) (T, error) {
	var p T
	if err := json.Unmarshal(request.Params, &p); err != nil {
		return p, fmt.Errorf("decode parameters of %s: %w", request.Method, err)
	}
	return p, nil
}

// checkAll emits one event for each operation. An operation that cannot be
// checked yet (its daemon is not there) differs.
func (h *Hand) checkAll(ctx context.Context, ops hostop.Ops, emit func(hostop.Event)) error {
	for i, op := range ops {
		if err := ctx.Err(); err != nil {
			return stopped(ctx, i, len(ops))
		}
		differs, err := h.Check(ctx, op)
		if err != nil {
			differs = oneLine(err.Error())
		}
		state := hostop.StateInPlace
		if differs != "" {
			state = hostop.StateDiffers
		}
		emit(hostop.Event{Op: i, State: state, Detail: differs})
	}
	return nil
}

// applyAll applies in order and stops at the first failure.
func (h *Hand) applyAll(ctx context.Context, ops hostop.Ops, emit func(hostop.Event)) error {
	for i, op := range ops {
		if err := ctx.Err(); err != nil {
			return stopped(ctx, i, len(ops))
		}
		changed, err := h.Apply(ctx, op, func(detail string) {
			emit(hostop.Event{Op: i, State: hostop.StateRunning, Detail: oneLine(detail)})
		})
		switch {
		case err != nil:
			err = fmt.Errorf("%s: %w", op.Describe(), err)
			emit(hostop.Event{Op: i, State: hostop.StateFailed, Error: err.Error()})
			return err
		case changed:
			emit(hostop.Event{Op: i, State: hostop.StateChanged})
		default:
			emit(hostop.Event{Op: i, State: hostop.StateInPlace})
		}
	}
	return nil
}

func stopped(ctx context.Context, done, all int) error {
	return fmt.Errorf("stopped after %d of %d operations: %w", done, all, context.Cause(ctx))
}
