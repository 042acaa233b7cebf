package e2e

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/hostconfig"
)

// crioPrograms are CRI-O and what it runs containers with.
var crioPrograms = []string{"crio", "pinns", "conmon", "runc"}

// crioFiles are how a package would have set it up. On lab hosts conmon stays in
// CRI-O's own group where some hierarchy of cgroups is not mounted.
var crioFiles = map[string]string{
	"/etc/containers/policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`,
	"/etc/crio/crio.conf.d/10-runc.conf": `[crio.runtime]
default_runtime = "runc"
[crio.runtime.runtimes.runc]
runtime_path = "/usr/local/bin/runc"
monitor_path = "/usr/local/bin/conmon"
`,
	"/etc/systemd/system/crio.service": `[Service]
Type=notify
ExecStart=/usr/local/bin/crio
KillMode=process
TasksMax=infinity
Restart=on-failure
[Install]
WantedBy=multi-user.target
`,
}

// TestCRIO tries a worker that runs its pods with a CRI-O of its own: the one
// that this machine has.
func TestCRIO(t *testing.T) {
	programs := map[string]string{} // where they are here, by where they go
	for _, name := range crioPrograms {
		file, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("CRI-O is not installed on this machine: %v (it takes %s)", err, strings.Join(crioPrograms, ", "))
		}
		programs["/usr/local/bin/"+name] = file
	}
	c := newLab(t, "e2e-crio", 1, 1, 0)
	c.inventory = c.amended(t, "crio.yaml", func(host map[string]any) {
		if host["name"] == "worker1" {
			host["runtime"] = hostconfig.RuntimeCRIO
		}
	})
	if out, err := c.try(t.Context(), t, "up", c.inventory, "--kubeconfig", c.kubeconfig); err == nil || !strings.Contains(err.Error(), "has no service crio") {
		t.Fatalf("a host without CRI-O was taken: %v\n%s", err, out)
	}
	c.install(t, "worker1", programs, crioFiles)
	c.hosts(t, "systemctl daemon-reload && systemctl enable --now crio", "worker1")

	c.up(t)
	c.wantNodesReady(t, 2)
	worker, err := c.client(t, "").CoreV1().Nodes().Get(t.Context(), "worker1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("worker1 runs %s", worker.Status.NodeInfo.ContainerRuntimeVersion)
	if !strings.HasPrefix(worker.Status.NodeInfo.ContainerRuntimeVersion, "cri-o://") {
		t.Error("worker1 does not use CRI-O")
	}
	c.deploySample(t)
	c.wantSampleServed(t, 2)
	if logs := c.run(t, "logs", "deployment/sample"); !strings.Contains(logs, "listening on :8080") {
		t.Errorf("the log says %q", logs)
	}
	// A second server says why it cannot be one.
	if out, err := c.try(t.Context(), t, "exec", "deployment/sample", "--", "/sample"); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("exec: %v\n%s", err, out)
	}

	c.hosts(t, "systemctl restart crio clusterctl-nodeagent", "worker1")
	c.wantNodesReady(t, 2)
	c.run(t, "run", "later", "--image", "clusterctl.dev/sample:1")
	c.run(t, "wait", "--for=condition=Ready", "pod/later", "--timeout", "90s")
	if restarts := c.run(t, "get", "pods", "-l", "app=sample", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); restarts != "0 0 0" {
		t.Errorf("after a restart of CRI-O the sample's containers were restarted: %s", restarts)
	}
	if out := c.run(t, "up", c.inventory, "--kubeconfig", c.kubeconfig); !strings.Contains(out, "nothing to do") {
		t.Errorf("another up found something to do:\n%s", out)
	}

	c.run(t, "delete", "deployment/sample", "pod/later")
	eventually(t, 2*time.Minute, "one pod left on worker1", func(context.Context) error {
		if pods := strings.Fields(c.hosts(t, "ls /run/netns", "worker1")); len(pods) != 3 { // "--- worker1", then the DNS server's
			return fmt.Errorf("network namespaces: %q", pods)
		}
		return nil
	})
	c.run(t, "reset", c.inventory, "--yes")
	left := c.hosts(t, `systemctl is-active crio; ls /etc/crio/crio.conf.d /etc/containers /run/netns; pgrep -c conmon
		grep -o '"names":[^]]*' /var/lib/containers/storage/overlay-images/images.json; true`, "worker1")
	if !regexp.MustCompile(`^--- worker1\nactive\n/etc/containers:\npolicy.json\n\n/etc/crio/crio.conf.d:\n10-runc.conf\n\n/run/netns:\n0\n$`).MatchString(left) {
		t.Errorf("reset did not leave CRI-O as it was:\n%s", left)
	}
}

// install brings programs, with the libraries that they are linked to, and files
// to a host. It fetches them, from where it is logged in from.
func (c *cluster) install(t *testing.T, host string, programs, files map[string]string) {
	t.Helper()
	copies := map[string]string{}
	for to, from := range programs {
		copies[to] = from
		out, err := exec.Command("ldd", from).Output() // fails for what is linked to nothing
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		for _, library := range regexp.MustCompile(`(?m)^\s(?:.* => )?(/\S+)`).FindAllStringSubmatch(string(out), -1) {
			copies[library[1]] = library[1]
		}
	}
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		failed <- writeTree(w, copies, files)
	})}
	go func() { _ = server.Serve(listener) }() // until it is closed
	defer server.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.hosts(t, `curl -sSf --max-time 120 http://${SSH_CONNECTION%% *}:`+port+`/ | tar -xf - -C / --skip-old-files`, host)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

func writeTree(w io.Writer, copies, files map[string]string) error {
	archive := tar.NewWriter(w)
	for to, content := range files {
		if err := archive.WriteHeader(&tar.Header{Name: strings.TrimPrefix(path.Clean(to), "/"), Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := io.WriteString(archive, content); err != nil {
			return err
		}
	}
	for to, from := range copies {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: strings.TrimPrefix(path.Clean(to), "/"), Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}
