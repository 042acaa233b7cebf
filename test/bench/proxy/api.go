package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	nodeName = "bench"
	// initialEnd marks the bookmark that ends what a watch begins with.
	initialEnd = `{"type":"BOOKMARK","object":{"kind":"%s","apiVersion":"%s","metadata":{"resourceVersion":"%d","annotations":{"k8s.io/initial-events-end":"true"}}}}` + "\n"
)

// api serves list and watch of what a service proxy reads. Everything that is
// there is encoded beforehand, so that it costs the same whoever reads.
type api struct {
	mu        sync.Mutex
	version   int
	resources map[string]*resource // by plural name
}

type resource struct {
	kind, apiVersion string
	names            []string // in order
	objects          map[string][]byte
	watches          map[chan []byte]struct{}
}

// newAPI returns one with n services of two endpoints each, and a node.
func newAPI(n int) (*api, error) {
	a := &api{version: 1, resources: map[string]*resource{}}
	for plural, kind := range map[string][2]string{
		"services": {"Service", "v1"}, "nodes": {"Node", "v1"}, "pods": {"Pod", "v1"},
		"endpointslices": {"EndpointSlice", "discovery.k8s.io/v1"},
		"servicecidrs":   {"ServiceCIDR", "networking.k8s.io/v1"},
	} {
		a.resources[plural] = &resource{kind: kind[0], apiVersion: kind[1], objects: map[string][]byte{}, watches: map[chan []byte]struct{}{}}
	}
	node := &corev1.Node{
		TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: nodeName},
		Spec:   corev1.NodeSpec{PodCIDR: podCIDR, PodCIDRs: []string{podCIDR}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeAddress}}},
	}
	if err := a.put("nodes", nodeName, node); err != nil {
		return nil, err
	}
	for i := range n {
		if err := a.put("services", serviceName(i), serviceObject(i)); err != nil {
			return nil, err
		}
		if err := a.put("endpointslices", serviceName(i), sliceObject(i, endpointAddress(i, 0), endpointAddress(i, 1))); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func serviceName(i int) string { return fmt.Sprintf("service-%05d", i) }

// addressIn returns an address of a network of 16 bits, the first being 1.
func addressIn(a, b byte, i int) netip.Addr {
	i++
	return netip.AddrFrom4([4]byte{a, b + byte(i>>16), byte(i >> 8), byte(i)})
}

func clusterAddress(i int) netip.Addr     { return addressIn(10, 96, i) }
func endpointAddress(i, n int) netip.Addr { return addressIn(10, 128, 4*i+n) }

func serviceObject(i int) *corev1.Service {
	single, cluster := corev1.IPFamilyPolicySingleStack, corev1.ServiceInternalTrafficPolicyCluster
	ip := clusterAddress(i).String()
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{Kind: "Service", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(i), Namespace: "bench", Labels: map[string]string{"app": serviceName(i)}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Selector: map[string]string{"app": serviceName(i)},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &single, InternalTrafficPolicy: &cluster, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
}

func sliceObject(i int, addresses ...netip.Addr) *discoveryv1.EndpointSlice {
	yes, name, protocol, port, node := true, "http", corev1.ProtocolTCP, int32(podPort), "elsewhere"
	s := &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{Kind: "EndpointSlice", APIVersion: "discovery.k8s.io/v1"},
		ObjectMeta:  metav1.ObjectMeta{Name: serviceName(i), Namespace: "bench", Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &port}},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}})
	}
	return s
}

// put makes an object so, and tells those who watch.
func (a *api) put(plural, name string, object runtime.Object) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	meta := object.(metav1.Object)
	meta.SetResourceVersion(fmt.Sprint(a.version))
	raw, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	r := a.resources[plural]
	if _, there := r.objects[name]; !there {
		r.names = append(r.names, name)
	}
	r.objects[name] = raw
	for watch := range r.watches {
		watch <- fmt.Appendf(nil, `{"type":"MODIFIED","object":%s}`+"\n", raw)
	}
	return nil
}

// serve answers on a listener until that is closed.
func (a *api) serve(listener net.Listener) *http.Server {
	server := &http.Server{Handler: a}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return server
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	plural, name := parts[len(parts)-1], ""
	if _, known := a.resources[plural]; !known && len(parts) > 1 {
		plural, name = parts[len(parts)-2], plural
	}
	resource := a.resources[plural]
	switch {
	case r.Method != http.MethodGet: // events
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"kind":"Event","apiVersion":"events.k8s.io/v1","metadata":{"name":"x"}}`)
	case resource == nil || name != "" && resource.objects[name] == nil:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	case name != "":
		_, _ = w.Write(resource.objects[name])
	case r.URL.Query().Get("watch") != "":
		a.watch(w, r, resource)
	default:
		a.list(w, resource)
	}
}

func (a *api) list(w http.ResponseWriter, r *resource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintf(w, `{"kind":"%sList","apiVersion":"%s","metadata":{"resourceVersion":"%d"},"items":[`, r.kind, r.apiVersion, a.version)
	for i, name := range r.names {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		_, _ = w.Write(r.objects[name])
	}
	fmt.Fprint(w, "]}")
}

func (a *api) watch(w http.ResponseWriter, request *http.Request, r *resource) {
	events := make(chan []byte, 1000)
	var initial []byte
	a.mu.Lock()
	r.watches[events] = struct{}{}
	if request.URL.Query().Get("sendInitialEvents") == "true" {
		for _, name := range r.names {
			initial = fmt.Appendf(initial, `{"type":"ADDED","object":%s}`+"\n", r.objects[name])
		}
		initial = fmt.Appendf(initial, initialEnd, r.kind, r.apiVersion, a.version)
	}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(r.watches, events)
		a.mu.Unlock()
	}()
	_, _ = w.Write(initial)
	w.(http.Flusher).Flush()
	for {
		select {
		case <-request.Context().Done():
			return
		case event := <-events:
			if _, err := w.Write(event); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}
