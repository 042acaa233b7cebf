package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"clusterctl/nodeagent/netnstest"
)

// deadFor is how long after its death an endpoint may still be sent to.
const deadFor = 5 * time.Second

// testDeadEndpoint kills every process of one of a service's two pods. What
// answers for the pod is the test itself, and goes on: so it knows who is still
// led there.
func (c *cluster) testDeadEndpoint(t *testing.T) {
	const namespace = "mortal"
	c.namespace(t, namespace, nil)
	pod := func(name, node string) *v1.Pod {
		return &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "web"}},
			Spec:       v1.PodSpec{NodeName: node, RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{{}}},
		}
	}
	pods := c.startPods(t, pod("lives", "cp1"), pod("dies", "worker1"))
	networks := c.networks(t, "cp1", "worker1")
	for _, p := range pods {
		serve(t, networks, p, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, p.Name) })
	}
	service, err := c.client(t, "").CoreV1().Services(namespace).Create(t.Context(), &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       v1.ServiceSpec{Selector: pods[0].Labels, Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort(service.Spec.ClusterIP, "80")
	// connect tells which pod a client on the control plane's host is led to.
	client := clientIn(networks["cp1"])
	connect := func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
		if err != nil {
			return "", err
		}
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		name := make([]byte, 20)
		n, _ := response.Body.Read(name)
		return string(name[:n]), nil
	}
	met := map[string]bool{}
	eventually(t, time.Minute, "both pods answer", func(ctx context.Context) error {
		for range 10 {
			name, err := connect(ctx)
			if err != nil {
				return err
			}
			met[name] = true
		}
		if len(met) < 2 {
			return fmt.Errorf("answers come from %v", met)
		}
		return nil
	})

	if n := killAll(t, networks[pods[1].Status.PodIP]); n == 0 {
		t.Fatal("the pod has no processes")
	}
	died := time.Now()
	var last time.Duration // after the death that somebody was led astray
	for time.Since(died) < 3*deadFor {
		asked := time.Since(died)
		if name, err := connect(t.Context()); err != nil || name != "lives" {
			last = asked
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("connections went to the dead pod for %s", last.Round(time.Millisecond))
	if last > deadFor {
		t.Errorf("connections went to the dead pod for %s, want %s at most", last, deadFor)
	}
}

// clientIn makes a connection for every request, in a network namespace.
func clientIn(ns netns.NsHandle) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, to string) (conn net.Conn, err error) {
		err = netnstest.Within(ns, func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, to)
			return err
		})
		return conn, err
	}}}
}

// killAll kills every process in a network namespace and returns how many.
func killAll(t *testing.T, ns netns.NsHandle) (killed int) {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(ns), &stat); err != nil {
		t.Fatal(err)
	}
	inside := fmt.Sprintf("net:[%d]", stat.Ino)
	processes, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		if link, err := os.Readlink(path); err != nil || link != inside {
			continue // of others, or gone
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err == nil && pid != os.Getpid() && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}
