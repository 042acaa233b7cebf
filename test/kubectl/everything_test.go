package kubectl

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// made are kinds that are made otherwise than from a manifest.
var made = map[string]string{
	"Event":                     "the control plane makes them",
	"CertificateSigningRequest": "TestKubectl/access makes one",
	"APIService":                "the control plane makes them; one more would break discovery",
}

// testEverything applies an object of every kind and shows it in every form.
func testEverything(t *testing.T, u *user) {
	const path = "testdata/everything.yaml"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, document := range strings.Split(string(raw), "\n---\n") {
		var object metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		kinds[object.Kind] = object.Name
	}
	u.checkComplete(t, kinds)
	f := " -f " + path
	u.do(t,
		step{args: "apply --server-side --dry-run=server" + f},
		step{args: "create --dry-run=client -o name" + f, want: []string{"configmap/sample", "deployment.apps/sample"}},
		step{args: "diff" + f, code: 1, want: []string{"+kind: ConfigMap", "+kind: FlowSchema"}},
		step{args: "apply" + f, want: []string{"configmap/sample created", "customresourcedefinition.apiextensions.k8s.io/samples.kubectl.example.com created"}},
		step{args: "wait --for=condition=Established crd/samples.kubectl.example.com --timeout=60s", want: []string{"condition met"}},
		step{args: "wait --for=condition=Available deployment/sample --timeout=120s", want: []string{"condition met"}},
		step{args: "wait --for=condition=Complete job/sample --timeout=120s", want: []string{"condition met"}},
		step{args: "wait pod/sample --for=jsonpath={.status.phase}=Running --timeout=120s", want: []string{"condition met"}},
		step{args: "apply" + f, want: []string{"configmap/sample unchanged"}, never: []string{" created", "flowschema.flowcontrol.apiserver.k8s.io/sample configured"}},
		step{args: "get -o name" + f, want: []string{"node/sample", "ipaddress.networking.k8s.io/10.201.0.1"}},
		step{args: "get -o wide" + f, want: []string{"CLUSTER-IP", "IMAGES"}},
		step{args: "get -o yaml --show-managed-fields" + f, want: []string{"kind: List", "manager: kubectl-client-side-apply"}},
		step{args: "get -o json" + f, want: []string{`"kind": "List"`}},
	)
	described := []string{"Name:"}
	for _, name := range kinds {
		described = append(described, name)
	}
	u.do(t,
		step{args: "describe" + f, want: described, never: []string{"rror:"}},
		step{args: "describe apiservice v1.apps", want: []string{"Name:         v1.apps", "Local"}},
		step{args: "get all", want: []string{"pod/sample", "deployment.apps/sample", "cronjob.batch/sample", "horizontalpodautoscaler.autoscaling/sample"}},
		step{args: "apply --server-side --force-conflicts" + f, want: []string{"configmap/sample serverside-applied"}},
		step{args: "delete --wait --timeout=120s" + f, want: []string{`configmap "sample" deleted`}},
		step{args: "get --ignore-not-found -o name configmap/sample deployment/sample"},
	)
}

// checkComplete fails where a kind that can be created is not among kinds.
func (u *user) checkComplete(t *testing.T, kinds map[string]string) {
	t.Helper()
	lists, err := u.client.Discovery().ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "create") || !slices.Contains(r.Verbs, "list") || made[r.Kind] != "" || strings.HasSuffix(version.Group, "example.com") {
				continue
			}
			if _, ok := kinds[r.Kind]; !ok {
				t.Errorf("%s of %s is not in %s", r.Kind, version, filepath.Join("testdata", "everything.yaml"))
			}
		}
	}
	if len(kinds) < 40 {
		t.Errorf("only %d kinds: %v", len(kinds), slices.Sorted(maps.Keys(kinds)))
	}
}
