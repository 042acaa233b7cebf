package pods

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// resolvers are where the host's own resolv.conf may be, best first: the one
// of systemd-resolved names real servers, /etc's then names its stub, which
// pods cannot reach.
var resolvers = []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"}

// dns is the content of the pod's resolv.conf, by its dnsPolicy.
func (a *Agent) dns(pod *v1.Pod) (*criv1.DNSConfig, error) {
	host, err := hostDNS(resolvers)
	if err != nil {
		return nil, err
	}
	config := &criv1.DNSConfig{}
	policy := pod.Spec.DNSPolicy
	if policy == v1.DNSClusterFirst && pod.Spec.HostNetwork || policy == v1.DNSClusterFirst && a.DNSAddress == "" {
		policy = v1.DNSDefault
	}
	switch policy {
	case v1.DNSNone:
	case v1.DNSClusterFirst, v1.DNSClusterFirstWithHostNet:
		config.Servers = []string{a.DNSAddress}
		config.Searches = append([]string{pod.Namespace + ".svc." + a.Domain, "svc." + a.Domain, a.Domain}, host.Searches...)
		config.Options = []string{"ndots:5"}
	default:
		config = host
	}
	if own := pod.Spec.DNSConfig; own != nil {
		config.Servers = unique(append(config.Servers, own.Nameservers...))
		config.Searches = unique(append(config.Searches, own.Searches...))
		for _, o := range own.Options {
			option := o.Name
			if o.Value != nil && *o.Value != "" {
				option += ":" + *o.Value
			}
			config.Options = slices.DeleteFunc(config.Options, func(have string) bool {
				name, _, _ := strings.Cut(have, ":")
				return name == o.Name
			})
			config.Options = append(config.Options, option)
		}
	}
	return config, nil
}

func hostDNS(files []string) (*criv1.DNSConfig, error) {
	config := &criv1.DNSConfig{}
	for _, name := range files {
		f, err := os.Open(name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the host's resolvers: %w", err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 2 {
				continue
			}
			switch fields[0] {
			case "nameserver":
				config.Servers = append(config.Servers, fields[1])
			case "search":
				config.Searches = slices.DeleteFunc(slices.Clone(fields[1:]), func(s string) bool { return s == "." })
			case "options":
				config.Options = fields[1:]
			}
		}
		return config, lines.Err()
	}
	return config, nil
}

func unique(list []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(s string) bool {
		again := seen[s]
		seen[s] = true
		return again
	})
}

// Hostname is the pod's host name, and its domain if it has one.
func Hostname(pod *v1.Pod, clusterDomain string) (name, domain string) {
	if o := pod.Spec.HostnameOverride; o != nil {
		return *o, ""
	}
	name = pod.Name
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	if domain != "" && pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		name += "." + domain
	}
	return name, domain
}

// etcHosts is the content of the pod's /etc/hosts.
func etcHosts(pod *v1.Pod, ips []string, clusterDomain string, hostFile []byte) []byte {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(hostFile)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name, domain := Hostname(pod, clusterDomain)
		for _, ip := range ips {
			if domain != "" && !strings.HasSuffix(name, domain) {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return []byte(b.String())
}
