package host

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/yaml"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// fakeAPI keeps objects by path, as an API server would after an apply.
type fakeAPI struct {
	mu      sync.Mutex
	objects map[string]map[string]any
	log     []string
	onGet   func(path string, object map[string]any)
}

// discoveryDocuments are what clients ask for before anything else.
var discoveryDocuments = map[string]string{
	"/api":          `{"kind":"APIVersions","versions":["v1"]}`,
	"/apis":         `{"kind":"APIGroupList","groups":[{"name":"apps","versions":[{"groupVersion":"apps/v1","version":"v1"}],"preferredVersion":{"groupVersion":"apps/v1","version":"v1"}}]}`,
	"/api/v1":       `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"namespaces","kind":"Namespace","verbs":["get","patch"]},{"name":"configmaps","kind":"ConfigMap","namespaced":true,"verbs":["get","patch"]}]}`,
	"/apis/apps/v1": `{"kind":"APIResourceList","groupVersion":"apps/v1","resources":[{"name":"deployments","kind":"Deployment","namespaced":true,"verbs":["get","patch"]}]}`,
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if text, ok := discoveryDocuments[r.URL.Path]; ok {
		_, _ = io.WriteString(w, text)
		return
	}
	object := f.objects[r.URL.Path]
	switch {
	case r.Method == http.MethodPatch:
		f.log = append(f.log, fmt.Sprintf("%s %s %s", r.Header.Get("Content-Type"), r.URL.Path, r.URL.Query().Get("fieldManager")))
		raw, _ := io.ReadAll(r.Body)
		var sent map[string]any
		if err := yaml.Unmarshal(raw, &sent); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if strings.Contains(r.Header.Get("Content-Type"), "strategic") {
			object["metadata"].(map[string]any)["labels"] = sent["metadata"].(map[string]any)["labels"]
			sent = object
		}
		f.objects[r.URL.Path] = sent
		object = sent
	case object == nil:
		w.WriteHeader(http.StatusNotFound)
		object = map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
	case f.onGet != nil:
		f.onGet(r.URL.Path, object)
	}
	_ = json.NewEncoder(w).Encode(object)
}

func (f *fakeAPI) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

// controlPlane is a hand on a host with an administrator's kubeconfig.
func controlPlane(t *testing.T, f *fakeAPI) *Hand {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	root := t.TempDir()
	write(t, root+hostconfig.AdminCfg, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "`+server.URL+`"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
users: [{name: u, user: {}}]
`, 0o600)
	return New(Options{Root: root, Init: newFakeInit()})
}

const someManifests = `
apiVersion: v1
kind: Namespace
metadata: {name: system}
---
# a comment alone
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: system}
data: {key: %s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: dns, namespace: system, generation: 1}
spec: {replicas: 2}
`

func TestManifests(t *testing.T) {
	gets := 0
	f := &fakeAPI{objects: map[string]map[string]any{}}
	f.onGet = func(path string, object map[string]any) {
		if strings.HasSuffix(path, "/dns") {
			if gets++; gets == 3 { // available at the third look
				object["status"] = map[string]any{"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2, "conditions": []any{map[string]any{"type": "Available", "status": "True"}}}
			}
		}
	}
	h := controlPlane(t, f)
	op := func(value string) *hostop.Manifests {
		return &hostop.Manifests{Name: "dns", YAML: fmt.Appendf(nil, someManifests, value), Wait: []string{"system/dns"}, Timeout: 30 * time.Second}
	}
	if differs, err := h.Check(t.Context(), op("a")); err != nil || differs != "namespace system is absent" {
		t.Errorf("check: %q, %v", differs, err)
	}
	var told []string
	changed, err := h.Apply(t.Context(), op("a"), func(s string) { told = append(told, s) })
	if err != nil || !changed {
		t.Fatalf("apply: %v, %v", changed, err)
	}
	want := []string{
		"application/apply-patch+yaml /api/v1/namespaces/system clusterctl-dns",
		"application/apply-patch+yaml /api/v1/namespaces/system/configmaps/settings clusterctl-dns",
		"application/apply-patch+yaml /apis/apps/v1/namespaces/system/deployments/dns clusterctl-dns",
	}
	if got := f.took(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("sent %q", got)
	}
	if !strings.Contains(strings.Join(told, "; "), "deployment system/dns has 0 of 2 replicas available") {
		t.Errorf("told %q", told)
	}
	if changed, err := h.Apply(t.Context(), op("a"), ignore); err != nil || changed || len(f.took()) != 0 {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	if differs, err := h.Check(t.Context(), op("b")); err != nil || differs != "configmap settings is another" {
		t.Errorf("another content: %q, %v", differs, err)
	}
	for _, bad := range []string{"kind: Namespace\n", "{", "apiVersion: v1\nkind: Namespace\n"} {
		if _, err := h.Check(t.Context(), &hostop.Manifests{YAML: []byte(bad)}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestAdminTravels(t *testing.T) {
	root := t.TempDir()
	h := New(Options{Root: root, Init: newFakeInit()})
	if _, err := h.readAdmin(); err == nil || !strings.Contains(err.Error(), "is this host a control plane?") {
		t.Errorf("without one: %v", err)
	}
	write(t, root+hostconfig.AdminCfg, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: /etc/clusterctl/pki/cluster-ca.crt}}]
users: [{name: u, user: {client-certificate: /etc/clusterctl/pki/admin.crt, client-key: /etc/clusterctl/pki/admin.key}}]
`, 0o600)
	if _, err := h.readAdmin(); err == nil || !strings.Contains(err.Error(), "cluster-ca.crt") {
		t.Errorf("without its files: %v", err)
	}
	for _, name := range []string{"cluster-ca.crt", "admin.crt", "admin.key"} {
		write(t, root+hostconfig.PKIDir+"/"+name, name, 0o600)
	}
	raw, err := h.readAdmin()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), hostconfig.PKIDir) || strings.Count(string(raw), "-data: ") != 3 {
		t.Errorf("kubeconfig: %s", raw)
	}
}

func TestManifestsWithoutAPI(t *testing.T) {
	h := New(Options{Root: t.TempDir(), Init: newFakeInit()})
	for _, op := range []hostop.Op{&hostop.Manifests{Name: "dns"}, &hostop.NodeReady{Name: "a"}} {
		if differs, err := h.Check(t.Context(), op); err != nil || differs != "the API is not there yet" {
			t.Errorf("%s: %q, %v", op.Describe(), differs, err)
		}
	}
}

func TestNodeReady(t *testing.T) {
	const path = "/api/v1/nodes/a"
	node := map[string]any{"metadata": map[string]any{"name": "a", "labels": map[string]any{"role": "web"}}}
	f := &fakeAPI{objects: map[string]map[string]any{}}
	h := controlPlane(t, f)
	o := &hostop.NodeReady{Name: "a", Labels: map[string]string{"role": "db"}, Timeout: 30 * time.Second}
	check := func(want string) {
		t.Helper()
		if differs, err := h.Check(t.Context(), o); err != nil || differs != want {
			t.Errorf("check: %q, %v; want %q", differs, err, want)
		}
	}
	set := func(status string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.objects[path] = node
		if status != "" {
			node["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": status, "reason": "NetworkNotReady", "message": "no network"}}}
		}
	}
	check("has not registered yet")
	set("")
	check("lacks label role")
	o.Labels["role"] = "web"
	check("has not told its state yet")
	set("False")
	check("is not Ready: NetworkNotReady no network")

	o.Labels["role"] = "db"
	time.AfterFunc(300*time.Millisecond, func() { set("True") })
	if changed, err := h.Apply(t.Context(), o, ignore); err != nil || !changed {
		t.Errorf("apply: %v, %v", changed, err)
	}
	if got := f.took(); len(got) != 1 || got[0] != "application/strategic-merge-patch+json "+path+" clusterctl" {
		t.Errorf("sent %q", got)
	}
	check("")
	o.Name, o.Timeout = "b", 5*time.Second
	if _, err := h.Apply(t.Context(), o, ignore); err == nil || !strings.Contains(err.Error(), "has not registered yet") {
		t.Errorf("got %v", err)
	}
}

func TestWhatTheLimitCutShortIsNotTheLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		err := until(t.Context(), 10*time.Second, time.Second, func(string) {}, func(ctx context.Context) (string, error) {
			if asked++; asked == 1 {
				return "has not registered yet", nil
			}
			<-ctx.Done()
			return "the API does not answer: " + ctx.Err().Error(), nil
		})
		if err == nil || err.Error() != "not so within 10s: has not registered yet" {
			t.Errorf("got %v", err)
		}
	})
}
