package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc/test/bufconn"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"clusterctl/controlplane/auth/authn"
)

// inProcess serves clients of the same process over memory: one HTTP/2
// connection for all of them, without TLS, each with a token of its own.
type inProcess struct {
	identities authn.Identities
	listener   *bufconn.Listener
	transport  *http.Transport
}

// inProcessBuffer is how many bytes one direction holds before a writer waits.
const inProcessBuffer = 64 << 10

func newInProcess() *inProcess {
	p := &inProcess{listener: bufconn.Listen(inProcessBuffer)}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	p.transport = &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.listener.DialContext(ctx)
		},
	}
	return p
}

// config is a client configuration that authenticates as user in groups.
func (p *inProcess) config(user string, groups ...string) *rest.Config {
	return &rest.Config{
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
		Host:        "http://in-process",
		Transport:   p.transport,
		BearerToken: p.identities.Token(user, groups...),
		UserAgent:   rest.DefaultKubernetesUserAgent(),
		QPS:         -1, // the server's own limits hold
	}
}

// serve answers with handler until ctx ends. Requests in flight get a second.
func (p *inProcess) serve(ctx context.Context, handler http.Handler, logger *slog.Logger) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 10_000},
		ReadHeaderTimeout: 32 * time.Second,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(last) != nil {
			// What is still open now is cut off; there is nobody to tell.
			_ = server.Close()
		}
	}()
	if err := server.Serve(p.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		logger.Error("In-process listener failed", "error", err)
	}
	<-stopped
	p.transport.CloseIdleConnections()
}
