package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialTimeout   = 3 * time.Second
	answerTimeout = 60 * time.Second // until a backend's headers
	mostTries     = 3                // endpoints that a request tries to connect to
	bufferSize    = 32 << 10
)

// statusClientGone is what is logged and counted when the client went away
// before there was an answer; nobody receives it.
const statusClientGone = 499

// proxy carries requests to endpoints. Safe for concurrent use.
type proxy struct {
	table   atomic.Pointer[table]
	maxBody int64 // bytes; 0: any size
	access  *slog.Logger
	metrics *Metrics

	reverse *httputil.ReverseProxy
}

type targetKey struct{}

// newProxy makes a proxy that has no routes yet. access may be nil: requests
// are not logged.
func newProxy(maxBody int64, access, log *slog.Logger, metrics *Metrics) *proxy {
	p := &proxy{maxBody: maxBody, access: access, metrics: metrics}
	p.table.Store(&table{})
	p.reverse = &httputil.ReverseProxy{
		Rewrite:      rewrite,
		Transport:    newBackends(),
		BufferPool:   &bufferPool{},
		ErrorHandler: p.failed,
		ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return p
}

// rewrite prepares the request for the backend: the host stays, and who asked
// is told in headers that a client cannot forge.
func rewrite(r *httputil.ProxyRequest) {
	r.SetXForwarded()
	r.Out.Host = r.In.Host
	r.Out.URL.Host = r.In.Host // the endpoint takes its place
	r.Out.URL.Scheme = "http"
	port := "80"
	if r.In.TLS != nil {
		port = "443"
	}
	r.Out.Header.Set("X-Forwarded-Port", port)
	r.Out.Header.Del("X-Real-Ip")
	if client, _, err := net.SplitHostPort(r.In.RemoteAddr); err == nil {
		r.Out.Header.Set("X-Real-Ip", client)
	}
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	answer := &answer{ResponseWriter: w}
	host := hostOf(r.Host)
	var to *target
	p.metrics.begin()
	defer func() {
		p.metrics.end(answer.code(), time.Since(began))
		if p.access == nil {
			return
		}
		name := ""
		if to != nil {
			name = to.name
		}
		// Queries often carry secrets: they are left out.
		p.access.Info("request", "client", r.RemoteAddr, "method", r.Method, "host", host, "path", r.URL.Path,
			"protocol", r.Proto, "tls", r.TLS != nil, "backend", name, "status", answer.code(), "bytes", answer.bytes,
			"duration", time.Since(began))
	}()
	if r.Method == http.MethodConnect || len(r.URL.Path) == 0 || r.URL.Path[0] != '/' {
		http.Error(answer, "cannot be proxied", http.StatusBadRequest)
		return
	}
	to = p.table.Load().match(host, r.URL.Path)
	switch {
	case to == nil:
		http.Error(answer, "no ingress for this host and path", http.StatusNotFound)
		return
	case len(to.endpoints) == 0:
		http.Error(answer, "no endpoint is ready", http.StatusServiceUnavailable)
		return
	case p.maxBody > 0 && r.ContentLength > p.maxBody:
		http.Error(answer, "the body is too large", http.StatusRequestEntityTooLarge)
		return
	}
	if p.maxBody > 0 && r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(answer.ResponseWriter, r.Body, p.maxBody)
	}
	p.reverse.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), targetKey{}, to)))
}

// failed answers a request that no backend answered.
func (p *proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
	case r.Context().Err() != nil:
		w.WriteHeader(statusClientGone)
	case errors.As(err, &timeout) && timeout.Timeout():
		http.Error(w, "the backend does not answer in time", http.StatusGatewayTimeout)
	default:
		http.Error(w, "the backend cannot be reached", http.StatusBadGateway)
	}
}

// backends sends requests to the endpoints of the target in their context.
type backends map[protocol]http.RoundTripper

func newBackends() backends {
	transport := func(adapt func(*http.Transport)) *http.Transport {
		t := &http.Transport{
			DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   dialTimeout,
			ResponseHeaderTimeout: answerTimeout,
			ExpectContinueTimeout: time.Second,
			IdleConnTimeout:       30 * time.Second,
			MaxIdleConns:          1024,
			MaxIdleConnsPerHost:   64,
			DisableCompression:    true, // what the client asked for passes as it is
			Protocols:             new(http.Protocols),
		}
		adapt(t)
		return t
	}
	return backends{
		protocolHTTP: transport(func(t *http.Transport) { t.Protocols.SetHTTP1(true) }),
		protocolH2C:  transport(func(t *http.Transport) { t.Protocols.SetUnencryptedHTTP2(true) }),
		protocolHTTPS: transport(func(t *http.Transport) {
			t.Protocols.SetHTTP1(true)
			// An Ingress has no place to say whom to trust, and an endpoint's
			// certificate does not have its address.
			t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
		}),
	}
}

// RoundTrip tries another endpoint where one cannot be connected to: nothing of
// the request has been sent then. The body is closed by the caller, since it may
// still be on its way when the answer begins.
func (b backends) RoundTrip(r *http.Request) (*http.Response, error) {
	to, _ := r.Context().Value(targetKey{}).(*target)
	if to == nil || len(to.endpoints) == 0 {
		return nil, errors.New("the request has no endpoint")
	}
	var response *http.Response
	var err error
	for _, endpoint := range to.order(mostTries) {
		try := r.WithContext(r.Context())
		u := *r.URL
		u.Host = endpoint
		if to.protocol == protocolHTTPS {
			u.Scheme = "https"
		}
		try.URL = &u
		if r.Body != nil && r.Body != http.NoBody {
			try.Body = io.NopCloser(r.Body) // a transport closes it when it cannot connect
		}
		response, err = b[to.protocol].RoundTrip(try)
		var dial *net.OpError
		if err == nil || r.Context().Err() != nil || !errors.As(err, &dial) || dial.Op != "dial" {
			break
		}
	}
	return response, err
}

// answer notes what a client was told.
type answer struct {
	http.ResponseWriter
	status int // 0: nothing yet
	bytes  int64
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// Unwrap lets connections be flushed and taken over.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) code() int {
	if a.status == 0 {
		return statusClientGone
	}
	return a.status
}

type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, bufferSize)
}

func (b *bufferPool) Put(buffer []byte) { b.pool.Put(&buffer) }
