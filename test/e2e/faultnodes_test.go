package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// wantCondition waits until a node says so.
func (f *faults) wantCondition(t testing.TB, node string, condition v1.NodeConditionType, want v1.ConditionStatus, within time.Duration) time.Duration {
	t.Helper()
	took := eventually(t, within, fmt.Sprintf("node %s has %s %s", node, condition, want), func(ctx context.Context) error {
		object, err := f.api.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range object.Status.Conditions {
			if c.Type == condition && c.Status == want {
				return nil
			} else if c.Type == condition {
				err = fmt.Errorf("it is %s: %s", c.Status, c.Message)
			}
		}
		return err
	})
	t.Logf("node %s had %s %s after %s", node, condition, want, took.Round(100*time.Millisecond))
	return took
}

// linkCut takes worker1's link away for less than anybody notices.
func (f *faults) linkCut(t *testing.T, long time.Duration) {
	before := f.containers(t, "worker1")
	f.cluster.run(t, "lab", "cut", "--name", f.name, "worker1")
	time.Sleep(long)
	f.cluster.run(t, "lab", "heal", "--name", f.name, "worker1")
	f.wantServed(t, 4)
	f.wantCondition(t, "worker1", v1.NodeReady, v1.ConditionTrue, time.Minute)
	if after := f.containers(t, "worker1"); after != before {
		t.Errorf("containers changed:\n%s", difference(before, after))
	}
	f.leaks.wantNone(t, time.Minute)
}

// powerCut ends worker1 at once and boots it again: its pods run again, the
// same ones, each started once more.
func (f *faults) powerCut(t *testing.T) {
	f.cluster.run(t, "lab", "kill", "--name", f.name, "worker1")
	began := time.Now()
	f.cluster.run(t, "lab", "start", "--name", f.name, "worker1")
	f.wantStartedAgain(t, "worker1")
	t.Logf("served by all pods %s after power came back", time.Since(began).Round(100*time.Millisecond))
	f.leaks.wantNone(t, 2*time.Minute)
}

// wantStartedAgain waits until the service's pods of a node that was down
// serve again.
func (f *faults) wantStartedAgain(t testing.TB, node string) {
	t.Helper()
	eventually(t, 2*time.Minute, "pods are started again", func(ctx context.Context) error {
		pods, err := f.pods(ctx, faultService)
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if pod.Spec.NodeName != node {
				continue
			}
			for _, status := range pod.Status.ContainerStatuses {
				if !status.Ready || status.RestartCount == 0 {
					return fmt.Errorf("pod %s: ready %t, %d restarts", pod.Name, status.Ready, status.RestartCount)
				}
			}
		}
		return nil
	})
	f.wantRunning(t, faultService, 4)
	f.wantServed(t, 4)
}

// partitioned cuts worker2 off. Once the cluster knows, nobody is sent to its
// pods; when it is back, everything is as it was.
func (f *faults) partitioned(t *testing.T, long time.Duration) {
	before := f.containers(t, "worker2")
	began := time.Now()
	f.cluster.run(t, "lab", "cut", "--name", f.name, "worker2")
	f.wantCondition(t, "worker2", v1.NodeReady, v1.ConditionUnknown, 2*time.Minute)
	known := time.Now()
	took := eventually(t, time.Minute, "the node's endpoints are out of service", func(ctx context.Context) error {
		slices, err := f.api.DiscoveryV1().EndpointSlices(faultNamespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + faultService})
		if err != nil {
			return err
		}
		for _, slice := range slices.Items {
			for _, endpoint := range slice.Endpoints {
				if *endpoint.NodeName == "worker2" && *endpoint.Conditions.Ready {
					return fmt.Errorf("%v is ready", endpoint.Addresses)
				}
			}
		}
		return nil
	})
	t.Logf("its endpoints were out of service %s later", took.Round(100*time.Millisecond))
	time.Sleep(time.Until(known.Add(5 * time.Second)))
	stop := f.traffic(t)
	time.Sleep(max(10*time.Second, long-time.Since(began)))
	stop()
	f.cluster.run(t, "lab", "heal", "--name", f.name, "worker2")
	f.wantCondition(t, "worker2", v1.NodeReady, v1.ConditionTrue, time.Minute)
	if long < 5*time.Minute { // pods stay for so long
		f.wantServed(t, 4)
		if after := f.containers(t, "worker2"); after != before {
			t.Errorf("containers changed:\n%s", difference(before, after))
		}
	} else {
		eventually(t, time.Minute, "evicted pods are gone", func(ctx context.Context) error {
			pods, err := f.pods(ctx, faultService)
			if err == nil && len(pods) != 2 {
				err = fmt.Errorf("%d pods", len(pods))
			}
			return err
		})
		f.replace(t, "worker2")
	}
	f.leaks.wantNone(t, 2*time.Minute)
}

// replace removes what ended of a node's pods of the service, and starts new
// ones.
func (f *faults) replace(t testing.TB, node string) {
	t.Helper()
	for i := range 2 {
		name := fmt.Sprintf("%s-%s-%d", faultService, node, i)
		err := f.api.CoreV1().Pods(faultNamespace).Delete(t.Context(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "pod "+name+" is gone", func(ctx context.Context) error {
			_, err := f.api.CoreV1().Pods(faultNamespace).Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("it is there (%v)", err)
		})
		f.createPod(t, name, faultService, node)
	}
	f.wantRunning(t, faultService, 4)
	f.wantServed(t, 4)
}

// shutDown has worker1 go down as its operator would: its pods end first, so
// that nobody is sent to them once it is down.
func (f *faults) shutDown(t *testing.T) {
	f.cluster.run(t, "lab", "stop", "--name", f.name, "worker1")
	stop := f.traffic(t)
	time.Sleep(5 * time.Second)
	stop()
	pods, err := f.pods(t.Context(), faultService)
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods {
		if pod.Spec.NodeName == "worker1" && (pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed || podReady(&pod)) {
			t.Errorf("the node is down, and its pod %s is %s %q, ready: %t", pod.Name, pod.Status.Phase, pod.Status.Reason, podReady(&pod))
		}
	}
	f.cluster.run(t, "lab", "start", "--name", f.name, "worker1")
	f.wantCondition(t, "worker1", v1.NodeReady, v1.ConditionTrue, 2*time.Minute)
	f.replace(t, "worker1")
	f.leaks.wantNone(t, 2*time.Minute)
}

// diskFull leaves worker2 no byte to write to, for two minutes, and then frees
// it again.
func (f *faults) diskFull(t *testing.T) {
	const settings = "/etc/clusterctl/nodeagent.yaml"
	f.hosts(t, "cp "+settings+" /root/settings; grep -q ^eviction: "+settings+" || echo eviction: >>"+settings+
		"; sed -i 's/^eviction:.*/&\\n  transitionSeconds: 15/' "+settings+"; systemctl restart clusterctl-nodeagent", "worker2")
	f.hosts(t, "dd if=/dev/zero of=/var/lib/clusterctl/full bs=1M 2>&1 | tail -1; df /var/lib/clusterctl | tail -1", "worker2")
	f.wantCondition(t, "worker2", v1.NodeDiskPressure, v1.ConditionTrue, time.Minute)
	for i := range 5 { // that cannot start
		f.createPod(t, fmt.Sprintf("full-%d", i), "full", "worker2")
	}
	time.Sleep(30 * time.Second)
	// Not containerd: it does not load what it cannot write the state of, and
	// has no container then until it is started once more.
	f.killUnit(t, "clusterctl-nodeagent", "worker2")
	time.Sleep(30 * time.Second)
	for i := range 2 { // the other worker's go on meanwhile
		if name := fmt.Sprintf("%s-worker1-%d", faultService, i); !strings.Contains(f.containers(t, "worker1"), name) {
			t.Errorf("pod %s of another node is gone", name)
		}
	}
	f.hosts(t, "rm /var/lib/clusterctl/full", "worker2")
	f.wantCondition(t, "worker2", v1.NodeDiskPressure, v1.ConditionFalse, 2*time.Minute)
	f.wantCondition(t, "worker2", v1.NodeReady, v1.ConditionTrue, time.Minute)
	f.remove(t, "full")
	f.replace(t, "worker2")
	f.hosts(t, "mv /root/settings "+settings+"; systemctl restart clusterctl-nodeagent", "worker2")
	f.leaks.wantNone(t, 2*time.Minute)
}
