package inventory

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"clusterctl/hostconfig"
)

// maxMembers is where more etcd members only make writes slower.
const maxMembers = 7

func (c *checker) checkHosts(inv *Inventory) {
	if len(c.document.Hosts) == 0 {
		c.faultAt("hosts", "add at least one host with role control-plane", "there are no hosts")
		return
	}
	for i, entry := range c.document.Hosts {
		path := fmt.Sprintf("hosts[%d]", i)
		c.checkSettings(path, entry.Settings, true)
		for j, group := range entry.Groups {
			if _, ok := c.document.Groups[group]; !ok {
				names := slices.Sorted(maps.Keys(c.document.Groups))
				hint := suggestion(group, names)
				if len(names) == 0 {
					hint = "describe it under groups"
				}
				c.faultAt(fmt.Sprintf("%s.groups[%d]", path, j), hint, "unknown group %q", group)
			}
		}
		if state := entry.State; state != "" && state != Present && state != Absent {
			c.faultAt(path+".state", suggestion(state, []string{Present, Absent}), "unknown state %q", state)
		}
	}
	names, addresses := map[string]int{}, map[string]int{}
	for i, h := range inv.Hosts {
		c.checkHost(c.entries[i], inv, h)
		c.checkSettled(c.entries[i], h)
		c.once(c.entries[i]+".name", "host", h.Name, names)
		c.once(c.entries[i]+".address", "address", h.Address, addresses)
	}
	c.checkRoles(inv)
}

// once faults a value that an earlier host has.
func (c *checker) once(path, what, value string, seen map[string]int) {
	if line, ok := seen[value]; ok {
		c.faultAt(path, "give every host its own", "%s %s was given on line %d already", what, value, line)
		return
	}
	seen[value] = c.at(path)
}

func (c *checker) checkHost(path string, inv *Inventory, h Host) {
	if problems := validation.IsDNS1123Subdomain(h.Name); len(problems) > 0 || len(h.Name) > 63 {
		hint := "use lower-case letters, digits, - and ., at most 63"
		if lower := strings.ToLower(strings.ReplaceAll(h.Name, "_", "-")); len(validation.IsDNS1123Subdomain(lower)) == 0 {
			hint = "write " + lower
		}
		c.faultAt(path+".name", hint, "host name %q is no DNS name", h.Name)
	}
	address, err := netip.ParseAddr(h.Address)
	switch {
	case err != nil:
		c.faultAt(path+".address", "write an IP address; a name to log in by goes under ssh.host", "address %q of %s is no IP address", h.Address, h.Name)
	case address.Is4In6() || address.Zone() != "":
		c.faultAt(path+".address", "write it as plain IPv4 or IPv6, without a zone", "address %s of %s is no plain address", h.Address, h.Name)
	case address.String() != h.Address:
		c.faultAt(path+".address", "write "+address.String(), "address %s of %s is not written as it is shown everywhere else", h.Address, h.Name)
	case address.IsLoopback() || address.IsUnspecified() || address.IsMulticast() || address.IsLinkLocalUnicast():
		c.faultAt(path+".address", "write one that the other hosts reach it at", "address %s of %s cannot be reached from other hosts", h.Address, h.Name)
	}
	if len(h.Roles) == 0 {
		c.faultAt(path, "add roles: with "+oneOf(roleNames()), "host %s has no role", h.Name)
	}
	if h.SSH.HostKeyPolicy == PolicyPinned && len(h.SSH.HostKeys) == 0 {
		c.faultAt(path+".ssh.hostKeyPolicy", "add ssh.hostKeys with what ssh-keygen -l prints", "host %s is pinned to no host key", h.Name)
	}
	if h.Has(EtcdMember) && inv.Cluster.Etcd.Topology == Stacked {
		c.faultAt(path+".roles", "set cluster.etcd.topology to external, or drop the role",
			"host %s has role etcd, but with topology stacked the members run on the control planes", h.Name)
	}
	if h.Has(EtcdMember) && h.IsNode() && inv.Cluster.Etcd.Topology == External {
		c.faultAt(path+".roles", "give etcd a host of its own, or use topology stacked",
			"host %s has role etcd beside others", h.Name)
	}
}

// checkRoles judges the hosts together.
func (c *checker) checkRoles(inv *Inventory) {
	if len(inv.Hosts) == 0 {
		return
	}
	planes, members := inv.ControlPlanes(), inv.EtcdMembers()
	if len(planes) == 0 {
		hint := "add a host with role control-plane"
		if workers := inv.filter(func(h Host) bool { return h.State == Present && h.Has(Worker) }); len(workers) > 0 {
			c.faultAt("hosts", hint, "%s is a worker without a control plane", workers[0].Name)
		} else {
			c.faultAt("hosts", hint, "there is no control plane")
		}
	}
	switch n := len(members); {
	case n == 0 && inv.Cluster.Etcd.Topology == External:
		c.faultAt("cluster.etcd.topology", "add one or three hosts with role etcd", "etcd is external, and no host has role etcd")
	case n > 0 && n%2 == 0:
		where := "control planes, each with its etcd member"
		if inv.Cluster.Etcd.Topology == External {
			where = "etcd members"
		}
		c.faultAt("hosts", fmt.Sprintf("make it %d or %d", n-1, n+1),
			"%d %s: an even number survives no more failures than %d", n, where, n-1)
	case n > maxMembers:
		c.faultAt("hosts", "make it 3, 5 or 7", "%d etcd members are more than %d", n, maxMembers)
	}
}

// checkSettings judges what defaults, groups and hosts can say alike.
func (c *checker) checkSettings(path string, s Settings, host bool) {
	for i, role := range s.Roles {
		below := fmt.Sprintf("%s.roles[%d]", path, i)
		if !contains(roleNames(), role) {
			c.faultAt(below, suggestion(role, roleNames()), "unknown role %q", role)
		} else if contains(s.Roles[:i], role) {
			c.faultAt(below, "keep one of them", "role %s is given twice", role)
		}
	}
	for key, value := range s.Labels {
		c.checkLabel(path+".labels."+key, "label", key, value)
	}
	for i, taint := range s.Taints {
		below := fmt.Sprintf("%s.taints[%d]", path, i)
		effects := []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}
		if !contains(effects, taint.Effect) {
			c.faultAt(below+".effect", suggestion(taint.Effect, effects), "unknown taint effect %q", taint.Effect)
		}
		c.checkLabel(below, "taint", taint.Key, taint.Value)
	}
	c.checkSSH(path+".ssh", s.SSH, host)
	c.checkNode(path+".node", s.Node)
	if runtimes := []string{hostconfig.RuntimeContainerd, hostconfig.RuntimeCRIO}; s.Runtime != "" && !contains(runtimes, s.Runtime) {
		c.faultAt(path+".runtime", suggestion(s.Runtime, runtimes), "unknown runtime %q", s.Runtime)
	}
}

func (c *checker) checkLabel(path, what, key, value string) {
	if problems := validation.IsQualifiedName(key); len(problems) > 0 {
		c.faultAt(path, "write name or example.org/name", "%s key %q is not valid", what, key)
	}
	if problems := validation.IsValidLabelValue(value); len(problems) > 0 {
		c.faultAt(path, "use letters, digits, -, _ and ., at most 63", "%s value %q is not valid", what, value)
	}
}

func (c *checker) checkSSH(path string, s SSH, host bool) {
	if !host && s.Host != "" {
		c.faultAt(path+".host", "give it to a host", "ssh.host cannot be shared")
	}
	if !host && len(s.HostKeys) > 0 {
		c.faultAt(path+".hostKeys", "give them to a host", "ssh.hostKeys cannot be shared")
	}
	if _, given := c.lines[path+".port"]; given && (s.Port < 1 || s.Port > 65535) {
		c.faultAt(path+".port", "22 is usual", "ssh port %d is not from 1 to 65535", s.Port)
	}
	if strings.ContainsAny(s.User, " \t@:/") {
		c.faultAt(path+".user", "write the name only", "ssh user %q is no user name", s.User)
	}
	if policies := []string{PolicyStrict, PolicyAcceptNew, PolicyPinned}; s.HostKeyPolicy != "" && !contains(policies, s.HostKeyPolicy) {
		c.faultAt(path+".hostKeyPolicy", suggestion(s.HostKeyPolicy, policies), "unknown hostKeyPolicy %q", s.HostKeyPolicy)
	}
	if s.HostKeyPolicy != "" && s.HostKeyPolicy != PolicyPinned && len(s.HostKeys) > 0 {
		c.faultAt(path+".hostKeyPolicy", "write pinned, or drop hostKeys", "hostKeyPolicy %s and hostKeys contradict each other", s.HostKeyPolicy)
	}
	if sudo := []string{SudoAuto, SudoNever}; s.Sudo != "" && !contains(sudo, s.Sudo) {
		c.faultAt(path+".sudo", suggestion(s.Sudo, sudo), "unknown sudo %q", s.Sudo)
	}
	for i, key := range s.HostKeys {
		encoded, ok := strings.CutPrefix(key, "SHA256:")
		if sum, err := base64.RawStdEncoding.DecodeString(encoded); !ok || err != nil || len(sum) != 32 {
			c.faultAt(fmt.Sprintf("%s.hostKeys[%d]", path, i), "write SHA256:… as ssh-keygen -l prints it", "%q is no fingerprint", key)
		}
	}
	for i, jump := range s.Jump {
		if !validJump(jump) {
			c.faultAt(fmt.Sprintf("%s.jump[%d]", path, i), "write [user@]host[:port]", "%q is no jump host", jump)
		}
	}
}

func validJump(text string) bool {
	rest := text[strings.LastIndex(text, "@")+1:]
	if host, port, err := net.SplitHostPort(rest); err == nil {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return false
		}
		rest = host
	}
	return rest != "" && !strings.HasPrefix(text, "@") && !strings.ContainsAny(text, " \t/")
}
