package inventory

import (
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// maxNameservers is how many CoreDNS forwards the names of one domain to.
const maxNameservers = 15

func (c *checker) checkDNS(cluster Cluster) {
	c.checkNameservers("cluster.dns.upstream", cluster.DNS.Upstream)
	seen := map[string]bool{}
	for i, stub := range cluster.DNS.Stubs {
		path := fmt.Sprintf("cluster.dns.stubs[%d]", i)
		switch {
		case len(validation.IsDNS1123Subdomain(stub.Domain)) > 0:
			c.faultAt(path+".domain", "write one like corp.example.org", "domain %q is no DNS name", stub.Domain)
		case stub.Domain == cluster.Domain || strings.HasSuffix(stub.Domain, "."+cluster.Domain):
			c.faultAt(path+".domain", "choose another domain", "domain %q is the cluster's own", stub.Domain)
		case seen[stub.Domain]:
			c.faultAt(path+".domain", "write all its servers in one entry", "domain %q is there twice", stub.Domain)
		}
		seen[stub.Domain] = true
		if len(stub.Servers) == 0 {
			c.faultAt(path, "add servers: with the addresses of its nameservers", "stub domain %q has no nameservers", stub.Domain)
		}
		c.checkNameservers(path+".servers", stub.Servers)
	}
}

func (c *checker) checkNameservers(path string, servers []string) {
	for i, server := range servers {
		_, err := netip.ParseAddr(server)
		if at, withPort := netip.ParseAddrPort(server); err != nil && (withPort != nil || at.Port() == 0) {
			c.faultAt(fmt.Sprintf("%s[%d]", path, i), "write one like 192.0.2.53", "nameserver %q is no IP address", server)
		}
	}
	if len(servers) > maxNameservers {
		c.faultAt(path, "leave some out", "%d nameservers are more than %d", len(servers), maxNameservers)
	}
}
