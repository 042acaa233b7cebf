package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"clusterctl/hostconfig"
)

// maxRange bounds what one entry can stand for, so that a slip of the finger
// does not make a million hosts.
const maxRange = 1000

var rangePattern = regexp.MustCompile(`\[([^\[\]]*)\]`)

// expandRange gives the words that text stands for: itself, or one for each
// number of its range, padded with zeros as the first bound is. many tells the
// two apart.
func expandRange(text string) (words []string, many bool, err error) {
	if !strings.ContainsAny(text, "[]") {
		return []string{text}, false, nil
	}
	found := rangePattern.FindAllStringSubmatchIndex(text, -1)
	if len(found) != 1 || strings.Count(text, "[") != 1 || strings.Count(text, "]") != 1 {
		return nil, false, fmt.Errorf("%q has to have exactly one range", text)
	}
	prefix, body, suffix := text[:found[0][0]], text[found[0][2]:found[0][3]], text[found[0][1]:]
	from, to, ok := strings.Cut(body, ":")
	first, err1 := strconv.ParseUint(from, 10, 31)
	last, err2 := strconv.ParseUint(to, 10, 31)
	switch {
	case !ok || err1 != nil || err2 != nil:
		return nil, false, fmt.Errorf("%q is no range", "["+body+"]")
	case last < first:
		return nil, false, fmt.Errorf("the range [%s] runs backwards", body)
	case last-first >= maxRange:
		return nil, false, fmt.Errorf("the range [%s] is of more than %d hosts", body, maxRange)
	}
	for n := first; n <= last; n++ {
		words = append(words, fmt.Sprintf("%s%0*d%s", prefix, len(from), n, suffix))
	}
	return words, true, nil
}

// expand fills in defaults and makes the hosts. It faults what cannot be
// expanded; check judges the rest.
func (c *checker) expand(file string) *Inventory {
	inv := &Inventory{File: file, Cluster: c.document.Cluster, Files: map[string][]byte{}}
	cluster := &inv.Cluster
	pods, services := "10.244.0.0/16", "10.96.0.0/16"
	if len(c.document.Hosts) > 0 {
		// Ranges have colons, too.
		if start, _, _ := strings.Cut(c.document.Hosts[0].Address, "["); strings.Contains(start, ":") {
			pods, services = "fd00:10:244::/56", "fd00:10:96::/112"
		}
	}
	cluster.PodCIDR = cmp.Or(cluster.PodCIDR, pods)
	cluster.ServiceCIDR = cmp.Or(cluster.ServiceCIDR, services)
	for _, networks := range []*string{&cluster.PodCIDR, &cluster.ServiceCIDR} {
		*networks = strings.ReplaceAll(*networks, " ", "")
	}
	cluster.NodeMaskSize = cmp.Or(cluster.NodeMaskSize, 24)
	if strings.Contains(cluster.PodCIDR, ":") {
		cluster.NodeMaskSizeIPv6 = cmp.Or(cluster.NodeMaskSizeIPv6, 64)
	}
	cluster.Overlay = cmp.Or(cluster.Overlay, hostconfig.OverlayAuto)
	cluster.Domain = cmp.Or(cluster.Domain, "cluster.local")
	cluster.NodePortRange = cmp.Or(cluster.NodePortRange, "30000-32767")
	cluster.Etcd.Topology = cmp.Or(cluster.Etcd.Topology, Stacked)
	cluster.ServiceProxy.Mode = cmp.Or(cluster.ServiceProxy.Mode, hostconfig.ProxyAuto)
	cluster.Ingress.MaxBody = cmp.Or(cluster.Ingress.MaxBody, "100Mi")
	cluster.Authentication.OIDC = slices.Clone(cluster.Authentication.OIDC)
	for i := range cluster.Authentication.OIDC {
		provider, prefix := &cluster.Authentication.OIDC[i], "oidc:"
		provider.UsernameClaim = cmp.Or(provider.UsernameClaim, "sub")
		provider.UsernamePrefix = cmp.Or(provider.UsernamePrefix, &prefix)
		provider.GroupsPrefix = cmp.Or(provider.GroupsPrefix, &prefix)
	}
	for i, entry := range c.document.Hosts {
		path := fmt.Sprintf("hosts[%d]", i)
		names, addresses := c.expandEntry(path, entry)
		host := c.settle(path, entry)
		for j := range min(len(names), len(addresses)) {
			h := host
			h.Name, h.Address = names[j], addresses[j]
			h.SSH.Host = cmp.Or(h.SSH.Host, h.Address)
			resolvePaths(filepath.Dir(file), &h.SSH)
			inv.Hosts = append(inv.Hosts, h)
			c.entries = append(c.entries, path)
		}
	}
	return inv
}

func (c *checker) expandEntry(path string, entry HostEntry) (names, addresses []string) {
	hint := "write one like [1:3] or [01:10]"
	names, manyNames, err := expandRange(entry.Name)
	if err != nil {
		c.faultAt(path+".name", hint, "%v", err)
	}
	addresses, many, err := expandRange(entry.Address)
	if err != nil {
		c.faultAt(path+".address", hint, "%v", err)
	}
	if len(names) == 0 || len(addresses) == 0 {
		return nil, nil
	}
	switch {
	case entry.Name == "":
		c.faultAt(path, "add name: with the node's name", "a host has no name")
		return nil, nil
	case entry.Address == "":
		c.faultAt(path, "add address: with its IP address", "host %s has no address", entry.Name)
		return nil, nil
	case many != manyNames:
		c.faultAt(path+".address", "give both a range of the same length, or neither",
			"name %s and address %s do not go together", entry.Name, entry.Address)
	case len(names) != len(addresses):
		c.faultAt(path+".address", fmt.Sprintf("make it a range of %d", len(names)),
			"%s stands for %d hosts and %s for %d addresses", entry.Name, len(names), entry.Address, len(addresses))
	}
	if many && entry.SSH.Host != "" {
		c.faultAt(path+".ssh.host", "write the hosts one by one", "ssh.host is for a single host, and %s stands for several", entry.Name)
	}
	return names, addresses
}

// settle applies defaults and groups to what an entry says itself.
func (c *checker) settle(path string, entry HostEntry) Host {
	host := Host{
		Groups: entry.Groups, State: cmp.Or(entry.State, Present), Line: c.at(path),
		Labels: map[string]string{},
	}
	layers := []Settings{c.document.Defaults}
	for _, group := range entry.Groups {
		layers = append(layers, c.document.Groups[group])
	}
	layers = append(layers, entry.Settings)
	for _, layer := range layers {
		if layer.Roles != nil {
			host.Roles = nil
			for _, role := range layer.Roles {
				host.Roles = append(host.Roles, Role(role))
			}
		}
		host.SSH = overlay(host.SSH, layer.SSH)
		host.Node = overlayNode(host.Node, layer.Node)
		host.Runtime = cmp.Or(layer.Runtime, host.Runtime)
		maps.Copy(host.Labels, layer.Labels)
		for _, taint := range layer.Taints {
			same := func(have Taint) bool { return have.Key == taint.Key && have.Effect == taint.Effect }
			host.Taints = append(slices.DeleteFunc(slices.Clone(host.Taints), same), taint)
		}
	}
	host.Runtime = cmp.Or(host.Runtime, hostconfig.RuntimeContainerd)
	host.SSH.Sudo = cmp.Or(host.SSH.Sudo, SudoAuto)
	if len(host.SSH.HostKeys) > 0 {
		host.SSH.HostKeyPolicy = PolicyPinned
	}
	return host
}

// Values of SSH.Sudo and SSH.HostKeyPolicy.
const (
	SudoAuto        = "auto"
	SudoNever       = "never"
	PolicyStrict    = "strict"
	PolicyAcceptNew = "accept-new"
	PolicyPinned    = "pinned"
)

func overlay(below, above SSH) SSH {
	above.Host = cmp.Or(above.Host, below.Host)
	above.User = cmp.Or(above.User, below.User)
	above.Port = cmp.Or(above.Port, below.Port)
	above.HostKeyPolicy = cmp.Or(above.HostKeyPolicy, below.HostKeyPolicy)
	above.Sudo = cmp.Or(above.Sudo, below.Sudo)
	above.Password = cmp.Or(above.Password, below.Password)
	if above.KeyFiles == nil {
		above.KeyFiles = below.KeyFiles
	}
	if above.KnownHosts == nil {
		above.KnownHosts = below.KnownHosts
	}
	if above.HostKeys == nil {
		above.HostKeys = below.HostKeys
	}
	if above.Jump == nil {
		above.Jump = below.Jump
	}
	return above
}

func resolvePaths(base string, s *SSH) {
	resolve := func(paths []string) []string {
		resolved := make([]string, len(paths))
		for i, path := range paths {
			resolved[i] = resolvePath(base, path)
		}
		return resolved
	}
	if s.KeyFiles != nil {
		s.KeyFiles = resolve(s.KeyFiles)
	}
	if s.KnownHosts != nil {
		s.KnownHosts = resolve(s.KnownHosts)
	}
}

// resolvePath makes a path of an inventory in the directory base absolute.
func resolvePath(base, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			path = filepath.Join(home, rest)
		}
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(base, path)
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return path
}
