package serviceproxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"clusterctl/hostconfig"
)

// fickle is a back end that fails as long as it is told to.
type fickle struct {
	err    error
	layout layout            // as last told
	given  map[string]change // the last time that it did not fail
}

func (f *fickle) apply(_ map[string][]servicePort, changes map[string]change) (bool, error) {
	if f.err == nil {
		f.given = changes
	}
	return true, f.err
}
func (*fickle) intact() (bool, error) { return true, nil }
func (f *fickle) relay(l layout)      { f.layout = l }
func (*fickle) forget()               {}
func (*fickle) remove() error         { return nil }
func (*fickle) mode() string          { return hostconfig.ProxyNftables }

// shown is what Prometheus is answered.
func shown(m *meters) string {
	w := httptest.NewRecorder()
	m.handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// TestMetersFollowChanges has a proxy fail, and then follow, a change of endpoints.
func TestMetersFollowChanges(t *testing.T) {
	ctx := t.Context()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: here.node}}
	away := slice(up("10.244.1.2", "there"))
	client := fake.NewClientset(service(internalLocal), away, node)
	factory := informers.NewSharedInformerFactory(client, 0)
	backend := &fickle{err: errors.New("the kernel refuses")}
	p := newProxy(t, backend, Config{
		Agent: hostconfig.NodeAgent{NodeName: here.node, Cluster: hostconfig.Cluster{ServiceCIDR: "10.96.0.0/16"}},
		CIDRs: factory.Networking().V1().ServiceCIDRs(),
	}, factory)
	m, dirt := p.meters, p.dirt
	want := func(when string, lines ...string) {
		t.Helper()
		text := "\n" + shown(m)
		for _, line := range lines {
			if !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("%s: no %s in\n%s", when, line, text)
			}
		}
	}
	want("at first",
		`kubeproxy_sync_proxy_rules_service_changes_total 1`, `kubeproxy_sync_proxy_rules_service_changes_pending 1`,
		`kubeproxy_sync_proxy_rules_endpoint_changes_total 1`, `kubeproxy_sync_proxy_rules_endpoint_changes_pending 1`)
	if err := p.sync(ctx, true); err == nil {
		t.Fatal("no error")
	}
	want("failed", `kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 1`)
	backend.err = nil
	if err := p.sync(ctx, true); err != nil {
		t.Fatal(err)
	}
	if len(backend.given["home/web"].new) != 1 {
		t.Errorf("after a failure the back end was told of %v, want all that it owes", backend.given)
	}
	want("followed",
		`kubeproxy_sync_proxy_rules_service_changes_pending 0`,
		`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 1`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0`)

	<-dirt.wake // by what was there at first
	both := slice(up("10.244.1.2", "there"), up("10.244.0.2", "here"))
	both.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Add(time.Millisecond).Format(time.RFC3339Nano)}
	if _, err := client.DiscoveryV1().EndpointSlices("home").Update(ctx, both, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-dirt.wake:
	case <-time.After(time.Minute):
		t.Fatal("the change went unnoticed")
	}
	if err := p.sync(ctx, true); err != nil {
		t.Fatal(err)
	}
	want("moved",
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 0`)

	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/24", "fd00:97::/112"}}}
	if _, err := client.NetworkingV1().ServiceCIDRs().Create(ctx, more, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-dirt.wake:
	case <-time.After(time.Minute):
		t.Fatal("the new network went unnoticed")
	}
	if err := p.sync(ctx, true); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(backend.layout.services); got != "[10.96.0.0/16 10.97.0.0/24]" {
		t.Errorf("the back end goes by services in %s, want the new network, too", got)
	}
}

func TestTriggersThatSayNothing(t *testing.T) {
	at := func(when time.Time) *discoveryv1.EndpointSlice {
		s := slice(up("10.244.0.2", "here"))
		s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: when.Format(time.RFC3339Nano)}
		return s
	}
	m := newMeters()
	later := at(m.began.Add(time.Second))
	for name, change := range map[string][2]*discoveryv1.EndpointSlice{
		"none":                   {nil, slice()},
		"before the proxy":       {nil, at(m.began.Add(-time.Second))},
		"the same as it was":     {later, later},
		"of a slice that's gone": {later, nil},
	} {
		m.sliceChanged(change[0], change[1])
		if len(m.triggers[ipv4]) != 0 {
			t.Errorf("%s: counted", name)
		}
	}
	if m.sliceChanged(slice(), later); len(m.triggers[ipv4]) != 1 {
		t.Error("a trigger that is new does not count")
	}
}
