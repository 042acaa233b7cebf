// Package controllertest lets controllers' tests run them over fake clients.
package controllertest

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"clusterctl/controlplane/controllers/reconcile"
)

// Fixture is an environment over fake clients.
type Fixture struct {
	Client   *fake.Clientset
	Metadata *metadatafake.FakeMetadataClient
	Env      *reconcile.Environment
}

// New makes a fixture in which objects exist.
func New(t *testing.T, objects ...runtime.Object) *Fixture {
	t.Helper()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	f := &Fixture{Client: fake.NewClientset(objects...), Metadata: metadatafake.NewSimpleMetadataClient(scheme)}
	// The fake server gives no names, no UIDs and no resource versions, by which
	// controllers know a stale cache.
	var writes atomic.Int64
	write := func(action clienttesting.Action) (bool, runtime.Object, error) {
		// UpdateAction has the same method.
		o, ok := action.(clienttesting.CreateAction).GetObject().(metav1.Object)
		if !ok {
			return false, nil, nil
		}
		n := writes.Add(1)
		if o.GetName() == "" {
			o.SetName(fmt.Sprintf("%s%d", o.GetGenerateName(), n))
		}
		if o.GetUID() == "" {
			o.SetUID(types.UID(fmt.Sprint("uid-", n)))
		}
		o.SetResourceVersion(fmt.Sprint(n))
		return false, nil, nil
	}
	f.Client.PrependReactor("create", "*", write)
	f.Client.PrependReactor("update", "*", write)
	env, err := reconcile.NewEnvironment(f.Client, f.Metadata, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	f.Env = env
	return f
}

// Start starts the informers and then the controllers, which must have been
// made before, and stops all of them when the test ends.
func (f *Fixture) Start(t *testing.T, controllers ...reconcile.Controller) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f.Env.Start(ctx)
	syncing, synced := context.WithTimeout(ctx, 10*time.Second)
	defer synced()
	if err := f.Env.Sync(syncing); err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, len(controllers))
	for _, c := range controllers {
		go func() { done <- c.Run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range controllers {
			if err := <-done; err != nil {
				t.Errorf("controller ended with %v", err)
			}
		}
		f.Env.Close()
	})
}

// Eventually waits for check to be true.
func Eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
