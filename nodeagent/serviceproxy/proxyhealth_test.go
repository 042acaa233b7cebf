package serviceproxy

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestProxyHealth(t *testing.T) {
	const well, ill = http.StatusOK, http.StatusServiceUnavailable
	leaving := &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: leavingTaint}}}}
	deleted := &corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}
	for name, test := range map[string]struct {
		node           *corev1.Node
		events         func(h *proxyHealth, pass func(time.Duration))
		healthz, livez int
	}{
		"at first":               {&corev1.Node{}, func(*proxyHealth, func(time.Duration)) {}, well, well},
		"the first change waits": {&corev1.Node{}, func(h *proxyHealth, pass func(time.Duration)) { h.queued(ipv4); pass(2 * late) }, well, well},
		"all followed": {&corev1.Node{}, func(h *proxyHealth, pass func(time.Duration)) {
			h.queued(ipv4)
			h.followed(ipv4)
			pass(2 * late)
		}, well, well},
		"a change waits": {&corev1.Node{}, func(h *proxyHealth, pass func(time.Duration)) {
			h.followed(ipv4)
			h.queued(ipv4)
			pass(late - time.Second)
		}, well, well},
		"a change is late, and another not": {&corev1.Node{}, func(h *proxyHealth, pass func(time.Duration)) {
			h.followed(ipv4)
			h.queued(ipv4)
			pass(late)
			h.queued(ipv4)
		}, ill, ill},
		"late in one family": {&corev1.Node{}, func(h *proxyHealth, pass func(time.Duration)) {
			h.followed(ipv4)
			h.followed(ipv6)
			h.queued(ipv6)
			pass(late)
		}, ill, ill},
		"the node is leaving":   {leaving, func(*proxyHealth, func(time.Duration)) {}, ill, well},
		"the node is deleted":   {deleted, func(*proxyHealth, func(time.Duration)) {}, ill, well},
		"the node is not known": {nil, func(*proxyHealth, func(time.Duration)) {}, ill, well},
	} {
		now := time.Unix(1e9, 0)
		h := newProxyHealth(func() *corev1.Node { return test.node }, newMeters())
		h.now = func() time.Time { return now }
		test.events(h, func(d time.Duration) { now = now.Add(d) })
		for path, want := range map[string]int{"/healthz": test.healthz, "/livez": test.livez} {
			w := httptest.NewRecorder()
			h.serveHealth(w, httptest.NewRequest(http.MethodGet, path, nil))
			var got proxyStatus
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if w.Code != want || (got.NodeEligible != nil) != (path == "/healthz") || !got.CurrentTime.Equal(now) ||
				want == well && !got.LastUpdated.Equal(now) {
				t.Errorf("%s, %s: got %d, %s, want %d", name, path, w.Code, w.Body, want)
			}
		}
	}
}

func TestProxyHealthWaitsForItsPorts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		newProxyHealth(nil, newMeters()).listen(ctx, taken.Addr().String(), "127.0.0.1:0", "nftables", slog.New(slog.DiscardHandler))
	}()
	select {
	case <-done:
		t.Error("it gave up")
	case <-time.After(100 * time.Millisecond):
	}
	cancel()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("it does not end")
	}
}
