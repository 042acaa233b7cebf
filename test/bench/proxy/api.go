package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

const nodeName = "bench"

// The encodings of objects and of watches that the proxies ask real API servers
// for.
var (
	protobuf, _ = runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	internal    = scheme.Codecs.WithoutConversion()
)

// api serves get and watch of what a service proxy reads. Everything that is
// there is encoded beforehand, so that it costs the same whoever reads.
type api struct {
	mu        sync.Mutex
	version   int
	resources map[string]*resource // by plural name
}

type resource struct {
	empty   runtime.Object // of its kind
	names   []string       // in order
	objects map[string][]byte
	added   map[string][]byte // the event of a watch that begins
	watches map[chan []byte]struct{}
}

// newAPI returns one with n services of two endpoints each, and a node.
func newAPI(n int) (*api, error) {
	a := &api{version: 1, resources: map[string]*resource{}}
	for plural, empty := range map[string]runtime.Object{
		"services": &corev1.Service{}, "nodes": &corev1.Node{}, "pods": &corev1.Pod{},
		"endpointslices": &discoveryv1.EndpointSlice{}, "servicecidrs": &networkingv1.ServiceCIDR{},
	} {
		a.resources[plural] = &resource{empty: empty, objects: map[string][]byte{}, added: map[string][]byte{}, watches: map[chan []byte]struct{}{}}
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
	object.(metav1.Object).SetResourceVersion(fmt.Sprint(a.version))
	raw, err := encode(object)
	if err != nil {
		return err
	}
	r := a.resources[plural]
	if _, there := r.objects[name]; !there {
		r.names = append(r.names, name)
	}
	r.objects[name] = raw
	if r.added[name], err = event(watch.Added, raw); err != nil {
		return err
	}
	modified, err := event(watch.Modified, raw)
	if err != nil {
		return err
	}
	for watch := range r.watches {
		watch <- modified
	}
	return nil
}

func encode(object runtime.Object) ([]byte, error) {
	kinds, _, err := scheme.Scheme.ObjectKinds(object)
	if err != nil {
		return nil, fmt.Errorf("find kind: %w", err)
	}
	raw, err := runtime.Encode(internal.EncoderForVersion(protobuf.Serializer, kinds[0].GroupVersion()), object)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kinds[0].Kind, err)
	}
	return raw, nil
}

// event returns a watch's event as it is sent.
func event(kind watch.EventType, object []byte) ([]byte, error) {
	var frame bytes.Buffer
	e := &metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: object}}
	if err := protobuf.StreamSerializer.Encode(e, protobuf.StreamSerializer.Framer.NewFrameWriter(&frame)); err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return frame.Bytes(), nil
}

// serve answers on a listener until that is closed.
func (a *api) serve(listener net.Listener) *http.Server {
	server := &http.Server{Handler: a}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return server
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	plural, name := parts[len(parts)-1], ""
	if _, known := a.resources[plural]; !known && len(parts) > 1 {
		plural, name = parts[len(parts)-2], plural
	}
	resource := a.resources[plural]
	switch {
	case r.Method != http.MethodGet: // events
		w.WriteHeader(http.StatusCreated)
	case resource == nil || name != "" && resource.objects[name] == nil:
		w.WriteHeader(http.StatusNotFound)
	case name != "":
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		_, _ = w.Write(resource.objects[name])
	case r.URL.Query().Get("sendInitialEvents") == "true":
		a.stream(w, r, resource)
	default: // all clients of today stream what they would list
		http.Error(w, "only watches with initial events are served", http.StatusMethodNotAllowed)
	}
}

func (a *api) stream(w http.ResponseWriter, request *http.Request, r *resource) {
	events := make(chan []byte, 1000)
	a.mu.Lock()
	initial := make([][]byte, 0, len(r.names)+1)
	for _, name := range r.names {
		initial = append(initial, r.added[name])
	}
	end, err := r.initialEnd(a.version)
	r.watches[events] = struct{}{}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(r.watches, events)
		a.mu.Unlock()
	}()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
	for _, e := range append(initial, end) {
		if _, err := w.Write(e); err != nil {
			return
		}
	}
	w.(http.Flusher).Flush()
	for {
		select {
		case <-request.Context().Done():
			return
		case e := <-events:
			if _, err := w.Write(e); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

// initialEnd is the bookmark that ends what a watch begins with.
func (r *resource) initialEnd(version int) ([]byte, error) {
	bookmark := r.empty.DeepCopyObject()
	meta := bookmark.(metav1.Object)
	meta.SetResourceVersion(fmt.Sprint(version))
	meta.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	raw, err := encode(bookmark)
	if err != nil {
		return nil, err
	}
	return event(watch.Bookmark, raw)
}
