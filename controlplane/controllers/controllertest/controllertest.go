package controllertest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	for _, o := range objects {
		if o, ok := o.(metav1.Object); ok {
			o.SetResourceVersion("1")
		}
	}
	f := &Fixture{Client: fake.NewClientset(objects...), Metadata: metadatafake.NewSimpleMetadataClient(scheme)}
	versionWrites(f.Client)
	env, err := reconcile.NewEnvironment(f.Client, f.Metadata, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	f.Env = env
	return f
}

// versionWrites gives the fake server what it lacks and controllers stand on:
// names, UIDs, and resource versions that grow and refuse a write to what has
// changed in between.
func versionWrites(client *fake.Clientset) {
	var mu sync.Mutex
	last := 1
	reaction := clienttesting.ObjectReaction(client.Tracker())
	client.PrependReactor("create", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		o, ok := action.(clienttesting.CreateAction).GetObject().(metav1.Object)
		if !ok || action.GetSubresource() != "" {
			return false, nil, nil
		}
		mu.Lock()
		defer mu.Unlock()
		last++
		if o.GetName() == "" {
			o.SetName(fmt.Sprintf("%s%d", o.GetGenerateName(), last))
		}
		if o.GetUID() == "" {
			o.SetUID(types.UID(fmt.Sprint("uid-", last)))
		}
		o.SetResourceVersion(fmt.Sprint(last))
		return reaction(action)
	})
	client.PrependReactor("update", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		o, ok := action.(clienttesting.UpdateAction).GetObject().(metav1.Object)
		if !ok {
			return false, nil, nil
		}
		mu.Lock()
		defer mu.Unlock()
		if former, err := client.Tracker().Get(action.GetResource(), action.GetNamespace(), o.GetName()); err == nil {
			if v := former.(metav1.Object).GetResourceVersion(); o.GetResourceVersion() != "" && o.GetResourceVersion() != v {
				return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), o.GetName(), fmt.Errorf("it is at %s by now", v))
			}
			if o.GetUID() == "" {
				o.SetUID(former.(metav1.Object).GetUID())
			}
		}
		last++
		o.SetResourceVersion(fmt.Sprint(last))
		return reaction(action)
	})
	client.PrependReactor("patch", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		handled, patched, err := reaction(action)
		o, ok := patched.(metav1.Object)
		if err != nil || !ok {
			return handled, patched, err
		}
		last++
		o.SetResourceVersion(fmt.Sprint(last))
		return handled, patched, client.Tracker().Update(action.GetResource(), patched, action.GetNamespace())
	})
}

// Start starts the informers and then the controllers, which must have been
// made before, and stops all of them when the test ends.
func (f *Fixture) Start(t *testing.T, controllers ...reconcile.Controller) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f.Env.Start(ctx)
	syncing, synced := context.WithTimeout(ctx, time.Minute)
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
	for deadline := time.Now().Add(time.Minute); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
