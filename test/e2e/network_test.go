package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"clusterctl/lab"
	"clusterctl/nodeagent/netnstest"
)

// TestNetwork tries names and what decides over connections: services' rules,
// network policies, host ports, ingresses and load balancers, with pods that do
// nothing: servers and clients are the test's own, in the pods' network namespaces.
// One of the hosts has no iptables, as a bare Debian.
func TestNetwork(t *testing.T) {
	c := newLab(t, "e2e-net", 1, 1, 0)
	c.configure(t, "worker1")
	c.hosts(t, "rm /usr/sbin/iptables* /usr/sbin/ip6tables* /usr/sbin/xtables*", "worker1")
	t.Logf("up took %s", c.up(t).Round(100*time.Millisecond))
	c.wantNodesReady(t, 2)
	t.Run("names", c.testNames)
	t.Run("dead endpoint", c.testDeadEndpoint)
	t.Run("policies", c.testPolicies)
	t.Run("host ports", c.testHostPorts)
	t.Run("ingress", c.testIngress)
	t.Run("load balancer", c.testLoadBalancer) // last: it kills worker1
}

// balancerAddresses is how many addresses load balancers have.
const balancerAddresses = 14

// configure has the inventory say which host serves Ingresses, who knows the stub
// domain, and which addresses load balancers have: the last of the lab's network.
func (c *cluster) configure(t *testing.T, host string) {
	t.Helper()
	c.amend(t, func(cluster map[string]any, address string) {
		network := address[:strings.LastIndexByte(address, '.')+1]
		cluster["dns"] = map[string]any{"stubs": []map[string]any{
			{"domain": stubDomain, "servers": []string{fmt.Sprintf("%s:%d", address, stubPort)}},
		}}
		cluster["ingress"] = map[string]any{"hosts": []string{host}, "defaultClass": true}
		cluster["loadBalancer"] = map[string]any{"pools": []map[string]any{
			{"name": "lab", "addresses": []string{fmt.Sprintf("%[1]s%[2]d-%[1]s%[3]d", network, 255-balancerAddresses, 254)}},
		}}
	})
}

// amend changes what the inventory says of the cluster; change is told the first
// host's address.
func (c *cluster) amend(t *testing.T, change func(cluster map[string]any, address string)) {
	t.Helper()
	c.rewrite(t, c.inventory, func(document map[string]any) {
		change(document["cluster"].(map[string]any), document["hosts"].([]any)[0].(map[string]any)["address"].(string))
	})
}

// rewrite writes the inventory to a file as change has it.
func (c *cluster) rewrite(t *testing.T, file string, change func(document map[string]any)) {
	t.Helper()
	raw, err := os.ReadFile(c.inventory)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := yaml.Unmarshal(raw, &document); err != nil {
		t.Fatal(err)
	}
	change(document)
	if raw, err = yaml.Marshal(document); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// namespace makes a namespace that pods can be created in.
func (c *cluster) namespace(t *testing.T, name string, labels map[string]string) *v1.Namespace {
	t.Helper()
	client := c.client(t, "")
	created, err := client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the service account of "+name, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return created
}

// startPods has pods run the pause program, which every host has; they are
// returned as they run, in the same order.
func (c *cluster) startPods(t *testing.T, pods ...*v1.Pod) []*v1.Pod {
	t.Helper()
	client := c.client(t, "")
	for _, pod := range pods {
		spec := &pod.Spec
		spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}}
		spec.AutomountServiceAccountToken, spec.TerminationGracePeriodSeconds = new(false), new(int64(0))
		spec.Containers[0].Name, spec.Containers[0].Image = "pause", "clusterctl.dev/pause:1"
		pod.Status = v1.PodStatus{}
		if _, err := client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var running []*v1.Pod
	for _, pod := range pods {
		eventually(t, time.Minute, pod.Name+" runs", func(ctx context.Context) error {
			got, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got.Status.Phase != v1.PodRunning || got.Status.PodIP == "" {
				return fmt.Errorf("it is %s: %v", got.Status.Phase, got.Status.ContainerStatuses)
			}
			running = append(running, got)
			return nil
		})
	}
	return running
}

// networks are a lab's network namespaces, those of hosts by name and those of
// pods by address, open until the test ends.
type networks map[string]netns.NsHandle

func (c *cluster) networks(t *testing.T, hosts ...string) networks {
	t.Helper()
	found := networks{}
	open := func(path string) netns.NsHandle {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			t.Fatalf("open %s: %v", path, err)
		}
		t.Cleanup(func() { ns.Close() })
		return ns
	}
	for _, host := range hosts {
		raw, err := os.ReadFile(filepath.Join(lab.DefaultDir, c.name, "hosts", host, "init.json"))
		if err != nil {
			t.Fatal(err)
		}
		var init struct {
			PID int `json:"pid"`
		}
		if err := json.Unmarshal(raw, &init); err != nil {
			t.Fatal(err)
		}
		proc := fmt.Sprintf("/proc/%d", init.PID)
		found[host] = open(proc + "/ns/net")
		pods, err := filepath.Glob(proc + "/root/run/clusterctl/containerd/io.containerd.grpc.v1.cri/netns/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range pods {
			ns := open(path)
			err := netnstest.Within(ns, func() error {
				addresses, err := net.InterfaceAddrs()
				for _, a := range addresses {
					if a := a.(*net.IPNet).IP; a.IsGlobalUnicast() {
						found[a.String()] = ns
					}
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return found
}
