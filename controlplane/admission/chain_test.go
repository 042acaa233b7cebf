package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/discovery"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/openapi"
)

// documented is a client of a server with OpenAPI documents; the fake has none.
type documented struct{ kubernetes.Interface }

func (d documented) Discovery() discovery.DiscoveryInterface {
	return documentedDiscovery{d.Interface.Discovery()}
}

type documentedDiscovery struct{ discovery.DiscoveryInterface }

func (documentedDiscovery) OpenAPIV3() openapi.Client { return &manyDocuments{} }

// configure starts informers over a fake client after make has registered its
// own.
func configure[P any](t *testing.T, make func(Config) (P, error), a authorizer.Authorizer, objs ...runtime.Object) P {
	t.Helper()
	client := fake.NewClientset(objs...)
	factory := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(context.Background())
	p, err := make(Config{
		Client: documented{client}, Informers: factory, Authorizer: a, Drained: ctx.Done(),
		Dynamic: dynamicfake.NewSimpleDynamicClient(runtime.NewScheme()), Mapper: meta.NewDefaultRESTMapper(nil),
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	factory.WaitForCacheSync(ctx.Done())
	return p
}

// allow is an authorizer that allows one "verb resource name" per line.
func allow(lines ...string) authorizer.Authorizer {
	return authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		for _, line := range lines {
			if line == strings.TrimSpace(a.GetVerb()+" "+a.GetResource()+" "+a.GetName()) {
				return authorizer.DecisionAllow, "", nil
			}
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
}

var (
	anna    = &user.DefaultInfo{Name: "anna"}
	nodeOne = &user.DefaultInfo{Name: "system:node:one", Groups: []string{"system:nodes"}}
)

// write makes the attributes of a write: resource is "group/resource" with a
// subresource behind, obj may be nil on delete, old is nil on create.
func write(operation admission.Operation, who user.Info, resource string, obj, old runtime.Object) admission.Attributes {
	parts := strings.Split(resource, "/")
	gvr := schema.GroupVersionResource{Group: parts[0], Version: "v1", Resource: parts[1]}
	subresource := ""
	if len(parts) > 2 {
		subresource = parts[2]
	}
	var namespace, name, kind string
	for _, o := range []runtime.Object{old, obj} {
		if accessor, err := meta.Accessor(o); err == nil {
			namespace, name = accessor.GetNamespace(), accessor.GetName()
			kind = reflect.TypeOf(o).Elem().Name()
		}
	}
	var options runtime.Object = &metav1.CreateOptions{}
	return admission.NewAttributesRecord(obj, old, schema.GroupVersionKind{Group: parts[0], Version: "v1", Kind: kind}, namespace, name, gvr, subresource, operation, options, false, who)
}

// wantError checks the message of an error, or that there is none.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error %q, want none", err)
	case want != "" && err == nil:
		t.Errorf("no error, want one with %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("error %q, want one with %q", err, want)
	}
}

// signingRequest makes a PKCS#10 request in PEM.
func signingRequest(t *testing.T, commonName string, organizations ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: commonName, Organization: organizations},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestChain(t *testing.T) {
	ctx := context.Background()
	chain := configure(t, NewChain, allow(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}})
	mutate, ok := chain.(admission.MutationInterface)
	if !ok {
		t.Fatal("the chain does not mutate")
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if err := mutate.Admit(ctx, write(admission.Create, anna, "/pods", pod, nil), nil); err != nil {
		t.Fatal(err)
	}
	if pod.Spec.ServiceAccountName != "default" || pod.Spec.Priority == nil || len(pod.Spec.Tolerations) != 2 || len(pod.Spec.Volumes) != 1 {
		t.Errorf("pod was admitted as %+v", pod.Spec)
	}
	lost := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "going", Name: "p"}}
	err := mutate.Admit(ctx, write(admission.Create, anna, "/pods", lost, nil), nil)
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("create in a namespace that goes: %v", err)
	}
	home := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}}
	wantError(t, mutate.Admit(ctx, write(admission.Delete, anna, "/namespaces", nil, home), nil), "this namespace may not be deleted")
}

func TestChainWantsEverything(t *testing.T) {
	_, err := NewChain(Config{})
	wantError(t, err, "admission needs clients, informers, an authorizer, a mapper")
}
