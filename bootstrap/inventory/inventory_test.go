package inventory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clusterctl/hostconfig"
)

func parse(t *testing.T, text string) *Inventory {
	t.Helper()
	inv, err := Parse("/inv/cluster.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func TestExample(t *testing.T) {
	inv, err := Load(filepath.Join("..", "..", "inventory.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if got := []int{len(inv.Hosts), len(inv.Present()), len(inv.ControlPlanes()), len(inv.EtcdMembers()), len(inv.Nodes())}; !cmp.Equal(got, []int{18, 17, 3, 3, 14}) {
		t.Errorf("hosts, present, control planes, etcd members, nodes: %v", got)
	}
	store, ok := inv.Host("store1")
	if !ok {
		t.Fatal("no store1")
	}
	if !store.Has(Worker) || store.SSH.HostKeyPolicy != PolicyPinned || len(store.SSH.Jump) != 0 ||
		store.SSH.Host != "store1.example.org" || store.Labels["topology.kubernetes.io/zone"] != "rack-b" ||
		store.Labels["example.org/site"] != "berlin" || len(store.Taints) != 1 {
		t.Errorf("store1: %+v", store)
	}
	// Every key of the file is explained in the example.
	raw, err := os.ReadFile(filepath.Join("..", "..", "inventory.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"apiVersion", "kind", "cluster", "name", "endpoint", "version", "podCIDR", "nodeMaskSize", "serviceCIDR",
		"domain", "nodePortRange", "etcd", "topology", "dns", "upstream", "stubs", "servers", "defaults", "groups", "hosts", "roles", "ssh", "labels",
		"taints", "host", "user", "port", "keyFiles", "knownHosts", "hostKeyPolicy", "hostKeys", "jump", "password",
		"sudo", "key", "value", "effect", "address", "state", "audit", "policy", "authentication", "anonymousDiscovery", "oidc",
		"issuer", "clientID", "usernameClaim", "usernamePrefix", "groupsClaim", "groupsPrefix", "requiredClaims", "caFile",
		"podSecurity", "alwaysPullImages", "ingress", "defaultClass", "maxBody", "accessLog",
	} {
		if !strings.Contains(string(raw), key+":") {
			t.Errorf("the example does not show %s", key)
		}
	}
}

func TestExpansion(t *testing.T) {
	inv := parse(t, `
apiVersion: clusterctl/v1
cluster: {name: demo}
defaults:
  ssh: {user: admin, keyFiles: [keys/id]}
  labels: {a: default, b: default, c: default}
  taints: [{key: t, value: default, effect: NoSchedule}]
groups:
  one: {labels: {b: one, c: one}, ssh: {port: 2201}}
  two: {labels: {c: two}, roles: [worker], taints: [{key: t, value: two, effect: NoSchedule}]}
hosts:
- {name: "cp[08:10]", address: "10.0.0.[8:10]", roles: [control-plane]}
- {name: w, address: 10.0.1.1, groups: [one, two], ssh: {user: root}}
`)
	var names, addresses []string
	for _, h := range inv.Hosts {
		names, addresses = append(names, h.Name), append(addresses, h.Address)
	}
	if diff := cmp.Diff([]string{"cp08", "cp09", "cp10", "w"}, names); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"10.0.0.8", "10.0.0.9", "10.0.0.10", "10.0.1.1"}, addresses); diff != "" {
		t.Error(diff)
	}
	want := Host{
		Name: "w", Address: "10.0.1.1", Roles: []Role{Worker}, Groups: []string{"one", "two"},
		SSH:     SSH{Host: "10.0.1.1", User: "root", Port: 2201, KeyFiles: []string{"/inv/keys/id"}, Sudo: SudoAuto},
		Labels:  map[string]string{"a": "default", "b": "one", "c": "two"},
		Taints:  []Taint{{Key: "t", Value: "two", Effect: "NoSchedule"}},
		Runtime: hostconfig.RuntimeContainerd,
		State:   Present, Line: 13,
	}
	if diff := cmp.Diff(want, inv.Hosts[3]); diff != "" {
		t.Error(diff)
	}
}

func TestDefaults(t *testing.T) {
	inv := parse(t, `
apiVersion: clusterctl/v1
cluster: {name: demo}
hosts: [{name: one, address: 10.0.0.1, roles: [control-plane, worker]}]
`)
	want := hostconfig.Cluster{
		Name: "demo", Domain: "cluster.local", PodCIDR: "10.244.0.0/16", NodeMaskSize: 24, ServiceCIDR: "10.96.0.0/16",
		DNSAddress: "10.96.0.10", NodePortRange: "30000-32767", ControlPlanes: []string{"10.0.0.1:6443"},
	}
	if diff := cmp.Diff(want, inv.HostConfig()); diff != "" {
		t.Error(diff)
	}
	if inv.Endpoint() != "10.0.0.1:6443" || inv.ServiceAddress(1) != "10.96.0.1" {
		t.Errorf("endpoint %s, service address %s", inv.Endpoint(), inv.ServiceAddress(1))
	}
}

func TestDefaultsOfIPv6(t *testing.T) {
	inv := parse(t, `
apiVersion: clusterctl/v1
cluster: {name: demo}
hosts: [{name: "n[1:3]", address: "fd00::[1:3]", roles: [control-plane, worker]}]
`)
	want := hostconfig.Cluster{
		Name: "demo", Domain: "cluster.local", PodCIDR: "fd00:10:244::/56", NodeMaskSize: 24, NodeMaskSizeIPv6: 64, ServiceCIDR: "fd00:10:96::/112",
		DNSAddress: "fd00:10:96::a", NodePortRange: "30000-32767", ControlPlanes: []string{"[fd00::1]:6443", "[fd00::2]:6443", "[fd00::3]:6443"},
	}
	if diff := cmp.Diff(want, inv.HostConfig()); diff != "" {
		t.Error(diff)
	}
	if inv.Endpoint() != "[fd00::1]:6443" || inv.ServiceAddress(1) != "fd00:10:96::1" {
		t.Errorf("endpoint %s, service address %s", inv.Endpoint(), inv.ServiceAddress(1))
	}
}

// head is lines 1 to 3 of most faulty files; hosts start on line 4.
const head = "apiVersion: clusterctl/v1\ncluster: {name: demo}\nhosts:\n"

const plane = "- {name: cp, address: 10.0.0.1, roles: [control-plane]}\n"

func TestRefusals(t *testing.T) {
	cluster := func(keys string) string {
		return "apiVersion: clusterctl/v1\ncluster:\n  name: demo\n  " + keys + "\nhosts:\n" + plane
	}
	host := func(keys string) string {
		return head + plane + "- {name: w, address: 10.0.0.2, " + keys + "}\n"
	}
	tests := []struct{ name, text, want string }{
		{"empty", "", "1: the file is empty; start with apiVersion: clusterctl/v1"},
		{"no mapping", "- a\n", "1: an inventory is a mapping of keys, not a list; start with apiVersion: clusterctl/v1"},
		{"no YAML", "a: b\n\tc: [", "2: not YAML: found a tab character that violates indentation"},
		{"second document", head + plane + "---\na: b\n", "5: a second document; put it into a file of its own"},
		{"no apiVersion", "cluster: {name: demo}\nhosts:\n" + plane, "1: apiVersion is missing; write apiVersion: clusterctl/v1"},
		{"other apiVersion", "apiVersion: v1\ncluster: {name: demo}\nhosts:\n" + plane, `1: apiVersion is "v1"; write clusterctl/v1`},
		{"other kind", "kind: Cluster\n" + head + plane, `1: kind is "Cluster"; write Inventory`},
		{"unknown key", cluster("podCidr: 10.0.0.0/8"), `4: unknown key "podCidr" in cluster; did you mean podCIDR?`},
		{"unknown key of a host", host("role: [worker]"), `5: unknown key "role" in hosts[1]; did you mean roles?`},
		{"unknown key, nothing near", "zzzzzz: 1\n" + head + plane, `1: unknown key "zzzzzz"; write apiVersion, kind, cluster, defaults, groups or hosts`},
		{"key twice", cluster("name: other"), `4: key "name" in cluster was given on line 3 already; keep one of them`},
		{"merge key", head + "- &a {name: cp, address: 10.0.0.1, roles: [control-plane]}\n- {<<: *a, name: b}\n", "5: << is not supported; put what hosts share into groups or defaults"},
		{"list expected", host("roles: worker"), "5: hosts[1].roles is a list, not \"worker\"; write [worker], or one entry a line after \"- \""},
		{"mapping expected", host("roles: [worker], ssh: root"), `5: hosts[1].ssh is a mapping of keys, not "root"; write its keys below it, each indented`},
		{"value expected", cluster("domain: [a]"), "4: cluster.domain is a single value, not a list"},
		{"number expected", cluster("nodeMaskSize: big"), `4: cluster.nodeMaskSize is a number, not "big"; write it in digits`},
		{"bool expected", host("roles: [worker], ssh: {password: maybe}"), `5: hosts[1].ssh.password is true or false, not "maybe"; write true or false`},

		{"no name", "apiVersion: clusterctl/v1\ncluster: {}\nhosts:\n" + plane, "2: the cluster has no name; add name: with a short name"},
		{"bad name", "apiVersion: clusterctl/v1\ncluster: {name: Demo!}\nhosts:\n" + plane, `2: cluster name "Demo!" is no DNS label; use lower-case letters, digits and -, at most 63`},
		{"bad domain", cluster("domain: .x"), `4: domain ".x" is no DNS name; write one like cluster.local`},
		{"nameserver", cluster("dns: {upstream: [ns.example.org]}"), `4: nameserver "ns.example.org" is no IP address; write one like 192.0.2.53`},
		{"nameserver's port", cluster("dns: {upstream: [192.0.2.53:0]}"), `4: nameserver "192.0.2.53:0" is no IP address; write one like 192.0.2.53`},
		{"stub domain", cluster("dns: {stubs: [{domain: Corp, servers: [192.0.2.1]}]}"), `4: domain "Corp" is no DNS name; write one like corp.example.org`},
		{"stub domain of the cluster", cluster("dns: {stubs: [{domain: x.cluster.local, servers: [192.0.2.1]}]}"), `4: domain "x.cluster.local" is the cluster's own; choose another domain`},
		{"stub domain twice", cluster("dns: {stubs: [{domain: a.b, servers: [192.0.2.1]}, {domain: a.b, servers: [192.0.2.2]}]}"), `4: domain "a.b" is there twice; write all its servers in one entry`},
		{"stub domain's nameservers", cluster("dns: {stubs: [{domain: a.b}]}"), `4: stub domain "a.b" has no nameservers; add servers: with the addresses of its nameservers`},
		{"stub domain's nameserver", cluster("dns: {stubs: [{domain: a.b, servers: [ns.a.b]}]}"), `4: nameserver "ns.a.b" is no IP address; write one like 192.0.2.53`},
		{"pod security", cluster("podSecurity: baselin"), `4: unknown pod security standard "baselin"; did you mean baseline?`},
		{"audit policy absent", cluster("audit: {policy: no-such-file.yaml}"), `4: stat `},
		{"audit policy of another kind", cluster("audit: {policy: inventory_test.go}"), `4: audit policy inventory_test.go: `},
		{"negative pids", "defaults: {node: {podPIDs: -1}}\n" + head + plane, "1: podPIDs is negative; write how many processes a pod may have, or leave it out"},
		{"what is reserved", "defaults: {node: {reserved: {cpus: 1}}}\n" + head + plane, "1: cpus cannot be reserved; did you mean cpu?"},
		{"how much is reserved", "defaults: {node: {reserved: {memory: 10%}}}\n" + head + plane, `1: reserved memory "10%" is no quantity; write one like 500m, 1Gi or 1000`},
		{"eviction signal", "defaults: {node: {eviction: {hard: {memory.avail: 1Gi}}}}\n" + head + plane, `1: unknown eviction signal "memory.avail"; did you mean memory.available?`},
		{"eviction amount", "defaults: {node: {eviction: {minimumReclaim: {pid.available: 101%}}}}\n" + head + plane,
			`1: minimumReclaim of pid.available is neither a quantity nor a percentage: "101%"; write one like 200Mi or 10%`},
		{"soft eviction without a grace", "defaults: {node: {eviction: {soft: {memory.available: 1Gi}}}}\n" + head + plane,
			"5: nothing says how long cp may undershoot the soft threshold memory.available; add softGraceSeconds: with memory.available: and how many seconds it may be undershot"},
		{"eviction times", "defaults: {node: {eviction: {transitionSeconds: -1}}}\n" + head + plane, "1: transitionSeconds is negative; write a number of seconds"},
		{"how full a disk may be", "defaults: {node: {images: {collectAbovePercent: 101}}}\n" + head + plane,
			"1: no disk can be 101 percent full; write a number from 1 to 100"},
		{"images' ages", "defaults: {node: {images: {maxUnusedSeconds: -1}}}\n" + head + plane, "1: maxUnusedSeconds is negative; write a number of seconds"},
		{"collecting images until nothing is better", "defaults: {node: {images: {collectAbovePercent: 80}}}\n" + head + plane,
			"5: cp would collect images above 80 percent until no more than 80 percent are in use; keep collectBelowPercent below collectAbovePercent"},
		{"images that are spared and removed", "defaults: {node: {images: {maxUnusedSeconds: 120}}}\n" + head + plane,
			"5: cp would spare images for 120 seconds, and remove them after 120; keep maxUnusedSeconds above minAgeSeconds"},
		{"shutdown priorities", "defaults: {node: {shutdown: [{priority: 1, seconds: 1}, {priority: 1, seconds: 2}]}}\n" + head + plane,
			"1: priority 1 has a grace already; give each priority once"},
		{"shutdown priority", "defaults: {node: {shutdown: [{priority: 3000000000, seconds: 1}]}}\n" + head + plane,
			"1: no pod has the priority 3000000000; write one from -2147483648 to 2147483647"},
		{"long shutdown", "defaults: {node: {shutdown: [{priority: 1, seconds: 3601}]}}\n" + head + plane,
			"1: a shutdown would take 3601 seconds; keep the sum below 3600 seconds"},
		{"scheduler profile", cluster("schedulerProfiles: [{name: a, strategy: Best, disable: [Nothing]}]"), `4: scheduler profile "a": strategy "Best" is none of LeastAllocated, MostAllocated, RequestedToCapacityRatio; disable: there is no plugin Nothing; `},
		{"scheduler profile twice", cluster("schedulerProfiles: [{name: a}, {name: a}]"), `4: scheduler profile a was given on line 4 already`},
		{"ingress host", cluster("ingress: {hosts: [ons]}"), `4: there is no host "ons"; write cp`},
		{"pool name", cluster("loadBalancer: {pools: [{name: My LAN, addresses: [192.0.2.128/25]}]}"), `4: pool name "My LAN" is no DNS label; use lower-case letters, digits and -, at most 63`},
		{"pool twice", cluster("loadBalancer: {pools: [{name: lan, addresses: [192.0.2.128/26]}, {name: lan, addresses: [192.0.2.192/26]}]}"), `4: there are two pools lan; give each pool a name of its own`},
		{"pool without addresses", cluster("loadBalancer: {pools: [{name: lan, addresses: []}]}"), `4: pool lan has no addresses; add addresses: with networks or ranges`},
		{"pool of nonsense", cluster("loadBalancer: {pools: [{name: lan, addresses: [192.0.2.9-192.0.2.1]}]}"), `4: pool lan: 192.0.2.9 comes after 192.0.2.1; write one like 192.0.2.128/25 or 192.0.2.10-192.0.2.20`},
		{"pool of pods", cluster("loadBalancer: {pools: [{name: lan, addresses: [10.244.7.0/24]}]}"), `4: 10.244.7.0/24 of pool lan overlaps podCIDR 10.244.0.0/16; choose addresses that nobody else has`},
		{"pools overlap", cluster("loadBalancer: {pools: [{name: a, addresses: [192.0.2.128/25]}, {name: b, addresses: [192.0.2.200]}]}"), `4: 192.0.2.200 of pool b overlaps 192.0.2.128/25 of pool a; choose addresses that nobody else has`},
		{"ingress body", cluster("ingress: {maxBody: lots}"), `4: maxBody "lots" is no size; write one like 100Mi, or 0 for any size`},
		{"issuer", cluster("authentication: {oidc: [{issuer: 'http://x', clientID: a}]}"), `4: issuer "http://x" is no URL of a provider; write one like https://login.example.org`},
		{"issuer twice", cluster("authentication: {oidc: [{issuer: 'https://x', clientID: a}, {issuer: 'https://x', clientID: b}]}"), `4: issuer https://x was given on line 4 already`},
		{"no client", cluster("authentication: {oidc: [{issuer: 'https://x'}]}"), `4: issuer https://x has no clientID`},
		{"prefix of no groups", cluster("authentication: {oidc: [{issuer: 'https://x', clientID: a, groupsPrefix: b}]}"), `4: groupsPrefix without a groupsClaim means nothing`},
		{"empty claim", cluster("authentication: {oidc: [{issuer: 'https://x', clientID: a, requiredClaims: {a: ''}}]}"), `4: required claim "a" has the value ""`},
		{"no CA", cluster("authentication: {oidc: [{issuer: 'https://x', clientID: a, caFile: inventory_test.go}]}"), `4: inventory_test.go holds no certificate; name a PEM file`},
		{"bad topology", cluster("etcd: {topology: stackd}"), `4: unknown etcd topology "stackd"; did you mean stacked?`},
		{"endpoint URL", cluster("endpoint: https://api:6443"), `4: endpoint "https://api:6443" is a URL; write a name or an address, with or without a port: api.example.org:6443`},
		{"endpoint host", cluster("endpoint: a_b:1"), `4: endpoint host "a_b" is neither a DNS name nor an address`},
		{"endpoint port", cluster("endpoint: api:99999"), `4: endpoint port "99999" is not a number from 1 to 65535`},
		{"endpoint in a network", cluster("endpoint: 10.96.0.5"), "4: endpoint 10.96.0.5 lies inside serviceCIDR 10.96.0.0/16; choose another network or another address"},
		{"node ports", cluster("nodePortRange: 40000"), `4: nodePortRange "40000" is no range of ports; write first-last, such as 30000-32767`},
		{"node ports ours", cluster("nodePortRange: 6000-7000"), "4: nodePortRange 6000-7000 takes port 6443, which the hosts need themselves"},
		{"bad network", cluster("podCIDR: 10.244.0.0"), `4: podCIDR "10.244.0.0" is no network; write a network such as 10.244.0.0/16`},
		{"IPv6 network of IPv4 hosts", cluster("podCIDR: fd00::/56"), "6: address 10.0.0.1 of cp is of another family than podCIDR fd00::/56; give hosts addresses of the family of podCIDR's first network"},
		{"services of another family", cluster("podCIDR: fd00::/56"), "2: serviceCIDR 10.96.0.0/16 and podCIDR fd00::/56 are of different families; choose one of podCIDR's family"},
		{"unknown overlay", cluster("overlay: alway"), `4: unknown overlay "alway"; did you mean always?`},
		{"IPv6 first", cluster("podCIDR: fd00::/56,10.244.0.0/16"), "4: podCIDR fd00::/56 is not IPv4; write the IPv4 network first: 10.244.0.0/16,fd00:10:244::/56"},
		{"one family twice", cluster("serviceCIDR: 10.96.0.0/16,10.97.0.0/16"), "4: serviceCIDR has two IPv4 networks; write one of each family: 10.96.0.0/16,fd00:10:96::/112"},
		{"three networks", cluster("podCIDR: 10.244.0.0/16,fd00::/56,fd01::/56"), "4: podCIDR has more than two networks"},
		{"bad second network", cluster("podCIDR: 10.244.0.0/16,fd00"), `4: podCIDR "fd00" is no network`},
		{"host bits of the second", cluster("podCIDR: 10.244.0.0/16,fd00::1/56"), "4: podCIDR fd00::1/56 has bits set after its prefix; write fd00::/56"},
		{"services of IPv6 without pods", cluster("serviceCIDR: 10.96.0.0/16,fd00::/112"), "4: serviceCIDR has an IPv6 network and podCIDR has none; give podCIDR one, too"},
		{"IPv6 overlap", cluster("podCIDR: 10.244.0.0/16,fd00::/56\n  serviceCIDR: 10.96.0.0/16,fd00::/112"), "5: serviceCIDR fd00::/112 overlaps podCIDR fd00::/56"},
		{"large IPv6 service network", cluster("podCIDR: 10.244.0.0/16,fd00::/56\n  serviceCIDR: 10.96.0.0/16,fd01::/48"), "5: serviceCIDR fd01::/48 is too large; choose a prefix length from 64 to 123"},
		{"IPv6 mask out of range", cluster("podCIDR: 10.244.0.0/16,fd00::/40\n  nodeMaskSizeIPv6: 124"), "5: nodeMaskSizeIPv6 124 is not from 48 to 120"},
		{"IPv6 mask above network", cluster("podCIDR: 10.244.0.0/16,fd00::/72"), "2: a node's share of /64 is larger than podCIDR fd00::/72; choose one from 72 to 120, or a larger podCIDR"},
		{"IPv6 mask without network", cluster("nodeMaskSizeIPv6: 64"), "4: nodeMaskSizeIPv6 is given and podCIDR has no IPv6 network; add an IPv6 network to podCIDR, or drop it"},
		{"host bits", cluster("podCIDR: 10.244.1.0/16"), "4: podCIDR 10.244.1.0/16 has bits set after its prefix; write 10.244.0.0/16"},
		{"overlap", cluster("serviceCIDR: 10.244.128.0/20"), "4: serviceCIDR 10.244.128.0/20 overlaps podCIDR 10.244.0.0/16; choose networks that have nothing in common"},
		{"small service network", cluster("serviceCIDR: 10.96.0.0/28"), "4: serviceCIDR 10.96.0.0/28 is too small; choose a prefix length from 12 to 27"},
		{"large service network", cluster("serviceCIDR: 10.0.0.0/8"), "4: serviceCIDR 10.0.0.0/8 is too large"},
		{"mask", cluster("nodeMaskSize: 30"), "4: nodeMaskSize 30 is not from 16 to 29"},
		{"mask above network", cluster("podCIDR: 10.244.0.0/20\n  nodeMaskSize: 16"), "5: a node's share of /16 is larger than podCIDR 10.244.0.0/20; choose one from 20 to 29, or a larger podCIDR"},
		{"no room", "apiVersion: clusterctl/v1\ncluster: {name: demo, podCIDR: 10.244.0.0/23}\nhosts:\n" + plane + "- {name: 'w[1:2]', address: '10.0.0.[2:3]', roles: [worker]}\n",
			"2: podCIDR 10.244.0.0/23 has room for 2 nodes of /24, and there are 3; choose a larger podCIDR or a larger nodeMaskSize"},

		{"no hosts", "apiVersion: clusterctl/v1\ncluster: {name: demo}\n", "1: there are no hosts; add at least one host with role control-plane"},
		{"duplicate host", head + plane + "- {name: cp, address: 10.0.0.2, roles: [worker]}\n", "5: host cp was given on line 4 already; give every host its own"},
		{"duplicate address", host("roles: [worker]") + "- {name: v, address: 10.0.0.2, roles: [worker]}\n", "6: address 10.0.0.2 was given on line 5 already; give every host its own"},
		{"duplicate in ranges", head + plane + "- {name: 'w[1:3]', address: '10.0.0.[2:4]', roles: [worker]}\n- {name: w2, address: 10.0.0.9, roles: [worker]}\n", "6: host w2 was given on line 5 already"},
		{"two control planes", head + plane + "- {name: cq, address: 10.0.0.2, roles: [control-plane]}\n",
			"3: 2 control planes, each with its etcd member: an even number survives no more failures than 1; make it 1 or 3"},
		{"four etcd members", "apiVersion: clusterctl/v1\ncluster: {name: demo, etcd: {topology: external}}\nhosts:\n" + plane + "- {name: 'e[1:4]', address: '10.0.1.[1:4]', roles: [etcd]}\n",
			"3: 4 etcd members: an even number survives no more failures than 3; make it 3 or 5"},
		{"nine etcd members", head + "- {name: 'cp[1:9]', address: '10.0.1.[1:9]', roles: [control-plane]}\n", "3: 9 etcd members are more than 7; make it 3, 5 or 7"},
		{"worker alone", head + "- {name: w, address: 10.0.0.2, roles: [worker]}\n", "3: w is a worker without a control plane; add a host with role control-plane"},
		{"control plane absent", head + "- {name: cp, address: 10.0.0.2, roles: [control-plane], state: absent}\n", "3: there is no control plane; add a host with role control-plane"},
		{"external without members", cluster("etcd: {topology: external}"), "4: etcd is external, and no host has role etcd; add one or three hosts with role etcd"},
		{"etcd under stacked", host("roles: [etcd]"), "5: host w has role etcd, but with topology stacked the members run on the control planes; set cluster.etcd.topology to external, or drop the role"},
		{"etcd beside others", "apiVersion: clusterctl/v1\ncluster: {name: demo, etcd: {topology: external}}\nhosts:\n- {name: cp, address: 10.0.0.1, roles: [control-plane, etcd]}\n",
			"4: host cp has role etcd beside others; give etcd a host of its own, or use topology stacked"},
		{"unknown role", host("roles: [workr]"), `5: unknown role "workr"; did you mean worker?`},
		{"unknown runtime", host("roles: [worker], runtime: cri-o"), `5: unknown runtime "cri-o"; did you mean crio?`},
		{"master", host("roles: [master]"), `5: unknown role "master"; write control-plane, worker or etcd`},
		{"role twice", host("roles: [worker, worker]"), "5: role worker is given twice; keep one of them"},
		{"no role", host("state: present"), "5: host w has no role; add roles: with control-plane, worker or etcd"},
		{"unknown group", "groups: {rack-a: {}}\n" + host("roles: [worker], groups: [rack-b]"), `6: unknown group "rack-b"; did you mean rack-a?`},
		{"no groups", host("roles: [worker], groups: [rack-b]"), `5: unknown group "rack-b"; describe it under groups`},
		{"unknown state", host("roles: [worker], state: gone"), `5: unknown state "gone"; write present or absent`},
		{"upper case", head + "- {name: CP_1, address: 10.0.0.1, roles: [control-plane]}\n", `4: host name "CP_1" is no DNS name; write cp-1`},
		{"host without name", head + "- {address: 10.0.0.1, roles: [control-plane]}\n", "4: a host has no name; add name: with the node's name"},
		{"host without address", head + "- {name: cp, roles: [control-plane]}\n", "4: host cp has no address; add address: with its IP address"},
		{"name for address", head + "- {name: cp, address: cp.example.org, roles: [control-plane]}\n", `4: address "cp.example.org" of cp is no IP address; write an IP address; a name to log in by goes under ssh.host`},
		{"IPv6 among IPv4", head + "- {name: cp, address: 10.0.0.1, roles: [control-plane]}\n- {name: w, address: 'fd00::1', roles: [worker]}\n", "5: address fd00::1 of w is of another family than podCIDR 10.244.0.0/16"},
		{"IPv6 at length", head + "- {name: cp, address: 'fd00:0::1', roles: [control-plane]}\n", "4: address fd00:0::1 of cp is not written as it is shown everywhere else; write fd00::1"},
		{"IPv4 as IPv6", head + "- {name: cp, address: '::ffff:10.0.0.1', roles: [control-plane]}\n", "4: address ::ffff:10.0.0.1 of cp is no plain address"},
		{"loopback", head + "- {name: cp, address: 127.0.0.1, roles: [control-plane]}\n", "4: address 127.0.0.1 of cp cannot be reached from other hosts"},
		{"in the pod network", head + "- {name: cp, address: 10.244.3.1, roles: [control-plane]}\n", "4: address 10.244.3.1 of cp lies inside podCIDR 10.244.0.0/16; choose a podCIDR that no host lies in"},

		{"two ranges", head + "- {name: 'a[1:2]b[1:2]', address: '10.0.0.[1:2]', roles: [worker]}\n", `4: "a[1:2]b[1:2]" has to have exactly one range; write one like [1:3] or [01:10]`},
		{"bad range", head + "- {name: 'a[1-2]', address: '10.0.0.[1:2]', roles: [worker]}\n", `4: "[1-2]" is no range; write one like [1:3] or [01:10]`},
		{"backwards", head + "- {name: 'a[3:2]', address: '10.0.0.[1:2]', roles: [worker]}\n", "4: the range [3:2] runs backwards"},
		{"too many", head + "- {name: 'a[1:5000]', address: '10.0.0.[1:2]', roles: [worker]}\n", "4: the range [1:5000] is of more than 1000 hosts"},
		{"ranges of two lengths", head + "- {name: 'a[1:3]', address: '10.0.0.[1:2]', roles: [control-plane]}\n", "4: a[1:3] stands for 3 hosts and 10.0.0.[1:2] for 2 addresses; make it a range of 3"},
		{"one range only", head + "- {name: 'a[1:3]', address: '10.0.0.1', roles: [control-plane]}\n", "4: name a[1:3] and address 10.0.0.1 do not go together; give both a range of the same length, or neither"},
		{"ssh.host of a range", head + "- {name: 'a[1:3]', address: '10.0.0.[1:3]', roles: [control-plane], ssh: {host: a}}\n", "4: ssh.host is for a single host, and a[1:3] stands for several"},

		{"label key", host("roles: [worker], labels: {a/b/c: x}"), `5: label key "a/b/c" is not valid; write name or example.org/name`},
		{"label value", host("roles: [worker], labels: {a: 'b c'}"), `5: label value "b c" is not valid`},
		{"taint effect", host("roles: [worker], taints: [{key: a, effect: noschedule}]"), `5: unknown taint effect "noschedule"; did you mean NoSchedule?`},
		{"taint key", host("roles: [worker], taints: [{effect: NoSchedule}]"), `5: taint key "" is not valid`},
		{"shared ssh host", "defaults: {ssh: {host: a}}\n" + head + plane, "1: ssh.host cannot be shared; give it to a host"},
		{"shared host keys", "defaults: {ssh: {hostKeys: [a]}}\n" + head + plane, "1: ssh.hostKeys cannot be shared; give them to a host"},
		{"ssh port", host("roles: [worker], ssh: {port: 0}"), "5: ssh port 0 is not from 1 to 65535; 22 is usual"},
		{"ssh user", host("roles: [worker], ssh: {user: a@b}"), `5: ssh user "a@b" is no user name; write the name only`},
		{"host key policy", host("roles: [worker], ssh: {hostKeyPolicy: no}"), `5: unknown hostKeyPolicy "no"; write strict, accept-new or pinned`},
		{"host key policy near", host("roles: [worker], ssh: {hostKeyPolicy: acceptnew}"), `5: unknown hostKeyPolicy "acceptnew"; did you mean accept-new?`},
		{"pinned to nothing", host("roles: [worker], ssh: {hostKeyPolicy: pinned}"), "5: host w is pinned to no host key; add ssh.hostKeys with what ssh-keygen -l prints"},
		{"contradiction", host("roles: [worker], ssh: {hostKeyPolicy: strict, hostKeys: ['SHA256:uNiVztksCsDhcc0u9e8BrrAyNsb5KZm3T0s+4BqJ7KU']}"), "5: hostKeyPolicy strict and hostKeys contradict each other; write pinned, or drop hostKeys"},
		{"fingerprint", host("roles: [worker], ssh: {hostKeys: ['SHA256:abc']}"), `5: "SHA256:abc" is no fingerprint; write SHA256:… as ssh-keygen -l prints it`},
		{"jump", host("roles: [worker], ssh: {jump: ['a:b']}"), `5: "a:b" is no jump host; write [user@]host[:port]`},
		{"sudo", host("roles: [worker], ssh: {sudo: yes}"), `5: unknown sudo "yes"; write auto or never`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("inv.yaml", []byte(test.text))
			var faults *Faults
			if !errors.As(err, &faults) {
				t.Fatalf("Parse: %v, want faults", err)
			}
			for line := range strings.Lines(faults.Error()) {
				if strings.HasPrefix(line, "inv.yaml:"+test.want) {
					return
				}
			}
			t.Errorf("got\n%s\nwant a line\ninv.yaml:%s", err, test.want)
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := Parse("inv.yaml", []byte(`apiVersion: v1
cluster: {name: demo, podCIDR: x}
hosts:
- {name: a, address: 10.0.0.1, roles: [worker], color: red}
- {name: a, address: 10.0.0.1, roles: [worker]}
`))
	want := `inv.yaml:1: apiVersion is "v1"; write clusterctl/v1
inv.yaml:2: podCIDR "x" is no network; write a network such as 10.244.0.0/16
inv.yaml:3: a is a worker without a control plane; add a host with role control-plane
inv.yaml:4: unknown key "color" in hosts[0]; write name, address, groups, state, roles, ssh, labels, taints, node or runtime
inv.yaml:5: host a was given on line 4 already; give every host its own
inv.yaml:5: address 10.0.0.1 was given on line 4 already; give every host its own`
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	example, err := os.ReadFile(filepath.Join("..", "..", "inventory.example.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(head + plane))
	f.Add([]byte("a: &a [*a]\nhosts: *a"))
	f.Add([]byte("# only a comment\n"))
	f.Add([]byte("---\n---\n"))
	f.Add([]byte(head + "- {name: 'a[0:999]', address: '10.0.[0:999].1'}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		inv, err := Parse("f", raw)
		if err != nil {
			var faults *Faults
			if !errors.As(err, &faults) || len(faults.List) == 0 {
				t.Fatalf("an error without faults: %v", err)
			}
			return
		}
		if len(inv.ControlPlanes()) == 0 || len(inv.EtcdMembers())%2 == 0 {
			t.Fatalf("accepted %d control planes and %d etcd members", len(inv.ControlPlanes()), len(inv.EtcdMembers()))
		}
		for _, h := range inv.Hosts {
			if h.Name == "" || h.Address == "" || len(h.Roles) == 0 {
				t.Fatalf("accepted host %+v", h)
			}
		}
	})
}
