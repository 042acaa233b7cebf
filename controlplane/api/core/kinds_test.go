package core

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

// scheme has the group's kinds registered.
func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s, err := api.NewScheme(Kinds())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRows(t *testing.T) {
	// A cell too many or too few breaks every `kubectl get`.
	for name, n := range map[string][2]int{
		"pod":     {len(podColumns), len(podRow(&corev1.Pod{}))},
		"event":   {len(EventColumns()), len(EventRow(&corev1.Event{}))},
		"service": {7, len(serviceRow(&corev1.Service{}))},
		"volume":  {11, len(volumeRow(&corev1.PersistentVolume{}))},
		"claim":   {9, len(claimRow(&corev1.PersistentVolumeClaim{}))},
		"quota":   {4, len(quotaRow(&corev1.ResourceQuota{}))},
		"node":    {10, len(nodeRow(&corev1.Node{}))},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: %d columns, %d cells", name, n[0], n[1])
		}
	}
}

func TestOptionsFromQuery(t *testing.T) {
	codec := runtime.NewParameterCodec(scheme(t))
	v1 := schema.GroupVersion{Version: "v1"}
	logs := &corev1.PodLogOptions{}
	query := url.Values{"container": {"c"}, "follow": {"true"}, "previous": {"false"}, "tailLines": {"5"}, "sinceTime": {"2026-01-02T03:04:05Z"}}
	if err := codec.DecodeParameters(query, v1, logs); err != nil {
		t.Fatal(err)
	}
	want := &corev1.PodLogOptions{Container: "c", Follow: true, TailLines: ptr.To[int64](5), SinceTime: ptr.To(metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
	if diff := cmp.Diff(want, logs); diff != "" {
		t.Errorf("log options (-want +got):\n%s", diff)
	}
	if err := codec.DecodeParameters(url.Values{"tailLines": {"many"}}, v1, &corev1.PodLogOptions{}); err == nil || !strings.Contains(err.Error(), "parameter tailLines") {
		t.Errorf("tailLines=many: %v", err)
	}
	exec := &corev1.PodExecOptions{}
	if err := codec.DecodeParameters(url.Values{"command": {"sh", "-c", "ls"}, "stdin": {"1"}, "tty": {""}}, v1, exec); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&corev1.PodExecOptions{Command: []string{"sh", "-c", "ls"}, Stdin: true, TTY: true}, exec); diff != "" {
		t.Errorf("exec options (-want +got):\n%s", diff)
	}
	ports := &corev1.PodPortForwardOptions{}
	if err := codec.DecodeParameters(url.Values{"ports": {"80", "443"}}, v1, ports); err != nil || len(ports.Ports) != 2 {
		t.Errorf("ports %v, %v", ports.Ports, err)
	}
}

func TestChooseContainer(t *testing.T) {
	pod := newPod(func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x"}}
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "x"})
	})
	for name, want := range map[string]string{
		"i": "", "d": "",
		"":  "a container name must be specified for pod web, choose one of: [i c d]",
		"z": "container z is not valid for pod web",
	} {
		got, err := chooseContainer(pod, name)
		if want == "" && (err != nil || got != name) || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("container %q: %q, %v", name, got, err)
		}
	}
}

func TestValidateConfigMap(t *testing.T) {
	const key = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
	c := &corev1.ConfigMap{Data: map[string]string{"a/b": "", "c": ""}, BinaryData: map[string][]byte{"c": nil}}
	want := []string{`data[a/b]: Invalid value: "a/b": ` + key, `data[c]: Invalid value: "c": duplicate of key present in binaryData`}
	if diff := cmp.Diff(want, texts(validateConfigMap(c))); diff != "" {
		t.Error(diff)
	}
	c = &corev1.ConfigMap{Data: map[string]string{"a": strings.Repeat("x", 1<<20+1)}}
	if got := texts(validateConfigMap(c)); len(got) != 1 || !strings.Contains(got[0], "Too long: may not be more than 1048576 bytes") {
		t.Errorf("large map: %q", got)
	}
	got := texts(validateSealed(nil, ptr.To(true), sealed{"data", false}))
	want = []string{"immutable: Forbidden: field is immutable when `immutable` is set", "data: Forbidden: field is immutable when `immutable` is set"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSecret(t *testing.T) {
	s := &corev1.Secret{StringData: map[string]string{"a": "b"}}
	defaultSecret(s)
	if string(s.Data["a"]) != "b" || s.StringData != nil || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("folded to %+v", s)
	}
	for kind, want := range map[corev1.SecretType][]string{
		corev1.SecretTypeTLS:                 {"data[tls.crt]: Required value", "data[tls.key]: Required value"},
		corev1.SecretTypeDockerConfigJson:    {"data[.dockerconfigjson]: Required value"},
		corev1.SecretTypeBasicAuth:           {"data[username]: Required value", "data[password]: Required value"},
		corev1.SecretTypeSSHAuth:             {"data[ssh-privatekey]: Required value"},
		corev1.SecretTypeServiceAccountToken: {"metadata.annotations[kubernetes.io/service-account.name]: Required value"},
		"example.com/own":                    {},
	} {
		if diff := cmp.Diff(want, texts(validateSecret(&corev1.Secret{Type: kind}))); diff != "" {
			t.Errorf("%s:\n%s", kind, diff)
		}
	}
	got := texts(validateSecret(&corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{".dockerconfigjson": []byte("secret")}}))
	if len(got) != 1 || !strings.HasPrefix(got[0], `data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": `) {
		t.Errorf("broken document: %q", got)
	}
}

func TestNamespace(t *testing.T) {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	defaultNamespace(n)
	if n.Labels[corev1.LabelMetadataName] != "a" || n.Status.Phase != corev1.NamespaceActive {
		t.Errorf("defaulted to %+v", n)
	}
	n.Spec.Finalizers = []corev1.FinalizerName{"kubernetes", "odd"}
	if diff := cmp.Diff([]string{`spec.finalizers: Invalid value: "odd": name is neither a standard finalizer name nor is it fully qualified`}, texts(validateNamespace(n))); diff != "" {
		t.Error(diff)
	}
	n.Status.Phase = corev1.NamespaceTerminating
	if diff := cmp.Diff([]string{"status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"}, texts(validateNamespacePhase(n))); diff != "" {
		t.Error(diff)
	}
	policy := metav1.DeletePropagationForeground
	propagate(n, &metav1.DeleteOptions{PropagationPolicy: &policy})
	if diff := cmp.Diff([]string{metav1.FinalizerDeleteDependents}, n.Finalizers); diff != "" {
		t.Error(diff)
	}
}

func TestNode(t *testing.T) {
	n := &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.1.0.0/24", Taints: []corev1.Taint{{Key: "a", Effect: "NoSchedule"}, {Key: "a", Effect: "NoSchedule"}, {Key: "b"}}}}
	defaultNode(n)
	if diff := cmp.Diff([]string{"10.1.0.0/24"}, n.Spec.PodCIDRs); diff != "" {
		t.Error(diff)
	}
	want := []string{
		`metadata.taints[1]: Duplicate value: {"key":"a","effect":"NoSchedule"}: taints must be unique by key and effect pair`,
		"metadata.taints[2].effect: Required value",
	}
	if diff := cmp.Diff(want, texts(validateNode(n))); diff != "" {
		t.Error(diff)
	}
	moved := n.DeepCopy()
	moved.Spec.PodCIDRs = []string{"10.2.0.0/24"}
	if diff := cmp.Diff([]string{`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`}, texts(validateNodeUpdate(moved, n))); diff != "" {
		t.Error(diff)
	}
	n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "worker"}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Spec.Unschedulable = true
	if row := nodeRow(n); row[1] != "Ready,SchedulingDisabled" || row[2] != "control-plane,worker" {
		t.Errorf("row %v", row)
	}
}

func TestValidateSubsets(t *testing.T) {
	subsets := []corev1.EndpointSubset{ //nolint:staticcheck // Endpoints are served
		{},
		{Addresses: []corev1.EndpointAddress{{IP: "169.254.1.1"}}, Ports: []corev1.EndpointPort{{Port: 80, Protocol: "TCP"}, {Port: 81, Protocol: "TCP", Name: "b"}}}, //nolint:staticcheck // see above
	}
	want := []string{
		"subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
		`subsets[1].addresses[0].ip: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`,
		"subsets[1].ports[0].name: Required value",
	}
	if diff := cmp.Diff(want, texts(validateSubsets(subsets))); diff != "" {
		t.Error(diff)
	}
}

func TestValidateEvent(t *testing.T) {
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}, InvolvedObject: corev1.ObjectReference{Namespace: "b"}}
	if diff := cmp.Diff([]string{`involvedObject.namespace: Invalid value: "b": does not match event.namespace`}, texts(ValidateEvent(e, "reportingComponent"))); diff != "" {
		t.Error(diff)
	}
	e = &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}, InvolvedObject: corev1.ObjectReference{Namespace: "a"}, EventTime: metav1.NowMicro(), ReportingController: "k8s.io/x", Reason: "R"}
	if diff := cmp.Diff([]string{"reportingInstance: Required value", "action: Required value"}, texts(ValidateEvent(e, "reportingComponent"))); diff != "" {
		t.Error(diff)
	}
}

func TestKeepForResize(t *testing.T) {
	old := newPod(nil)
	pod := old.DeepCopy()
	pod.Spec.NodeName, first(pod).Image = "elsewhere", "other"
	first(pod).ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.NotRequired}}
	keepForResize(pod, old)
	if pod.Spec.NodeName != "" || first(pod).Image != "nginx:1.27" || len(first(pod).ResizePolicy) != 1 {
		t.Errorf("kept %+v", pod.Spec)
	}
}

func TestUpdatingRaisesGeneration(t *testing.T) {
	s := updating[*corev1.Pod]{keep: keepForResize, spec: func(p *corev1.Pod) any { return p.Spec }}
	old := newPod(func(p *corev1.Pod) { p.Generation = 4 })
	pod := old.DeepCopy()
	s.PrepareForUpdate(context.Background(), pod, old)
	if pod.Generation != 4 {
		t.Errorf("generation %d after no change", pod.Generation)
	}
	first(pod).ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.NotRequired}}
	s.PrepareForUpdate(context.Background(), pod, old)
	if pod.Generation != 5 {
		t.Errorf("generation %d after a change, want 5", pod.Generation)
	}
}

func TestReplicationController(t *testing.T) {
	c := &corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "x:1"}}},
	}}}
	defaultReplicationController(c)
	if c.Spec.Selector["a"] != "b" || c.Labels["a"] != "b" || *c.Spec.Replicas != 1 {
		t.Errorf("defaulted to %+v", c)
	}
	c.Spec.Selector["c"] = "d"
	want := []string{
		`spec.template.metadata.labels: Invalid value: {"a":"b"}: ` + "`selector` does not match template `labels`",
		`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`,
	}
	if diff := cmp.Diff(want, texts(validateReplicationController(c))); diff != "" {
		t.Error(diff)
	}
	got := texts(validateReplicaCounts(&corev1.ReplicationControllerStatus{Replicas: 1, ReadyReplicas: 2}))
	if diff := cmp.Diff([]string{"status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"}, got); diff != "" {
		t.Error(diff)
	}
}
