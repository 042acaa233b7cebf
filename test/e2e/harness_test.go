package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// cluster is a lab and what runs on it.
type cluster struct {
	name       string
	dir        string
	inventory  string
	kubeconfig string
}

// program is the built clusterctl.
func program(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/clusterctl")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run `make build` first", err)
	}
	return path
}

// newLab boots hosts that are gone when the test ends; more are further flags.
func newLab(t testing.TB, name string, controlPlanes, workers, etcd int, more ...string) *cluster {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("lab hosts need root on Linux")
	}
	dir := t.TempDir()
	c := &cluster{name: name, dir: dir, inventory: filepath.Join(dir, "inventory.yaml"), kubeconfig: filepath.Join(dir, "kubeconfig")}
	t.Cleanup(func() { c.run(t, "lab", "delete", "--name", name) })
	c.run(t, append([]string{"lab", "create", "--name", name, "--inventory", c.inventory,
		"--control-planes", fmt.Sprint(controlPlanes), "--workers", fmt.Sprint(workers), "--etcd", fmt.Sprint(etcd)}, more...)...)
	return c
}

// run calls clusterctl and returns its standard output; a failure ends the test.
func (c *cluster) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := c.try(context.Background(), t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try is run for calls that may fail.
func (c *cluster) try(ctx context.Context, t testing.TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig, "HOME="+c.dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("clusterctl %s: %w\n%s%s", strings.Join(args, " "), err, tail(stdout.String()), tail(stderr.String()))
	}
	return stdout.String(), nil
}

func tail(s string) string {
	const most = 6000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// up brings the cluster up and returns how long that took.
func (c *cluster) up(t testing.TB) time.Duration {
	t.Helper()
	started := time.Now()
	c.run(t, "up", c.inventory, "--kubeconfig", c.kubeconfig)
	return time.Since(started)
}

// wantQuickUp fails unless an `up` that finds nothing to do is quick. The machine
// may have other things to do: the quickest of three counts.
func (c *cluster) wantQuickUp(t testing.TB) {
	t.Helper()
	const limit = 5 * time.Second
	var took []time.Duration
	for len(took) < 3 && (len(took) == 0 || slices.Min(took) > limit) {
		took = append(took, c.up(t))
	}
	t.Logf("with nothing to do, up took %s", took)
	if slices.Min(took) > limit {
		t.Errorf("with nothing to do, up took %s, want at most %s", took, limit)
	}
}

// hosts runs a command on every host (or those named) and returns its output.
func (c *cluster) hosts(t testing.TB, command string, names ...string) string {
	t.Helper()
	args := []string{"hosts", "exec", c.inventory}
	if len(names) > 0 {
		args = append(args, "--host", strings.Join(names, ","))
	}
	return c.run(t, append(args, "--", command)...)
}

// client is client-go's, for one control plane's address or (empty) the
// kubeconfig's own.
func (c *cluster) client(t testing.TB, server string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if server != "" {
		config.Host = server
	}
	config.Timeout = 5 * time.Second
	config.QPS = -1 // no limit
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(config, "clusterctl-e2e"))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// eventually polls until ok returns nil.
func eventually(t testing.TB, within time.Duration, what string, ok func(context.Context) error) time.Duration {
	t.Helper()
	started := time.Now()
	var last error
	for time.Since(started) < within {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		last = ok(ctx)
		cancel()
		if last == nil {
			return time.Since(started)
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("%s: not within %s: %v", what, within, last)
	return 0
}

// wantNodesReady fails unless exactly n nodes exist and all are Ready.
func (c *cluster) wantNodesReady(t testing.TB, n int) {
	t.Helper()
	client := c.client(t, "")
	eventually(t, time.Minute, fmt.Sprint(n, " nodes Ready"), func(ctx context.Context) error {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) != n {
			return fmt.Errorf("%d nodes", len(list.Items))
		}
		for _, node := range list.Items {
			for _, condition := range node.Status.Conditions {
				if condition.Type == "Ready" && condition.Status != "True" {
					return fmt.Errorf("node %s: %s", node.Name, condition.Message)
				}
			}
		}
		return nil
	})
}

// deploySample loads and applies the sample and waits for it.
func (c *cluster) deploySample(t testing.TB) {
	t.Helper()
	c.run(t, "image", "load", c.inventory, "../../bin/sample.tar")
	c.run(t, "apply", "-f", "../sample/sample.yaml")
	c.run(t, "rollout", "status", "deployment/sample", "--timeout", "90s")
}

// wantSampleServed asks for the sample's Service from every node, through its
// cluster IP and its DNS name, until it answers. Like any resolver it asks again
// when a packet was lost, of which dig says a line before the answer.
func (c *cluster) wantSampleServed(t testing.TB, nodes int) {
	t.Helper()
	ip := c.run(t, "get", "service", "sample", "-o", "jsonpath={.spec.clusterIP}")
	dns := c.run(t, "get", "service", "kube-dns", "-n", "kube-system", "-o", "jsonpath={.spec.clusterIP}")
	const name = "sample.default.svc.cluster.local"
	script := fmt.Sprintf(`if [ -e /etc/clusterctl/nodeagent.yaml ]; then
		curl -sS --max-time 5 http://%[1]s/ && test "$(dig +short +time=2 +tries=3 @%[2]s %[3]s | tail -n 1)" = %[1]s && echo resolved; fi`, ip, dns, name)
	// That pods are ready is known a moment before nodes send to them.
	eventually(t, time.Minute, "the sample is served", func(ctx context.Context) error {
		out, err := c.try(t.Context(), t, "hosts", "exec", c.inventory, "--", script)
		if err != nil {
			return err
		}
		if got := strings.Count(out, "hello from pod sample-"); got != nodes {
			return fmt.Errorf("the Service answered on %d nodes, want %d:\n%s", got, nodes, out)
		}
		if got := strings.Count(out, "resolved"); got != nodes {
			return fmt.Errorf("its name resolved on %d nodes, want %d:\n%s", got, nodes, out)
		}
		return nil
	})
}

// state is what two runs of `up` must agree on: files of ours by content (keys
// and certificates by presence), and when units were started.
func (c *cluster) state(t testing.TB) string {
	t.Helper()
	return c.hosts(t, `find /etc/clusterctl /usr/local/lib/clusterctl -type f -printf '%p %m %s %T@\n' | sort
		find /etc/clusterctl /usr/local/lib/clusterctl -type d -printf '%p %m\n' | sort
		systemctl show --property=Id,ActiveState,ActiveEnterTimestampMonotonic,NRestarts 'clusterctl-*'`)
}
