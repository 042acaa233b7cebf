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
		hostconfig.PortEtcdPeer, hostconfig.PortNodeAgent,
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

// checkNetworks judges the networks and what lies inside them.
func (c *checker) checkNetworks(inv *Inventory) {
	pods, podsOK := c.network("podCIDR", inv.Cluster.PodCIDR)
	services, servicesOK := c.network("serviceCIDR", inv.Cluster.ServiceCIDR)
	if servicesOK && (services.Bits() < 12 || services.Bits() > 27) {
		c.faultAt("cluster.serviceCIDR", "choose a prefix length from 12 to 27", "serviceCIDR %s is too %s", services, sizeWord(services.Bits() < 12))
	}
	if podsOK && servicesOK && pods.Overlaps(services) {
		c.faultAt("cluster.serviceCIDR", "choose networks that have nothing in common", "serviceCIDR %s overlaps podCIDR %s", services, pods)
	}
	if podsOK {
		mask, nodes := inv.Cluster.NodeMaskSize, len(inv.Nodes())
		switch {
		case mask < 16 || mask > 29:
			c.faultAt("cluster.nodeMaskSize", "24 gives each node 254 addresses", "nodeMaskSize %d is not from 16 to 29", mask)
		case mask < pods.Bits():
			c.faultAt("cluster.nodeMaskSize", fmt.Sprintf("choose one from %d to 29, or a larger podCIDR", pods.Bits()),
				"a node's share of /%d is larger than podCIDR %s", mask, pods)
		case mask-pods.Bits() < 20 && 1<<(mask-pods.Bits()) < nodes:
			c.faultAt("cluster.nodeMaskSize", "choose a larger podCIDR or a larger nodeMaskSize",
				"podCIDR %s has room for %d nodes of /%d, and there are %d", pods, 1<<(mask-pods.Bits()), mask, nodes)
		}
	}
	named := map[string]netip.Prefix{}
	if podsOK {
		named["podCIDR"] = pods
	}
	if servicesOK {
		named["serviceCIDR"] = services
	}
	host := inv.Cluster.Endpoint
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	for key, prefix := range named {
		if address, err := netip.ParseAddr(host); err == nil && prefix.Contains(address) {
			c.faultAt("cluster.endpoint", "choose another network or another address", "endpoint %s lies inside %s %s", address, key, prefix)
		}
		for i, h := range inv.Hosts {
			if address, err := netip.ParseAddr(h.Address); err == nil && prefix.Contains(address) {
				c.faultAt(c.entries[i]+".address", "choose a "+key+" that no host lies in",
					"address %s of %s lies inside %s %s", address, h.Name, key, prefix)
			}
		}
	}
}

func (c *checker) network(key, text string) (netip.Prefix, bool) {
	path, hint := "cluster."+key, "write an IPv4 network such as 10.244.0.0/16"
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		c.faultAt(path, hint, "%s %q is no network", key, text)
	case !prefix.Addr().Is4():
		c.faultAt(path, hint, "%s %s is not IPv4", key, text)
	case prefix != prefix.Masked():
		c.faultAt(path, "write "+prefix.Masked().String(), "%s %s has bits set after its prefix", key, text)
		return prefix.Masked(), true
	default:
		return prefix, true
	}
	return netip.Prefix{}, false
}

func sizeWord(large bool) string {
	if large {
		return "large"
	}
	return "small"
}

func roleNames() []string {
	return []string{string(ControlPlane), string(Worker), string(EtcdMember)}
}

func contains(list []string, word string) bool { return slices.Contains(list, word) }
