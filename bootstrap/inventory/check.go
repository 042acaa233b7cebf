package inventory

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"clusterctl/hostconfig"
)

// checker judges a document and what it expands to.
type checker struct {
	*decoder
	document Document
	entries  []string // path of the entry that each host came from
}

func (c *checker) faultAt(path, hint, format string, args ...any) {
	c.fault(c.at(path), hint, format, args...)
}

func (c *checker) check(inv *Inventory) {
	if c.document.APIVersion != APIVersion {
		if c.document.APIVersion == "" {
			c.fault(1, "write apiVersion: "+APIVersion, "apiVersion is missing")
		} else {
			c.faultAt("apiVersion", "write "+APIVersion, "apiVersion is %q", c.document.APIVersion)
		}
	}
	if kind := c.document.Kind; kind != "" && kind != "Inventory" {
		c.faultAt("kind", "write Inventory", "kind is %q", kind)
	}
	c.checkCluster(inv)
	c.checkSettings("defaults", c.document.Defaults, false)
	for name, group := range c.document.Groups {
		c.checkSettings("groups."+name, group, false)
	}
	c.checkHosts(inv)
}

func (c *checker) checkCluster(inv *Inventory) {
	cluster := inv.Cluster
	if cluster.Name == "" {
		c.faultAt("cluster", "add name: with a short name", "the cluster has no name")
	} else if problems := validation.IsDNS1123Label(cluster.Name); len(problems) > 0 {
		c.faultAt("cluster.name", "use lower-case letters, digits and -, at most 63", "cluster name %q is no DNS label", cluster.Name)
	}
	if problems := validation.IsDNS1123Subdomain(cluster.Domain); len(problems) > 0 {
		c.faultAt("cluster.domain", "write one like cluster.local", "domain %q is no DNS name", cluster.Domain)
	}
	if topology := cluster.Etcd.Topology; topology != Stacked && topology != External {
		c.faultAt("cluster.etcd.topology", suggestion(topology, []string{Stacked, External}), "unknown etcd topology %q", topology)
	}
	c.checkDNS(cluster)
	c.checkEndpoint(cluster.Endpoint)
	c.checkNodePorts(cluster.NodePortRange)
	c.checkNetworks(inv)
	if overlays := []string{hostconfig.OverlayAuto, hostconfig.OverlayAlways}; !contains(overlays, cluster.Overlay) {
		c.faultAt("cluster.overlay", suggestion(cluster.Overlay, overlays), "unknown overlay %q", cluster.Overlay)
	}
	c.checkServiceProxy(cluster.ServiceProxy)
	c.checkSchedulerProfiles(cluster.SchedulerProfiles)
	c.checkAccess(inv)
	c.checkIngress(inv)
	c.checkLoadBalancer(inv)
}

func (c *checker) checkEndpoint(endpoint string) {
	if endpoint == "" {
		return
	}
	hint := "write a name or an address, with or without a port: api.example.org:6443"
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		host, port = endpoint, ""
	}
	if strings.Contains(endpoint, "://") {
		c.faultAt("cluster.endpoint", hint, "endpoint %q is a URL", endpoint)
		return
	}
	if _, err := netip.ParseAddr(host); err != nil && len(validation.IsDNS1123Subdomain(strings.ToLower(host))) > 0 {
		c.faultAt("cluster.endpoint", hint, "endpoint host %q is neither a DNS name nor an address", host)
	}
	if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 1 || n > 65535) {
		c.faultAt("cluster.endpoint", hint, "endpoint port %q is not a number from 1 to 65535", port)
	}
}

func (c *checker) checkNodePorts(text string) {
	path, hint := "cluster.nodePortRange", "write first-last, such as 30000-32767"
	from, to, ok := strings.Cut(text, "-")
	first, err1 := strconv.Atoi(from)
	last, err2 := strconv.Atoi(to)
	if !ok || err1 != nil || err2 != nil || first < 1 || last > 65535 || last < first {
		c.faultAt(path, hint, "nodePortRange %q is no range of ports", text)
		return
	}
	for _, port := range []int{
		22, hostconfig.PortAPI, hostconfig.PortAPILB, hostconfig.PortEtcdClient,
		hostconfig.PortEtcdPeer, hostconfig.PortNodeAgent, hostconfig.PortProxyHealth, hostconfig.PortProxyStatus,
	} {
		if first <= port && port <= last {
			c.faultAt(path, hint, "nodePortRange %s takes port %d, which the hosts need themselves", text, port)
		}
	}
}

func (c *checker) checkServiceProxy(proxy ServiceProxy) {
	modes := []string{hostconfig.ProxyAuto, hostconfig.ProxyNftables, hostconfig.ProxyIptables}
	if !contains(modes, proxy.Mode) {
		c.faultAt("cluster.serviceProxy.mode", suggestion(proxy.Mode, modes), "unknown mode %q of the service proxy", proxy.Mode)
	}
	for i, text := range proxy.NodePortAddresses {
		if prefix, err := netip.ParsePrefix(text); err != nil || prefix != prefix.Masked() {
			c.faultAt(fmt.Sprintf("cluster.serviceProxy.nodePortAddresses[%d]", i), "write one like 192.0.2.0/24", "%q is no network", text)
		}
	}
}

func (c *checker) checkSchedulerProfiles(profiles []hostconfig.SchedulerProfile) {
	names := map[string]int{}
	for i := range profiles {
		path := fmt.Sprintf("cluster.schedulerProfiles[%d]", i)
		if err := profiles[i].Check(); err != nil {
			c.faultAt(path, "inventory.example.yaml shows all that there is", "scheduler profile %q: %s", profiles[i].Name, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		c.once(path+".name", "scheduler profile", profiles[i].Name, names)
	}
}

func roleNames() []string {
	return []string{string(ControlPlane), string(Worker), string(EtcdMember)}
}

func contains(list []string, word string) bool { return slices.Contains(list, word) }
