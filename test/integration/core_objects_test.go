package integration

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestNamespaceEndsInTwoSteps(t *testing.T) {
	c, ctx := Start(t), t.Context()
	namespaces := c.Client.CoreV1().Namespaces()
	created := must(namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "steps-"}}, metav1.CreateOptions{}))(t)
	name := created.Name
	if created.Labels[corev1.LabelMetadataName] != name || len(created.Spec.Finalizers) != 1 {
		t.Errorf("new namespace: labels %v, finalizers %v", created.Labels, created.Spec.Finalizers)
	}
	created.Spec.Finalizers = nil
	if n := must(namespaces.Update(ctx, created, metav1.UpdateOptions{}))(t); len(n.Spec.Finalizers) != 1 {
		t.Error("an update removed the finalizer of the spec")
	}
	if err := namespaces.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n := must(namespaces.Get(ctx, name, metav1.GetOptions{}))(t)
	if n.Status.Phase != corev1.NamespaceTerminating || n.DeletionTimestamp == nil {
		t.Fatalf("deleted namespace: %+v", n.Status)
	}
	_, err := c.Client.CoreV1().ConfigMaps(name).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("creation in a namespace that ends: %v", err)
	}
	n.Spec.Finalizers = nil
	if _, err := namespaces.Finalize(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := namespaces.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		if err := namespaces.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	if _, err := namespaces.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("finalized namespace: %v", err)
	}
}

func TestNodeRegistersWithItsStatus(t *testing.T) {
	c, ctx := Start(t), t.Context()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "status-node"},
		Spec:       corev1.NodeSpec{PodCIDR: "10.244.9.0/24"},
		Status:     corev1.NodeStatus{Capacity: corev1.ResourceList{"cpu": resource.MustParse("2")}},
	}
	created := must(c.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { _ = c.Client.CoreV1().Nodes().Delete(t.Context(), node.Name, metav1.DeleteOptions{}) })
	if q := created.Status.Allocatable["cpu"]; q.String() != "2" || len(created.Spec.PodCIDRs) != 1 {
		t.Errorf("new node: allocatable %v, CIDRs %v", created.Status.Allocatable, created.Spec.PodCIDRs)
	}
}

func TestSealedObjects(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	m := must(c.Client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Immutable: ptr.To(true), Data: map[string]string{"a": "b"}}, metav1.CreateOptions{}))(t)
	m.Data["a"] = "c"
	_, err := c.Client.CoreV1().ConfigMaps(ns).Update(ctx, m, metav1.UpdateOptions{})
	if want := "data: Forbidden: field is immutable when `immutable` is set"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("change of a sealed map: %v", err)
	}
	s := must(c.Client.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"a": "b"}}, metav1.CreateOptions{}))(t)
	if string(s.Data["a"]) != "b" || s.StringData != nil {
		t.Errorf("secret %+v", s)
	}
	s.Type = corev1.SecretTypeTLS
	if _, err := c.Client.CoreV1().Secrets(ns).Update(ctx, s, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("change of a secret's type: %v", err)
	}
}

func TestTokenRequest(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	pod := must(c.Client.CoreV1().Pods(ns).Create(ctx, simplePod("p"), metav1.CreateOptions{}))(t)
	accounts := c.Client.CoreV1().ServiceAccounts(ns)
	account := must(accounts.Get(ctx, "default", metav1.GetOptions{}))(t)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: ptr.To[int64](600),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p", UID: pod.UID},
	}}
	issued := must(accounts.CreateToken(ctx, "default", request, metav1.CreateOptions{}))(t)
	parts := strings.Split(issued.Status.Token, ".")
	if len(parts) != 3 {
		t.Fatal("not a JWT")
	}
	var claims struct {
		Subject  string   `json:"sub"`
		Audience []string `json:"aud"`
		Expiry   int64    `json:"exp"`
		IssuedAt int64    `json:"iat"`
		ID       string   `json:"jti"`
		Private  struct {
			Namespace string                     `json:"namespace"`
			Account   struct{ Name, UID string } `json:"serviceaccount"`
			Pod       struct{ Name, UID string } `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(must(base64.RawURLEncoding.DecodeString(parts[1]))(t), &claims); err != nil {
		t.Fatal(err)
	}
	p := claims.Private
	if claims.Subject != "system:serviceaccount:"+ns+":default" || len(claims.Audience) == 0 || claims.ID == "" ||
		p.Namespace != ns || p.Account.UID != string(account.UID) || p.Pod.Name != "p" || p.Pod.UID != string(pod.UID) {
		t.Errorf("claims %+v", claims)
	}
	if life := claims.Expiry - claims.IssuedAt; life < 599 || life > 601 {
		t.Errorf("life %d s", life)
	}
	// The API server knows the bearer.
	who := func() error {
		_, err := clients(t, c.Token(issued.Status.Token)).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err
	}
	if err := who(); err != nil {
		t.Errorf("bearer of the token: %v", err)
	}
	for name, spec := range map[string]authenticationv1.TokenRequestSpec{
		"may not specify a duration less than 10 minutes": {ExpirationSeconds: ptr.To[int64](10)},
		"the UID in the bound object reference (other)":   {BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p", UID: "other"}},
		"cannot bind token to object of type":             {BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Service", APIVersion: "v1", Name: "p"}},
	} {
		_, err := accounts.CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}

func TestEventsLiveAnHour(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "p"}, Reason: "Started", Type: "Normal"}
	must(c.Client.CoreV1().Events(ns).Create(ctx, e, metav1.CreateOptions{}))(t)
	if list := must(c.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=Started"}))(t); len(list.Items) != 1 {
		t.Errorf("%d events by field", len(list.Items))
	}
}

func TestTables(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	must(c.Client.CoreV1().Pods(ns).Create(ctx, simplePod("p"), metav1.CreateOptions{}))(t)
	for path, want := range map[string]string{
		"/api/v1/namespaces/" + ns + "/pods":            "Name,Ready,Status,Restarts,Age,IP,Node,Nominated Node,Readiness Gates",
		"/api/v1/namespaces/" + ns + "/serviceaccounts": "Name,Age",
		"/api/v1/nodes":                            "Name,Status,Roles,Age,Version,Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime",
		"/api/v1/services":                         "Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector",
		"/api/v1/endpoints":                        "Name,Endpoints,Age",
		"/api/v1/events":                           "Last Seen,Type,Reason,Object,Subobject,Source,Message,First Seen,Count,Name",
		"/api/v1/namespaces":                       "Name,Status,Age",
		"/apis/discovery.k8s.io/v1/endpointslices": "Name,AddressType,Ports,Endpoints,Age",
		"/apis/networking.k8s.io/v1/servicecidrs":  "Name,CIDRs,Age",
		"/apis/networking.k8s.io/v1/ipaddresses":   "Name,ParentRef,Age",
	} {
		table := getTable(t, c, path)
		var names []string
		for _, column := range table.ColumnDefinitions {
			names = append(names, column.Name)
		}
		if got := strings.Join(names, ","); got != want {
			t.Errorf("%s: columns %s, want %s", path, got, want)
		}
		for _, row := range table.Rows {
			if len(row.Cells) != len(names) {
				t.Errorf("%s: a row of %d cells for %d columns", path, len(row.Cells), len(names))
			}
		}
	}
}

func getTable(t *testing.T, c *Cluster, path string) *metav1.Table {
	t.Helper()
	request := c.Client.CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	data := must(request.DoRaw(t.Context()))(t)
	table := &metav1.Table{}
	if err := json.Unmarshal(data, table); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return table
}
