package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

const (
	faultNamespace = "faults"
	faultService   = "web"
	faultConfig    = "settings"
)

// TestFaults breaks nodes, and looks for what pods leave behind on them. `make
// faults` has it do so in every way that the lab can.
func TestFaults(t *testing.T) {
	long := os.Getenv("CLUSTERCTL_FAULTS") != ""
	c := newLab(t, "e2e-faults", 1, 2, 0)
	if long { // what worker2 is filled up to has to be small
		c.hosts(t, "mkdir -p /var/lib/clusterctl && mount -t tmpfs -o size=1500m,mode=755 small-disk /var/lib/clusterctl", "worker2")
	}
	c.up(t)
	c.wantNodesReady(t, 3)
	c.run(t, "image", "load", c.inventory, "../../bin/sample.tar")
	newFaults(t, c).run(t, long)
}

// faults is a cluster whose first two workers run four pods behind a Service.
type faults struct {
	*cluster
	api   *kubernetes.Clientset
	leaks *leakCheck
	url   string // of the Service, at the first control plane's node port
}

func newFaults(t *testing.T, c *cluster) *faults {
	f := &faults{cluster: c, api: c.client(t, "")}
	ctx := t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.api.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: faultNamespace}}, metav1.CreateOptions{}))
	t.Cleanup(func() { c.run(t, "delete", "namespace", faultNamespace, "--timeout", "90s") })
	must(f.api.CoreV1().ConfigMaps(faultNamespace).Create(ctx, &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: faultConfig}, Data: map[string]string{"greeting": "update 0"}}, metav1.CreateOptions{}))
	service, err := f.api.CoreV1().Services(faultNamespace).Create(ctx, &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: faultService},
		Spec: v1.ServiceSpec{Type: v1.ServiceTypeNodePort, Selector: map[string]string{"app": faultService},
			Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	must(service, err)
	f.url = fmt.Sprintf("http://%s:%d/", c.address(t, "cp1"), service.Spec.Ports[0].NodePort)
	for _, worker := range []string{"worker1", "worker2"} {
		for i := range 2 {
			f.createPod(t, fmt.Sprintf("%s-%s-%d", faultService, worker, i), faultService, worker)
		}
	}
	f.wantRunning(t, faultService, 4)
	f.wantServed(t, 4)
	f.leaks = newLeakCheck(t, c)
	return f
}

func (f *faults) run(t *testing.T, long bool) {
	step := func(name string, do func(*testing.T)) {
		if !t.Failed() {
			t.Run(name, do)
		}
	}
	step("the agent is killed", func(t *testing.T) { f.killed(t, "clusterctl-nodeagent") })
	step("containerd is killed", func(t *testing.T) { f.killed(t, "clusterctl-containerd") })
	step("a ConfigMap is updated a thousand times", func(t *testing.T) { f.updated(t, 1000) })
	step("a node loses power", f.powerCut)
	if !long {
		return
	}
	step("both are killed while pods come and go", func(t *testing.T) { f.killedBusy(t, 20) })
	step("a node's pods are deleted at once", f.crowd)
	step("a link is cut", func(t *testing.T) { f.linkCut(t, 10*time.Second) })
	step("a node is shut down", f.shutDown)
	step("a disk is full", f.diskFull)
	if os.Getenv("CLUSTERCTL_CLOCK") != "" {
		step("the clock jumps", func(t *testing.T) { f.clockJumps(t, 10*time.Minute, time.Minute) })
	}
	step("a node is partitioned for 90 s", func(t *testing.T) { f.partitioned(t, 90*time.Second) })
	step("a node is partitioned for ten minutes", func(t *testing.T) { f.partitioned(t, 10*time.Minute) })
}

// createPod makes a pod of the sample, on a node, with volumes of several kinds.
func (f *faults) createPod(t testing.TB, name, app, node string) {
	t.Helper()
	grace := int64(2)
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec: v1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &grace,
			Containers: []v1.Container{{
				Name: "sample", Image: "clusterctl.dev/sample:1",
				Env: []v1.EnvVar{{Name: "POD_NAME", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
					{Name: "NODE_NAME", Value: node}},
				ReadinessProbe: &v1.Probe{PeriodSeconds: 2, TimeoutSeconds: 10, FailureThreshold: 10,
					ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}},
				VolumeMounts: []v1.VolumeMount{{Name: "settings", MountPath: "/etc/sample"}, {Name: "memory", MountPath: "/memory"}, {Name: "disk", MountPath: "/disk"}},
			}},
			Volumes: []v1.Volume{
				{Name: "settings", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: faultConfig}}}},
				{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
				{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			},
		},
	}
	// The service account's controller may be a moment behind the namespace.
	eventually(t, 30*time.Second, "create pod "+name, func(ctx context.Context) error {
		_, err := f.api.CoreV1().Pods(faultNamespace).Create(ctx, pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // an answer that was lost
		}
		return err
	})
}

func (f *faults) pods(ctx context.Context, app string) ([]v1.Pod, error) {
	list, err := f.api.CoreV1().Pods(faultNamespace).List(ctx, metav1.ListOptions{LabelSelector: labels.Set{"app": app}.String()})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// wantRunning waits until n pods of app are ready.
func (f *faults) wantRunning(t testing.TB, app string, n int) {
	t.Helper()
	took := eventually(t, 5*time.Minute, fmt.Sprintf("%d pods of %s ready", n, app), func(ctx context.Context) error {
		pods, err := f.pods(ctx, app)
		ready := 0
		for i := range pods {
			if podReady(&pods[i]) {
				ready++
			}
		}
		if err == nil && ready != n {
			err = fmt.Errorf("%d of %d pods are ready", ready, len(pods))
		}
		return err
	})
	t.Logf("%d pods ready after %s", n, took.Round(100*time.Millisecond))
}

// remove deletes every pod of app at once and waits until the API has none.
func (f *faults) remove(t testing.TB, app string) {
	t.Helper()
	selector := metav1.ListOptions{LabelSelector: labels.Set{"app": app}.String()}
	asked := false
	took := eventually(t, 5*time.Minute, "pods of "+app+" gone", func(ctx context.Context) error {
		if !asked {
			if err := f.api.CoreV1().Pods(faultNamespace).DeleteCollection(ctx, metav1.DeleteOptions{}, selector); err != nil {
				return err
			}
			asked = true
		}
		pods, err := f.pods(ctx, app)
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("%d are left, %s among them", len(pods), pods[0].Name)
		}
		return err
	})
	t.Logf("pods gone after %s", took.Round(100*time.Millisecond))
}

// containers says which containers the service's pods on a node run, and how
// often they were started again.
func (f *faults) containers(t testing.TB, node string) string {
	t.Helper()
	var pods []v1.Pod
	eventually(t, 30*time.Second, "list pods", func(ctx context.Context) (err error) {
		pods, err = f.pods(ctx, faultService)
		return err
	})
	var b strings.Builder
	for _, pod := range pods {
		for _, status := range pod.Status.ContainerStatuses {
			if pod.Spec.NodeName == node {
				fmt.Fprintln(&b, pod.Name, status.ContainerID, status.RestartCount, pod.Status.PodIP)
			}
		}
	}
	return b.String()
}

func podReady(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// ask sends one request to the Service, over a connection of its own.
func (f *faults) ask(ctx context.Context) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// wantServed waits until n different pods have answered in 20 requests without
// a failure.
func (f *faults) wantServed(t testing.TB, n int) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the Service is served by %d pods", n), func(context.Context) error {
		seen := map[string]bool{}
		for range 8 * n {
			answer, err := f.ask(t.Context())
			if err != nil {
				return err
			}
			_, pod, _ := strings.Cut(answer, "from pod ")
			seen[pod] = true
		}
		if len(seen) != n {
			return fmt.Errorf("%d pods answered", len(seen))
		}
		return nil
	})
}

// traffic asks the Service again and again until the returned function is
// called, which fails the test if a request did.
func (f *faults) traffic(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	var sent int
	var failed []string
	done.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			// An answer that is under way when we stop is waited for.
			if _, err := f.ask(context.WithoutCancel(ctx)); err != nil {
				failed = append(failed, began.Format("15:04:05.000 ")+err.Error())
			}
			sent++
			time.Sleep(20 * time.Millisecond)
		}
	})
	return func() {
		t.Helper()
		cancel()
		done.Wait()
		t.Logf("%d requests meanwhile, %d failed", sent, len(failed))
		if len(failed) > 0 || sent == 0 {
			t.Errorf("%d of %d requests failed meanwhile:\n%s", len(failed), sent, strings.Join(failed[:min(5, len(failed))], "\n"))
		}
	}
}

// killUnit ends a unit's program at once and waits for its successor.
func (f *faults) killUnit(t testing.TB, unit, host string) {
	t.Helper()
	f.hosts(t, fmt.Sprintf(`old=$(systemctl show -P MainPID %[1]s); kill -9 $old
		for i in $(seq 300); do
			new=$(systemctl show -P MainPID %[1]s)
			test "$new" != 0 && test "$new" != "$old" && test "$(systemctl is-active %[1]s)" = active && exit 0
			sleep 0.2
		done
		systemctl status %[1]s; exit 1`, unit), host)
}

// killed ends a unit of worker1, under traffic: no request fails, no
// container is started again.
func (f *faults) killed(t *testing.T, unit string) {
	before := f.containers(t, "worker1")
	stop := f.traffic(t)
	f.killUnit(t, unit, "worker1")
	f.createPod(t, "after", "after", "worker1")
	f.wantRunning(t, "after", 1) // it works again, and has looked at every pod
	stop()
	if after := f.containers(t, "worker1"); after != before {
		t.Errorf("containers changed:\n%s", difference(before, after))
	}
	f.remove(t, "after")
	f.leaks.wantNone(t, time.Minute)
}

// killedBusy ends agent and containerd of worker1 at random moments while n
// pods start and again while they end.
func (f *faults) killedBusy(t *testing.T, n int) {
	before := f.containers(t, "worker1")
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	disturb := func() {
		for _, unit := range []string{"clusterctl-nodeagent", "clusterctl-containerd", "clusterctl-nodeagent"} {
			time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
			f.killUnit(t, unit, "worker1")
		}
	}
	for i := range n {
		f.createPod(t, fmt.Sprintf("busy-%d", i), "busy", "worker1")
	}
	disturb()
	f.wantRunning(t, "busy", n)
	var done sync.WaitGroup
	done.Go(disturb)
	f.remove(t, "busy")
	done.Wait()
	f.leaks.wantNone(t, 2*time.Minute)
	if after := f.containers(t, "worker1"); after != before {
		t.Errorf("containers of other pods changed:\n%s", difference(before, after))
	}
}

// updated changes a mounted ConfigMap n times: what came last arrives in every
// pod.
func (f *faults) updated(t *testing.T, n int) {
	before := f.containers(t, "worker1")
	began := time.Now()
	last := ""
	for i := range n {
		last = fmt.Sprintf("update %d of %d at %d", i+1, n, began.Unix())
		patch := fmt.Sprintf(`{"data":{"greeting":%q}}`, last)
		eventually(t, 30*time.Second, "update the ConfigMap", func(ctx context.Context) error {
			_, err := f.api.CoreV1().ConfigMaps(faultNamespace).Patch(ctx, faultConfig, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			return err
		})
	}
	t.Logf("%d updates took %s", n, time.Since(began).Round(100*time.Millisecond))
	took := eventually(t, 2*time.Minute, "the last update is in every pod", func(context.Context) error {
		for range 32 {
			answer, err := f.ask(t.Context())
			if err != nil {
				return err
			}
			if !strings.HasPrefix(answer, last+" from") {
				return fmt.Errorf("a pod says %q", answer)
			}
		}
		return nil
	})
	t.Logf("the last one was in every pod %s later", took.Round(100*time.Millisecond))
	if after := f.containers(t, "worker1"); after != before {
		t.Errorf("containers changed:\n%s", difference(before, after))
	}
	out := f.hosts(t, `find /var/lib/clusterctl/nodeagent/pods/*/volumes/kubernetes.io~configmap/settings -mindepth 1 -maxdepth 1 -type d | wc -l; ls -d /var/lib/clusterctl/nodeagent/pods/*/volumes/kubernetes.io~configmap/settings | wc -l`, "worker1")
	if f := strings.Fields(out); len(f) != 4 || f[2] != f[3] {
		t.Errorf("folders of data and volumes that they are in: %s", out)
	}
	f.leaks.wantNone(t, time.Minute)
}

// crowd starts as many pods as worker1 takes and deletes them all at once.
func (f *faults) crowd(t *testing.T) {
	list, err := f.api.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=worker1"})
	if err != nil {
		t.Fatal(err)
	}
	n := 110 - len(list.Items)
	for i := range n {
		f.createPod(t, fmt.Sprintf("crowd-%d", i), "crowd", "worker1")
	}
	f.wantRunning(t, "crowd", n)
	f.remove(t, "crowd")
	f.leaks.wantNone(t, 2*time.Minute)
}
