package apilb

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// patience is how long a connection is held while no server answers. A client
// that is refused waits longer and longer before it tries again; one that is
// held goes on the moment that a server is back. Clients give up a TLS handshake
// after ten seconds.
const (
	patience = 15 * time.Second
	tryAgain = 200 * time.Millisecond
)

// pass connects a client with the first server that answers, and returns when
// both are done with each other.
func (b *balancer) pass(ctx context.Context, client net.Conn) {
	defer client.Close()
	for deadline := time.Now().Add(b.patience); ; {
		if b.passOnce(ctx, client) || time.Now().After(deadline) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(tryAgain):
		}
	}
}

// passOnce tries every server; it reports whether one answered.
func (b *balancer) passOnce(ctx context.Context, client net.Conn) bool {
	for _, s := range b.order() {
		dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
		upstream, err := b.dial(dialCtx, s.address)
		cancel()
		b.report(s, err)
		if err != nil {
			if ctx.Err() != nil {
				return false
			}
			continue
		}
		if !b.hold(s, client) {
			upstream.Close()
			continue
		}
		join(client, upstream)
		b.release(s, client)
		return true
	}
	return false
}

// hold notes that the client's connection is passed to the server, which may
// have been taken off the list meanwhile.
func (b *balancer) hold(s *server, client net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.down {
		return false
	}
	s.conns[client] = struct{}{}
	return true
}

func (b *balancer) release(s *server, client net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(s.conns, client)
}

// join copies in both directions until both have ended or one has failed. The
// kernel moves the bytes (splice): no buffer of ours is held.
func join(client, upstream net.Conn) {
	done := make(chan bool, 2)
	one := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		done <- err == nil
	}
	go one(upstream, client)
	go one(client, upstream)
	if clean := <-done; !clean {
		client.Close()
		upstream.Close()
		<-done
		return
	}
	<-done
	client.Close()
	upstream.Close()
}

func shuffle[T any](list []T) {
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}
