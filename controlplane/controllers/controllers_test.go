package controllers

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"clusterctl/hostconfig"
)

func TestTableNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range table {
		if seen[row.name] {
			t.Errorf("%s is there twice", row.name)
		}
		seen[row.name] = true
	}
}

func TestRunNamesTheControllerThatFails(t *testing.T) {
	config := Config{
		REST:    &rest.Config{Host: "http://127.0.0.1:1", QPS: -1},
		Cluster: hostconfig.Cluster{PodCIDR: "nonsense", NodeMaskSize: 24},
		Logger:  slog.New(slog.DiscardHandler),
	}
	if err := Run(context.Background(), config); err == nil || !strings.Contains(err.Error(), "controller nodeipam: parse pod network") {
		t.Errorf("got %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	config := Config{
		REST:    &rest.Config{Host: server.URL, QPS: -1},
		Cluster: hostconfig.Cluster{PodCIDR: "10.244.0.0/16", NodeMaskSize: 24},
		Logger:  slog.New(slog.DiscardHandler),
	}
	ctx, stop := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, config) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("does not end while its informers cannot sync")
	}
}
