package integration

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// lateWatches passes requests on, and has what watches tell arrive late.
type lateWatches struct {
	next http.RoundTripper
	lags map[string]time.Duration // by path
}

func (l lateWatches) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.next.RoundTrip(request)
	lag := l.lags[request.URL.Path]
	if err == nil && lag > 0 && request.URL.Query().Has("watch") {
		response.Body = newLateBody(response.Body, lag)
	}
	return response, err
}

// lateBody hands out what it reads as much later as lag says, in the same order
// and without slowing who writes.
type lateBody struct {
	body   io.ReadCloser
	parts  chan latePart
	closed chan struct{}
	close  sync.Once
	rest   latePart // what Read has begun with
}

type latePart struct {
	due  time.Time
	data []byte
	err  error
}

func newLateBody(body io.ReadCloser, lag time.Duration) *lateBody {
	b := &lateBody{body: body, parts: make(chan latePart, 4096), closed: make(chan struct{})}
	go func() {
		for {
			data := make([]byte, 4096)
			n, err := body.Read(data)
			select {
			case b.parts <- latePart{time.Now().Add(lag), data[:n], err}:
			case <-b.closed:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return b
}

func (b *lateBody) Read(data []byte) (int, error) {
	for len(b.rest.data) == 0 {
		if b.rest.err != nil {
			return 0, b.rest.err
		}
		select {
		case b.rest = <-b.parts:
		case <-b.closed:
			return 0, io.ErrClosedPipe
		}
		select {
		case <-time.After(time.Until(b.rest.due)):
		case <-b.closed:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(data, b.rest.data)
	b.rest.data = b.rest.data[n:]
	return n, nil
}

func (b *lateBody) Close() error {
	b.close.Do(func() { close(b.closed) })
	return b.body.Close()
}
