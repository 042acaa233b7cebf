package e2e

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// clockJumps has the clock of the machine, which is that of all hosts, jump ahead,
// and back after a while. Nothing that runs notices, nodes stay ready, pods start
// and end at either time, and their tokens are good.
func (f *faults) clockJumps(t *testing.T, jump, while time.Duration) {
	before := f.containers(t, "worker1") + f.containers(t, "worker2")
	ready := f.readySince(t)
	stop := f.traffic(t)
	f.createPod(t, "early", "clock", "worker1")
	f.wantRunning(t, "clock", 1)
	back := jumpAhead(t, jump)
	f.createPod(t, "ahead", "clock", "worker1")
	f.wantRunning(t, "clock", 2)
	f.wantTokens(t, "early", "ahead")
	time.Sleep(while) // longer than a node may be silent
	back()
	f.createPod(t, "late", "clock", "worker1")
	f.wantRunning(t, "clock", 3)
	f.wantTokens(t, "early", "ahead", "late")
	time.Sleep(while)
	stop()
	if after := f.readySince(t); after != ready {
		t.Errorf("nodes' readiness changed:\n%s", difference(ready, after))
	}
	if after := f.containers(t, "worker1") + f.containers(t, "worker2"); after != before {
		t.Errorf("containers changed:\n%s", difference(before, after))
	}
	f.remove(t, "clock")
	f.leaks.wantNone(t, time.Minute)
}

// jumpAhead sets the clock of the machine ahead. A process of its own sets it back
// by as much when the returned function is called, or when this one has ended.
func jumpAhead(t testing.TB, jump time.Duration) (back func()) {
	t.Helper()
	set := func(direction string) string {
		return fmt.Sprintf(`date -s "$(date -d "%d seconds %s" "+%%F %%T.%%N")"`, int(jump.Seconds()), direction)
	}
	guard := exec.Command("sh", "-c", set("")+"; echo; cat; "+set("ago"))
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	hold, err := guard.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := guard.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	was := time.Now()
	if err := guard.Start(); err != nil {
		t.Fatal("set the clock: ", err)
	}
	done := false
	back = func() {
		if done {
			return
		}
		done = true
		hold.Close()
		if _, err := io.Copy(io.Discard, said); err != nil {
			t.Error("wait for the clock to be set back: ", err)
		}
		if err := guard.Wait(); err != nil {
			t.Error("set the clock back: ", err)
		}
		t.Logf("the clock is off by %s", jumped(was).Round(time.Millisecond))
	}
	t.Cleanup(back)
	if _, err := said.Read(make([]byte, 1)); err != nil {
		t.Fatal("set the clock: ", err)
	}
	for jumped(was) < jump/2 { // it says so before and after
		if time.Since(was) > 10*time.Second {
			t.Fatal("the clock did not jump")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return back
}

// jumped is how much further the time of day went since then than time did.
func jumped(then time.Time) time.Duration {
	now := time.Now()
	return now.Round(0).Sub(then.Round(0)) - now.Sub(then)
}

// readySince says since when each node has been ready.
func (f *faults) readySince(t testing.TB) string {
	t.Helper()
	nodes, err := f.api.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, node := range nodes.Items {
		for _, c := range node.Status.Conditions {
			if c.Type == v1.NodeReady {
				fmt.Fprintln(&b, node.Name, c.Status, c.LastTransitionTime)
			}
		}
	}
	return b.String()
}

// wantTokens waits until the API takes the tokens in the volumes of worker1's pods.
func (f *faults) wantTokens(t testing.TB, names ...string) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.Timeout = 5 * time.Second
	for _, name := range names {
		pod, err := f.api.CoreV1().Pods(faultNamespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		took := eventually(t, time.Minute, "the token of pod "+name+" is good", func(context.Context) error {
			lines := strings.Fields(f.hosts(t, fmt.Sprintf("cat /var/lib/clusterctl/nodeagent/pods/%s/volumes/kubernetes.io~projected/*/token", pod.UID), "worker1"))
			config.BearerToken = lines[len(lines)-1]
			client, err := kubernetes.NewForConfig(config)
			if err == nil {
				_, err = client.Discovery().ServerVersion()
			}
			return err
		})
		t.Logf("the token of pod %s was good after %s", name, took.Round(100*time.Millisecond))
	}
}
