package leader

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func options(identity string) Options {
	return Options{Name: "work", Namespace: "kube-system", Identity: identity, Logger: slog.New(slog.DiscardHandler)}
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("waited in vain for %s", what)
	}
}

// The clock of these tests is theirs (synctest), where a leader would lose its
// lease on a machine that is busy enough.

func TestHandover(t *testing.T) { synctest.Test(t, testHandover) }

func testHandover(t *testing.T) {
	client := fake.NewClientset()
	first, stopFirst := context.WithCancel(context.Background())
	second, stopSecond := context.WithCancel(context.Background())
	defer stopSecond()
	leads1, leads2 := make(chan struct{}), make(chan struct{})
	ended1, ended2 := make(chan struct{}), make(chan struct{})
	var stillRunning atomic.Bool
	go func() {
		defer close(ended1)
		if err := Run(first, client, options("one"), func(ctx context.Context) error {
			stillRunning.Store(true)
			close(leads1)
			<-ctx.Done()
			time.Sleep(200 * time.Millisecond)
			stillRunning.Store(false)
			return nil
		}); err != nil {
			t.Errorf("first: %v", err)
		}
	}()
	await(t, "the first leader", leads1)
	go func() {
		defer close(ended2)
		if err := Run(second, client, options("two"), func(ctx context.Context) error {
			if stillRunning.Load() {
				t.Error("the second leader started beside the first")
			}
			close(leads2)
			<-ctx.Done()
			return ctx.Err()
		}); err != nil {
			t.Errorf("second: %v", err)
		}
	}()
	select {
	case <-leads2:
		t.Fatal("two leaders")
	case <-time.After(300 * time.Millisecond):
	}
	stopFirst()
	await(t, "the end of the first", ended1)
	start := time.Now()
	await(t, "the second leader", leads2)
	if waited := time.Since(start); waited >= shortestLease-stopBefore {
		t.Errorf("the successor waited %s, as if the lease had not been released", waited)
	}
	stopSecond()
	await(t, "the end of the second", ended2)
	lease, err := client.CoordinationV1().Leases("kube-system").Get(context.Background(), "work", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if h := lease.Spec.HolderIdentity; h != nil && *h != "" {
		t.Errorf("lease still held by %q", *h)
	}
}

func TestRunErrorEndsElection(t *testing.T) {
	for name, test := range map[string]struct {
		result error
		want   string
	}{
		"error": {errors.New("boom"), "lead work: boom"},
		"nil":   {nil, "ended by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Run(context.Background(), fake.NewClientset(), options("one"), func(context.Context) error { return test.result })
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestLostLeaseIsRegained(t *testing.T) { synctest.Test(t, testLostLeaseIsRegained) }

func testLostLeaseIsRegained(t *testing.T) {
	client := fake.NewClientset()
	var broken atomic.Bool
	client.PrependReactor("*", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		if broken.Load() {
			return true, nil, errors.New("unreachable")
		}
		return false, nil, nil
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	terms := 0
	err := Run(ctx, client, options("one"), func(ctx context.Context) error {
		terms++
		if terms == 2 {
			stop()
			return nil
		}
		broken.Store(true)
		<-ctx.Done() // the lease could not be renewed
		broken.Store(false)
		return ctx.Err()
	})
	if err != nil || terms != 2 {
		t.Errorf("err %v, %d terms", err, terms)
	}
}

func TestCancelWhileWaiting(t *testing.T) { synctest.Test(t, testCancelWhileWaiting) }

func testCancelWhileWaiting(t *testing.T) {
	client := fake.NewClientset()
	holder, stopHolder := context.WithCancel(context.Background())
	defer stopHolder()
	leads := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- Run(holder, client, options("one"), func(ctx context.Context) error {
			close(leads)
			<-ctx.Done()
			return nil
		})
	}()
	await(t, "the leader", leads)
	ctx, stop := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer stop()
	if err := Run(ctx, client, options("two"), func(context.Context) error {
		t.Error("ran without the lease")
		return nil
	}); err != nil {
		t.Error(err)
	}
	stopHolder()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
