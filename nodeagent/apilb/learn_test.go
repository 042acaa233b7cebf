package apilb

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func slice(name string, port int32, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Ports:      []discoveryv1.EndpointPort{{Port: &port}},
	}
	for _, address := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}})
	}
	return s
}

func TestLearn(t *testing.T) {
	unready := slice("kubernetes", 6443, "10.0.0.7", "10.0.0.3")
	unready.Endpoints[0].Conditions.Ready = new(false)
	for name, test := range map[string]struct {
		slice *discoveryv1.EndpointSlice
		want  []string // nil: no news
	}{
		"the same":    {slice("kubernetes", 6443, "10.0.0.2", "10.0.0.1"), nil},
		"one more":    {slice("kubernetes", 6443, "10.0.0.3", "10.0.0.1", "10.0.0.2"), []string{"10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:6443"}},
		"one is down": {slice("kubernetes", 6443, "10.0.0.1"), nil},
		"others":      {slice("kubernetes", 7443, "10.0.0.1", "fd00::1"), []string{"10.0.0.1:6443", "10.0.0.1:7443", "10.0.0.2:6443", "[fd00::1]:7443"}},
		"not ready":   {unready, []string{"10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:6443"}},
		"none":        {slice("kubernetes", 6443), nil},
	} {
		l := Learn([]string{"10.0.0.1:6443", "10.0.0.2:6443"}, filepath.Join(t.TempDir(), "state", "servers.json"), slog.New(slog.DiscardHandler))
		l.learn(test.slice)
		var got []string
		select {
		case got = <-l.Updates():
		default:
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestLearnedOutlivesARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "servers.json")
	log := slog.New(slog.DiscardHandler)
	l := Learn([]string{"a:1"}, file, log)
	l.learn(slice("kubernetes", 1, "b"))
	l.learn(slice("kubernetes", 1))
	l = Learn([]string{"a:1"}, file, log)
	if got, want := l.Servers(), []string{"a:1", "b:1"}; !slices.Equal(got, want) {
		t.Errorf("after a restart: %q, want %q", got, want)
	}
	if l.learn(slice("kubernetes", 1, "c")); !slices.Equal(l.Servers(), []string{"a:1", "c:1"}) {
		t.Errorf("after b has left: %q", l.Servers())
	}
	if err := os.WriteFile(file, []byte("half of"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Learn([]string{"a:1"}, file, log).Servers(); !slices.Equal(got, []string{"a:1"}) {
		t.Errorf("with a broken file: %q", got)
	}
}

// A client of a balancer that knows only a dead server gets through once the
// endpoints name another.
func TestFollowLeadsClientsToNewServers(t *testing.T) {
	dead, alive := echoServer(t), echoServer(t)
	dead.Close()
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Discovery().V1().EndpointSlices().Informer()
	l := Learn([]string{dead.Addr().String()}, filepath.Join(t.TempDir(), "servers.json"), slog.New(slog.DiscardHandler))
	if err := l.Follow(informer); err != nil {
		t.Fatal(err)
	}
	f := start(t, l.Servers()...)
	address := alive.Addr().(*net.TCPAddr)
	for _, s := range []*discoveryv1.EndpointSlice{slice("of-others", 1, "10.0.0.9"), slice("kubernetes", int32(address.Port), address.IP.String())} {
		if _, err := client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	select {
	case list := <-l.Updates():
		f.updates <- list
	case <-time.After(time.Minute):
		t.Fatal("nothing was learnt")
	}
	for deadline := time.Now().Add(time.Minute); ; {
		server, err := ask(f.connect(t))
		if err == nil && server == alive.Addr().String() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, %v; want an answer of the new server", server, err)
		}
	}
}
