package integration

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/openapi"

	"clusterctl/controlplane/storage"
	"clusterctl/hostconfig"
)

func TestVersion(t *testing.T) {
	c := Start(t)
	got := must(c.Client.Discovery().ServerVersion())(t)
	if got.GitVersion != "v1.36.3" || got.Major != "1" || got.Minor != "36" {
		t.Errorf("version = %+v, want v1.36.3", got)
	}
}

// TestDiscovery checks that clients find every kind, and can do with it what
// the server says.
func TestDiscovery(t *testing.T) {
	c := Start(t)
	_, aggregated, err := c.Client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]metav1.APIResource{}
	for _, list := range aggregated {
		for _, resource := range list.APIResources {
			served[list.GroupVersion+" "+resource.Name] = resource
		}
	}
	for name, verbs := range map[string]string{
		"v1 pods":                                      "create delete deletecollection get list patch update watch",
		"v1 pods/status":                               "get patch update",
		"v1 namespaces":                                "create delete get list patch update watch",
		"v1 serviceaccounts/token":                     "create",
		"apps/v1 deployments":                          "create delete deletecollection get list patch update watch",
		"apps/v1 deployments/scale":                    "get patch update",
		"coordination.k8s.io/v1 leases":                "create delete deletecollection get list patch update watch",
		"authorization.k8s.io/v1 subjectaccessreviews": "create",
	} {
		resource, ok := served[name]
		if !ok {
			t.Errorf("%s is not served", name)
			continue
		}
		got := slices.Clone([]string(resource.Verbs))
		slices.Sort(got)
		if strings.Join(got, " ") != verbs {
			t.Errorf("verbs of %s are %q, want %s", name, got, verbs)
		}
	}
	if pods := served["v1 pods"]; !slices.Equal(pods.ShortNames, []string{"po"}) || !slices.Contains(pods.Categories, "all") || pods.SingularName != "pod" {
		t.Errorf("pods are described as %+v", pods)
	}
	// The old form of discovery, for clients that do not know the other.
	legacy := must(c.Client.Discovery().ServerResourcesForGroupVersion("apps/v1"))(t)
	if !slices.ContainsFunc(legacy.APIResources, func(r metav1.APIResource) bool { return r.Name == "deployments" && r.Kind == "Deployment" }) {
		t.Errorf("resources of apps/v1: %+v", legacy.APIResources)
	}
}

func TestOpenAPI(t *testing.T) {
	c := Start(t)
	v2 := must(c.Client.Discovery().OpenAPISchema())(t)
	found := false
	for _, definition := range v2.GetDefinitions().GetAdditionalProperties() {
		found = found || definition.GetName() == "io.k8s.api.apps.v1.Deployment"
		if strings.Contains(definition.GetName(), "__internal") {
			t.Errorf("OpenAPI v2 speaks of %s", definition.GetName())
		}
	}
	if !found {
		t.Error("OpenAPI v2 has no Deployment")
	}
	paths := must(c.Client.Discovery().OpenAPIV3().Paths())(t)
	for path, schema := range map[string]string{
		"api/v1": "io.k8s.api.core.v1.Pod", "apis/apps/v1": "io.k8s.api.apps.v1.Deployment",
		"apis/metrics.k8s.io/v1beta1": "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics",
	} {
		group, ok := paths[path]
		if !ok {
			t.Errorf("OpenAPI v3 does not list %s", path)
			continue
		}
		checkSchema(t, group, schema)
	}
}

func checkSchema(t *testing.T, group openapi.GroupVersion, name string) {
	t.Helper()
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Kinds []metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
			}
		}
	}
	if err := json.Unmarshal(must(group.Schema("application/json"))(t), &document); err != nil {
		t.Fatal(err)
	}
	schema, ok := document.Components.Schemas[name]
	if !ok || len(schema.Kinds) != 1 || schema.Kinds[0].Version == "__internal" {
		t.Errorf("OpenAPI v3 describes %s as %+v", name, schema)
	}
}

func TestSystemObjects(t *testing.T) {
	c := Start(t)
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		must(c.Client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{}))(t)
	}
	eventually(t, "the endpoints of default/kubernetes", func(ctx context.Context) (bool, error) {
		slice, err := c.Client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return len(slice.Endpoints) == 1 && slice.Endpoints[0].Addresses[0] == advertised && int(*slice.Ports[0].Port) == c.Config.Port, nil
	})
	service := must(c.Client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t)
	if service.Spec.ClusterIP != "10.96.0.1" || service.Spec.Ports[0].Port != 443 {
		t.Errorf("service kubernetes: %+v", service.Spec)
	}
	cidr := must(c.Client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t)
	if len(cidr.Spec.CIDRs) != 1 || cidr.Spec.CIDRs[0] != c.Config.Cluster.ServiceCIDR {
		t.Errorf("default ServiceCIDR: %+v", cidr.Spec)
	}
	eventually(t, "the server to say that it is there", func(ctx context.Context) (bool, error) {
		list, err := c.Client.CoordinationV1().Leases("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "apiserver.kubernetes.io/identity=kube-apiserver"})
		if err != nil {
			return false, err
		}
		return len(list.Items) == 1 && strings.HasPrefix(list.Items[0].Name, "apiserver-") && list.Items[0].Labels[corev1.LabelHostname] != "", nil
	})
}

// openStore is another client of the test's etcd.
func openStore(t *testing.T, c *Cluster) *storage.Client {
	t.Helper()
	pki := hostconfig.PKI(c.Config.PKIDir)
	store := must(storage.Open(storage.Config{
		Endpoints: c.Config.Etcd, CertFile: pki.Cert(hostconfig.PairAPIServerEtcd), KeyFile: pki.Key(hostconfig.PairAPIServerEtcd),
		CAFile: pki.EtcdCA(), Prefix: c.Config.Prefix,
	}))(t)
	t.Cleanup(store.Close)
	return store
}

// TestProbeThatIsCalledOff checks that a probe whose client has gone does not
// make the server look ill to the next one.
func TestProbeThatIsCalledOff(t *testing.T) {
	store := openStore(t, Start(t))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.Healthy(gone); err == nil {
		t.Error("a probe that was called off succeeds")
	}
	if err := store.Healthy(t.Context()); err != nil {
		t.Errorf("the next probe: %v", err)
	}
}

// TestEndpointsFollowServers plays a second API server that comes and dies.
func TestEndpointsFollowServers(t *testing.T) {
	c := Start(t)
	etcd := openStore(t, c).Etcd()
	lease := must(etcd.Grant(t.Context(), 60))(t)
	const other = "192.0.2.2"
	must(etcd.Put(t.Context(), path.Join(c.Config.Prefix, "masterleases", other), "", clientv3.WithLease(lease.ID)))(t)
	addresses := func(want ...string) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			slice, err := c.Client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			var got []string
			for _, endpoint := range slice.Endpoints {
				got = append(got, endpoint.Addresses...)
			}
			endpoints, err := c.Client.CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{})
			return err == nil && slices.Equal(got, want) && len(endpoints.Subsets[0].Addresses) == len(want), err
		}
	}
	eventually(t, "the second server among the endpoints", addresses(advertised, other))
	must(etcd.Revoke(t.Context(), lease.ID))(t)
	eventually(t, "the second server gone from the endpoints", addresses(advertised))
}

// TestServerComesBack removes the server's own entry, as an operator might.
func TestServerComesBack(t *testing.T) {
	c := Start(t)
	etcd := openStore(t, c).Etcd()
	key := path.Join(c.Config.Prefix, "masterleases", advertised)
	must(etcd.Delete(t.Context(), key))(t)
	eventually(t, "the server's entry", func(ctx context.Context) (bool, error) {
		answer, err := etcd.Get(ctx, key)
		return err == nil && len(answer.Kvs) == 1 && answer.Kvs[0].Lease != 0, err
	})
}

func TestEtcdDataIsClosedToOthers(t *testing.T) {
	c := Start(t)
	info := must(os.Stat(filepath.Join(filepath.Dir(c.Config.PKIDir), "etcd")))(t)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("etcd's data directory has mode %o, want 700", info.Mode().Perm())
	}
}

// TestLayout checks that objects lie in etcd where, and as what, Kubernetes
// would put them.
func TestLayout(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	must(c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("m", nil), metav1.CreateOptions{}))(t)
	must(c.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "layout"}}, metav1.CreateOptions{}))(t)
	etcd := openStore(t, c).Etcd()
	for _, key := range []string{
		"/registry/namespaces/" + ns, "/registry/configmaps/" + ns + "/m", "/registry/minions/layout",
		"/registry/services/specs/default/kubernetes", "/registry/services/endpoints/default/kubernetes",
		"/registry/endpointslices/default/kubernetes", "/registry/clusterroles/cluster-admin", "/registry/serviceaccounts/" + ns + "/default",
	} {
		answer := must(etcd.Get(t.Context(), key))(t)
		if len(answer.Kvs) != 1 || !strings.HasPrefix(string(answer.Kvs[0].Value), "k8s\x00") {
			t.Errorf("%s: %d values, want one in protobuf", key, len(answer.Kvs))
		}
	}
}

func TestMetrics(t *testing.T) {
	c := Start(t)
	raw := must(c.Client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context()))(t)
	for _, name := range []string{"apiserver_request_total{", "apiserver_storage_size_bytes{", "apiserver_watch_cache_initializations_total", "process_resident_memory_bytes"} {
		if !strings.Contains(string(raw), name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
}

// TestServesTLSOnly checks that what the in-process clients speak is not
// spoken on the network.
func TestServesTLSOnly(t *testing.T) {
	c := Start(t)
	connection := must(net.Dial("tcp", loopback(c.Config.Port)))(t)
	defer connection.Close()
	must(connection.Write([]byte("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")))(t)
	buffer := make([]byte, 64)
	n, _ := connection.Read(buffer)
	if strings.Contains(string(buffer[:n]), "200 OK") {
		t.Errorf("plain HTTP is answered with %q", buffer[:n])
	}
}
