package templates

import (
	"bytes"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"clusterctl/hostconfig"
)

func TestUnits(t *testing.T) {
	for _, name := range []string{
		hostconfig.UnitEtcd, hostconfig.UnitControlPlane, hostconfig.UnitContainerd, hostconfig.UnitNodeAgent,
	} {
		t.Run(name, func(t *testing.T) {
			able, err := Unit(name, Host{SysResource: true})
			if err != nil {
				t.Fatal(err)
			}
			unable, err := Unit(name, Host{})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"ExecStart=/usr/local/lib/clusterctl/current/", "WantedBy=multi-user.target", "Restart=always"} {
				if !strings.Contains(string(unable), want) {
					t.Errorf("lacks %s:\n%s", want, unable)
				}
			}
			if !strings.Contains(string(able), "OOMScoreAdjust=-99") {
				t.Errorf("does not lower its OOM score where it may:\n%s", able)
			}
			for line := range strings.Lines(string(unable)) {
				if strings.HasPrefix(line, "OOMScoreAdjust") || strings.HasPrefix(line, "Limit") {
					t.Errorf("would fail without CAP_SYS_RESOURCE: %s", line)
				}
			}
		})
	}
}

func TestContainerd(t *testing.T) {
	raw, err := Containerd(Host{SandboxImage: "clusterctl.dev/pause:1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"version = 3\n", "root = '/var/lib/clusterctl/containerd'", "state = '/run/clusterctl/containerd'",
		"address = '/run/clusterctl/containerd.sock'", "sandbox = 'clusterctl.dev/pause:1'",
		"BinaryName = '/usr/local/lib/clusterctl/current/runc'", "bin_dirs = ['/usr/local/lib/clusterctl/current/cni']",
		"conf_dir = '/etc/clusterctl/cni'", "restrict_oom_score_adj = true",
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("lacks %q:\n%s", want, raw)
		}
	}
	raw, err = Containerd(Host{SysResource: true})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), "restrict_oom_score_adj = false") {
		t.Error("restricts OOM scores where it need not")
	}
}

func TestCRIO(t *testing.T) {
	raw, err := CRIO(Host{SandboxImage: "clusterctl.dev/pause:1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"listen = '/run/crio/crio.sock'\n", "pause_image = 'clusterctl.dev/pause:1'\n", "enable_pod_events = true\n",
		"network_dir = '/etc/clusterctl/cni'\n", "plugin_dirs = ['/usr/local/lib/clusterctl/current/cni']\n",
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("lacks %q:\n%s", want, raw)
		}
	}
}

// The manifests have to be what the API's own types understand, key by key.
func TestCoreDNSManifests(t *testing.T) {
	raw, err := CoreDNSManifests(CoreDNS{Image: "clusterctl.dev/coredns:v1", Domain: "corp.local", Address: "10.96.0.10", Upstream: []string{"192.0.2.1", "192.0.2.2"},
		Stubs: []Stub{{Domain: "corp.example", Servers: []string{"192.0.2.3", "[2001:db8::3]:5353"}}, {Domain: "lab.example", Servers: []string{"192.0.2.4"}}}})
	if err != nil {
		t.Fatal(err)
	}
	objects := []runtime.Object{
		&corev1.ServiceAccount{}, &rbacv1.ClusterRole{}, &rbacv1.ClusterRoleBinding{}, &corev1.ConfigMap{},
		&appsv1.Deployment{}, &policyv1.PodDisruptionBudget{}, &corev1.Service{},
	}
	documents := bytes.Split(raw, []byte("\n---\n"))
	if len(documents) != len(objects) {
		t.Fatalf("%d documents, want %d", len(documents), len(objects))
	}
	for i, document := range documents {
		if err := yaml.UnmarshalStrict(document, objects[i]); err != nil {
			t.Errorf("document %d: %v", i, err)
		}
	}
	corefile := objects[3].(*corev1.ConfigMap).Data["Corefile"]
	for _, want := range []string{"kubernetes corp.local in-addr.arpa", "forward . 192.0.2.1 192.0.2.2 {",
		"corp.example:53 {", "forward . 192.0.2.3 [2001:db8::3]:5353 {", "lab.example:53 {", "forward . 192.0.2.4 {"} {
		if !strings.Contains(corefile, want) {
			t.Errorf("Corefile lacks %q:\n%s", want, corefile)
		}
	}
	deployment := objects[4].(*appsv1.Deployment)
	if CoreDNSDeployment != deployment.Namespace+"/"+deployment.Name {
		t.Errorf("the Deployment is %s/%s", deployment.Namespace, deployment.Name)
	}
	if deployment.Spec.Replicas != nil {
		t.Error("the manifest sets replicas, which the control plane does")
	}
	budget := objects[5].(*policyv1.PodDisruptionBudget).Spec.Selector
	if selector, err := metav1.LabelSelectorAsSelector(budget); err != nil || !selector.Matches(labels.Set(deployment.Spec.Template.Labels)) {
		t.Errorf("the budget is not of the Deployment's pods: %v, %v", selector, err)
	}
	if image := deployment.Spec.Template.Spec.Containers[0].Image; image != "clusterctl.dev/coredns:v1" {
		t.Errorf("image %s", image)
	}
	if ip := objects[6].(*corev1.Service).Spec.ClusterIP; ip != "10.96.0.10" {
		t.Errorf("cluster IP %s", ip)
	}
	raw, err = CoreDNSManifests(CoreDNS{Image: "i", Domain: "d", Address: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "forward") {
		t.Error("forwards to nobody, which CoreDNS refuses to start with")
	}
}

func TestStorageManifests(t *testing.T) {
	raw, err := StorageManifests()
	if err != nil {
		t.Fatal(err)
	}
	var class storagev1.StorageClass
	if err := yaml.UnmarshalStrict(raw, &class); err != nil {
		t.Fatal(err)
	}
	if class.Name != hostconfig.LocalPathClass || class.Provisioner != hostconfig.LocalPathProvisioner ||
		class.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" ||
		class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		t.Errorf("class %+v", class)
	}
}
