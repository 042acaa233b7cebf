//lint:file-ignore SA1019 Clients older than EndpointSlice read Endpoints, which have to be written for them.

package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"clusterctl/controlplane/storage"
	"clusterctl/hostconfig"
)

// endpoint keeps the service default/kubernetes and its endpoints right. Each
// API server has a key under masterleases in etcd that ends with the server's
// lease; the endpoints are the keys that there are. Any server writes them.
type endpoint struct {
	address     string
	port        int32
	serviceCIDR string
	dir         string
	etcd        *clientv3.Client
	codec       runtime.Codec
	client      kubernetes.Interface
	logger      *slog.Logger

	lease clientv3.LeaseID // 0: none
}

const (
	endpointTTL     = 15 * time.Second
	endpointRenewal = 5 * time.Second
	serviceName     = "kubernetes"
)

func newEndpoint(config hostconfig.ControlPlane, store *storage.Client, codec runtime.Codec, client kubernetes.Interface, logger *slog.Logger) *endpoint {
	return &endpoint{
		address:     config.Address,
		port:        int32(config.Port),
		serviceCIDR: config.Cluster.ServiceCIDR,
		dir:         path.Join(store.Prefix(), "masterleases") + "/",
		etcd:        store.Etcd(),
		codec:       codec,
		client:      client,
		logger:      logger,
	}
}

// run renews the lease and reconciles until ctx ends: each endpointRenewal, and
// at once when another server's key comes or goes.
func (e *endpoint) run(ctx context.Context) {
	tick := time.NewTicker(endpointRenewal)
	defer tick.Stop()
	changes := e.etcd.Watch(ctx, e.dir, clientv3.WithPrefix())
	for ctx.Err() == nil {
		if err := e.sync(ctx); err != nil && ctx.Err() == nil {
			e.logger.Warn("Endpoints of this API server are not published; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case _, ok := <-changes:
			if !ok {
				changes = nil // the ticker goes on
			}
		}
	}
}

func (e *endpoint) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endpointRenewal)
	defer cancel()
	if err := e.renew(ctx); err != nil {
		return err
	}
	if err := e.ensureService(ctx); err != nil {
		return err
	}
	addresses, err := e.servers(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(addresses, e.address) {
		// Somebody removed the key. That it is back starts the next sync.
		e.lease = 0
		return e.renew(ctx)
	}
	return e.reconcile(ctx, addresses)
}

// renew keeps this server's key, or writes it anew if its lease is gone.
func (e *endpoint) renew(ctx context.Context) error {
	if e.lease != 0 {
		if _, err := e.etcd.KeepAliveOnce(ctx, e.lease); err == nil {
			return nil
		}
	}
	lease, err := e.etcd.Grant(ctx, int64(endpointTTL/time.Second))
	if err != nil {
		return fmt.Errorf("get lease for this API server: %w", err)
	}
	value, err := runtime.Encode(e.codec, &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: e.address}},
	}}})
	if err != nil {
		return fmt.Errorf("encode entry of this API server: %w", err)
	}
	if _, err := e.etcd.Put(ctx, e.dir+e.address, string(value), clientv3.WithLease(lease.ID)); err != nil {
		return fmt.Errorf("write entry of this API server: %w", err)
	}
	e.lease = lease.ID
	return nil
}

// withdraw removes this server's key and brings the endpoints in step, so that
// clients stop coming before the server stops.
func (e *endpoint) withdraw(ctx context.Context) error {
	if _, err := e.etcd.Delete(ctx, e.dir+e.address); err != nil {
		return fmt.Errorf("remove entry of this API server: %w", err)
	}
	// The others have seen the key go, and write as well.
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		addresses, err := e.servers(ctx)
		if err != nil {
			return err
		}
		return e.reconcile(ctx, addresses)
	})
}

// servers lists the addresses of the API servers that live, sorted.
func (e *endpoint) servers(ctx context.Context) ([]string, error) {
	keys, err := e.etcd.Get(ctx, e.dir, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("list API servers: %w", err)
	}
	var addresses []string
	for _, kv := range keys.Kvs {
		addresses = append(addresses, path.Base(string(kv.Key)))
	}
	slices.Sort(addresses)
	return addresses, nil
}

func (e *endpoint) reconcile(ctx context.Context, addresses []string) error {
	if len(addresses) == 0 {
		return nil // the last server leaves its endpoints to the next one
	}
	if err := e.writeEndpoints(ctx, addresses); err != nil {
		return fmt.Errorf("write endpoints of %s: %w", serviceName, err)
	}
	if err := e.writeSlice(ctx, addresses); err != nil {
		return fmt.Errorf("write endpoint slice of %s: %w", serviceName, err)
	}
	return nil
}

// ensureService creates default/kubernetes, by which pods reach the API: the
// first address of the primary service range. It has no other, as upstream.
func (e *endpoint) ensureService(ctx context.Context) error {
	ranges, err := hostconfig.ParseNetworks(e.serviceCIDR)
	if err != nil {
		return fmt.Errorf("service ranges: %w", err)
	}
	all := e.client.CoreV1().Services(metav1.NamespaceDefault)
	if _, err := all.Get(ctx, serviceName, metav1.GetOptions{}); err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	single := corev1.IPFamilyPolicySingleStack
	_, err = all.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName, Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
		Spec: corev1.ServiceSpec{
			Type:            corev1.ServiceTypeClusterIP,
			ClusterIP:       ranges[0].Addr().Next().String(),
			IPFamilyPolicy:  &single,
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{
				Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(e.port),
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create service %s: %w", serviceName, err)
	}
	return nil
}

func (e *endpoint) writeEndpoints(ctx context.Context, addresses []string) error {
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "https", Port: e.port, Protocol: corev1.ProtocolTCP}}}
	for _, address := range addresses {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: address})
	}
	want := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName, Namespace: metav1.NamespaceDefault, Labels: map[string]string{
			discoveryv1.LabelSkipMirror: "true", // writeSlice is the mirror
		}},
		Subsets: []corev1.EndpointSubset{subset},
	}
	all := e.client.CoreV1().Endpoints(metav1.NamespaceDefault)
	got, err := all.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || (apiequality.Semantic.DeepEqual(got.Subsets, want.Subsets) && got.Labels[discoveryv1.LabelSkipMirror] == "true") {
		return err
	}
	got.Subsets = want.Subsets
	metav1.SetMetaDataLabel(&got.ObjectMeta, discoveryv1.LabelSkipMirror, "true")
	_, err = all.Update(ctx, got, metav1.UpdateOptions{})
	return err
}

func (e *endpoint) writeSlice(ctx context.Context, addresses []string) error {
	family := discoveryv1.AddressTypeIPv4
	if ip, err := netip.ParseAddr(addresses[0]); err == nil && ip.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	name, protocol, ready := "https", corev1.ProtocolTCP, true
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName, Namespace: metav1.NamespaceDefault, Labels: map[string]string{
			discoveryv1.LabelServiceName: serviceName,
		}},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &e.port, Protocol: &protocol}},
	}
	for _, address := range addresses {
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{address},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	all := e.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	got, err := all.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || (apiequality.Semantic.DeepEqual(got.Endpoints, want.Endpoints) && apiequality.Semantic.DeepEqual(got.Ports, want.Ports) &&
		got.Labels[discoveryv1.LabelServiceName] == serviceName) {
		return err
	}
	got.Endpoints, got.Ports = want.Endpoints, want.Ports
	metav1.SetMetaDataLabel(&got.ObjectMeta, discoveryv1.LabelServiceName, serviceName)
	_, err = all.Update(ctx, got, metav1.UpdateOptions{})
	return err
}
