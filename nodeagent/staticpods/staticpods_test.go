package staticpods

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

const sample = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: c
    image: nginx
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: 100m}}
    readinessProbe: {httpGet: {port: 80}}
`

func TestParse(t *testing.T) {
	pod, err := Parse([]byte(sample), "/m/web.yaml", "Node1", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	c := pod.Spec.Containers[0]
	if pod.Name != "web-node1" || pod.Namespace != "default" || pod.Spec.NodeName != "Node1" || len(pod.UID) != 32 ||
		pod.Annotations[annotationHash] != string(pod.UID) || pod.Annotations[annotationSource] != "file" {
		t.Errorf("identity: %+v", pod.ObjectMeta)
	}
	if pod.Spec.RestartPolicy != v1.RestartPolicyAlways || c.ImagePullPolicy != v1.PullAlways || c.Ports[0].Protocol != v1.ProtocolTCP ||
		c.Resources.Requests.Cpu().String() != "100m" || c.ReadinessProbe.PeriodSeconds != 10 || c.ReadinessProbe.HTTPGet.Path != "/" ||
		*pod.Spec.TerminationGracePeriodSeconds != 30 || pod.Spec.Tolerations[0].Effect != v1.TaintEffectNoExecute {
		t.Errorf("defaults: %+v", pod.Spec)
	}
	again, err := Parse([]byte(sample), "/m/web.yaml", "Node1", time.Now())
	if err != nil || again.UID != pod.UID {
		t.Errorf("the same manifest is another pod: %v %v", again, err)
	}
	other, err := Parse([]byte(strings.ReplaceAll(sample, "nginx", "nginx:1")), "/m/web.yaml", "Node1", time.Now())
	if err != nil || other.UID == pod.UID || other.Spec.Containers[0].ImagePullPolicy != v1.PullIfNotPresent {
		t.Errorf("another manifest: %+v %v", other, err)
	}
	for _, c := range []struct{ change, to, say string }{
		{"kind: Pod", "kind: Job", "want a Pod"},
		{"name: web,", "", "name is needed"},
		{"name: web,", "name: We_b,", "name"},
		{"image: nginx", "image: ''", "no image"},
		{"- name: c", "- name: c\n    typo: x", "unknown field"},
		{"- name: c", "- name: C", "container"},
		{"spec:", "spec:\n  serviceAccountName: x", "service account"},
		{"spec:", "spec:\n  volumes: [{name: v, secret: {secretName: x}}]", "objects of the API"},
		{"spec:", "spec: {", "parse manifest"},
	} {
		if _, err := Parse([]byte(strings.Replace(sample, c.change, c.to, 1)), "f", "n", time.Now()); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %q", c.to, err, c.say)
		}
	}
}

func TestFolderFollowsItsFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string, at int64) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Unix(at, 0), time.Unix(at, 0)); err != nil {
			t.Fatal(err)
		}
	}
	f := &Folder{Dir: filepath.Join(dir, "none"), Node: "n", Logger: slog.New(slog.DiscardHandler), files: map[string]manifest{}}
	if f.look() {
		t.Error("a folder that is not there has pods")
	}
	f.Dir = dir
	put("b.yaml", sample, 1)
	put(".hidden", sample, 1)
	put("junk", "{", 1)
	if !f.look() || len(f.pods()) != 1 {
		t.Fatalf("got %v", f.pods())
	}
	uid := f.pods()[0].UID
	if f.look() {
		t.Error("nothing changed")
	}
	put("b.yaml", sample+" ", 2)
	if !f.look() || f.pods()[0].UID == uid {
		t.Error("a changed file is no change")
	}
	uid = f.pods()[0].UID
	put("b.yaml", "{", 3)
	if f.look() || f.pods()[0].UID != uid {
		t.Error("a file half written ended its pod")
	}
	put("a.yaml", sample, 4)
	if !f.look() || len(f.pods()) != 1 || f.pods()[0].UID == uid {
		t.Error("of two files of one pod the first does not win")
	}
	for _, name := range []string{"a.yaml", "b.yaml"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if !f.look() || len(f.pods()) != 0 {
		t.Error("a pod without its file stays")
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan int, 10)
	go f.Watch(ctx, func(pods []*v1.Pod) { got <- len(pods) })
	if n := <-got; n != 0 {
		t.Errorf("got %d pods", n)
	}
	put("c.yaml", sample, 5)
	select {
	case n := <-got:
		if n != 1 {
			t.Errorf("got %d pods", n)
		}
	case <-time.After(30 * time.Second):
		t.Error("a new file goes unnoticed")
	}
	cancel()
}
