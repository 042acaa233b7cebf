package preflight

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const demo = `apiVersion: clusterctl/v1
cluster: {name: demo}
hosts:
- {name: "cp[1:3]", address: "10.0.0.[1:3]", roles: [control-plane]}
- {name: w1, address: 10.0.0.11, roles: [worker]}
`

func parse(t *testing.T, text string) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Parse("inventory.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// good is an input without findings.
func good(t *testing.T) Input {
	in := Input{Inventory: parse(t, demo), Facts: map[string]hostop.Facts{}, Gathered: map[string]time.Time{}, Archs: []string{"amd64"}}
	for i, h := range in.Inventory.Present() {
		in.Facts[h.Name] = hostop.Facts{
			IPTables: true,
			Hostname: h.Name, MachineID: "id-" + h.Name, OS: hostop.OS{ID: "debian"}, Arch: "amd64", Init: "systemd",
			Cgroup: hostop.Cgroup{Version: 2, Controllers: []string{"cpu", "io", "memory", "pids"}}, Root: true,
			Addresses: []string{h.Address}, Memory: 2 * gib, CPUs: 2, Clock: now.Add(time.Duration(i) * time.Hour),
			Disks: map[string]hostop.Disk{"/var/lib": {Free: 20 * gib}, "/usr/local/lib": {Free: gib}, "/etc": {Free: gib}},
		}
		in.Gathered[h.Name] = now.Add(time.Duration(i) * time.Hour)
	}
	return in
}

func TestJudge(t *testing.T) {
	change := func(name string, f func(*hostop.Facts)) func(*Input) {
		return func(in *Input) {
			facts := in.Facts[name]
			f(&facts)
			in.Facts[name] = facts
		}
	}
	listen := func(network, address, process string) func(*Input) {
		return change("cp1", func(f *hostop.Facts) {
			f.Listening = []hostop.Listener{{Network: network, Address: address, Process: process}}
		})
	}
	ownCRIO := func(in *Input) { in.Inventory.Hosts[3].Runtime = hostconfig.RuntimeCRIO }
	tests := []struct {
		name   string
		change func(*Input)
		want   string // of the only finding; empty: none
	}{
		{"all well", func(*Input) {}, ""},
		{"system", change("w1", func(f *hostop.Facts) { f.OS = hostop.OS{ID: "plan9", Name: "Plan 9"} }),
			"warning: w1: runs Plan 9, which clusterctl is not tested on (os); it may work; tell us if it does"},
		{"architecture", change("w1", func(f *hostop.Facts) { f.Arch = "riscv64" }),
			"error: w1: is riscv64, and this clusterctl brings programs for amd64 (arch); use a clusterctl built for it"},
		{"not root", change("w1", func(f *hostop.Facts) { f.Root = false }),
			"error: w1: the user we log in as is not root and does not become it (root); log in as root, or set ssh.sudo to auto for a user whom sudo lets"},
		{"init", change("w1", func(f *hostop.Facts) { f.Init = "openrc" }), "error: w1: its init system is openrc (init); use a host that systemd runs"},
		{"no cgroups", change("w1", func(f *hostop.Facts) { f.Cgroup = hostop.Cgroup{} }), "error: w1: has no cgroups (cgroup); mount cgroup2 at /sys/fs/cgroup"},
		{"cgroup v1", change("w1", func(f *hostop.Facts) { f.Cgroup.Version = 1 }), ""},
		{"controllers", change("w1", func(f *hostop.Facts) { f.Cgroup.Controllers = []string{"cpu"} }),
			"error: w1: its cgroups lack memory, pids (cgroup); enable them on the kernel's command line (cgroup_enable=…)"},
		{"no iptables", change("w1", func(f *hostop.Facts) { f.IPTables = false }), ""},
		{"no iptables for services", func(in *Input) {
			in.Inventory.Cluster.ServiceProxy.Mode = hostconfig.ProxyIptables
			change("w1", func(f *hostop.Facts) { f.IPTables = false })(in)
		}, "error: w1: lacks iptables, which the inventory has services need (programs);"},
		{"modules", change("w1", func(f *hostop.Facts) { f.ModulesAbsent = []string{"vxlan"} }), "error: w1: its kernel lacks vxlan (modules);"},
		{"memory of a control plane", change("cp1", func(f *hostop.Facts) { f.Memory = 512 * mib }), "error: cp1: has 512 MiB of memory, and needs 900 MiB (memory); give it more"},
		{"memory of a worker", change("w1", func(f *hostop.Facts) { f.Memory = 512 * mib }), ""},
		{"disk", change("w1", func(f *hostop.Facts) {
			f.Disks = map[string]hostop.Disk{"/var/lib": {Free: gib * 3 / 2}}
		}), "error: w1: has 1.5 GiB free below /var/lib, and needs 4.0 GiB (disk); make room"},
		{"disk of a host in use", change("w1", func(f *hostop.Facts) {
			f.Installed, f.Disks = "v1", map[string]hostop.Disk{"/var/lib": {Free: gib * 3 / 2}}
		}), ""},
		{"full disk of a host in use", change("w1", func(f *hostop.Facts) {
			f.Installed, f.Disks = "v1", map[string]hostop.Disk{"/var/lib": {Free: gib / 2}}
		}), "warning: w1: has only 512 MiB free below /var/lib (disk); make room"},
		{"swap", change("w1", func(f *hostop.Facts) { f.Swap = gib }), "warning: w1: has 1.0 GiB of swap, which makes memory limits inexact (swap);"},
		{"address", change("w1", func(f *hostop.Facts) { f.Addresses = []string{"192.0.2.1"} }), "error: w1: 10.0.0.11 is none of its addresses (192.0.2.1) (address);"},
		{"same host name", change("w1", func(f *hostop.Facts) { f.Hostname = "cp2" }), "error: w1: has the host name of cp2: cp2 (hostname);"},
		{"same machine-id", change("w1", func(f *hostop.Facts) { f.MachineID = "id-cp2" }), "error: w1: has the machine-id of cp2: id-cp2 (machine-id);"},
		{"clock ahead", change("w1", func(f *hostop.Facts) { f.Clock = f.Clock.Add(time.Minute) }), "error: w1: its clock is 1m0s ahead of the others' (clock); let NTP set it (timedatectl set-ntp true)"},
		{"clock behind", change("w1", func(f *hostop.Facts) { f.Clock = f.Clock.Add(-3 * time.Second) }), "warning: w1: its clock is 3s behind the others' (clock);"},
		{"clock of the workstation", func(in *Input) {
			for name := range in.Gathered {
				in.Gathered[name] = in.Gathered[name].Add(time.Hour)
			}
		}, ""},
		{"port taken", listen("tcp", "0.0.0.0:6443", "nginx"), "error: cp1: nginx listens on tcp 6443 (0.0.0.0:6443), which is for the API (port-taken); stop it, or move it to another port"},
		{"port taken over IPv6", listen("tcp6", "[::]:10250", ""), "error: cp1: another program listens on tcp 10250 ([::]:10250), which is for logs and exec (port-taken);"},
		{"port taken for UDP", listen("udp", "0.0.0.0:8472", "flanneld"), "error: cp1: flanneld listens on udp 8472 (0.0.0.0:8472), which is for the pod network (port-taken);"},
		{"port on loopback", listen("tcp", "127.0.0.1:6443", "x"), ""},
		{"local port on loopback", listen("tcp", "127.0.0.1:6444", "x"), "error: cp1: x listens on tcp 6444 (127.0.0.1:6444), which is for the node's API load balancer (port-taken);"},
		{"other network", listen("udp", "0.0.0.0:6443", "x"), ""},
		{"port taken by ourselves", func(in *Input) {
			listen("tcp", "0.0.0.0:6443", "controlplane")(in)
			change("cp1", func(f *hostop.Facts) { f.Services = map[string]string{hostconfig.UnitControlPlane: "active"} })(in)
		}, ""},
		{"VXLAN device of a stopped node agent", func(in *Input) {
			listen("udp", "0.0.0.0:8472", "")(in)
			change("cp1", func(f *hostop.Facts) { f.Services = map[string]string{hostconfig.UnitNodeAgent: "failed"} })(in)
		}, ""},
		{"port of a stopped node agent taken", func(in *Input) {
			listen("tcp", "0.0.0.0:10250", "kubelet")(in)
			change("cp1", func(f *hostop.Facts) { f.Services = map[string]string{hostconfig.UnitNodeAgent: "failed"} })(in)
		}, "error: cp1: kubelet listens on tcp 10250 (0.0.0.0:10250), which is for logs and exec (port-taken);"},
		{"no CRI-O", func(in *Input) {
			ownCRIO(in)
			change("w1", func(f *hostop.Facts) { f.ImagePolicy = true })(in)
		}, "error: w1: is to use its own CRI-O, and has no service crio (runtime); install it with conmon and crun or runc (https://cri-o.io has packages), or leave runtime: crio out"},
		{"no image policy", func(in *Input) {
			ownCRIO(in)
			change("w1", func(f *hostop.Facts) { f.CRIO = true })(in)
		}, "error: w1: has no /etc/containers/policy.json, without which CRI-O takes no image (runtime); install containers-common"},
		{"CRI-O", func(in *Input) {
			ownCRIO(in)
			change("w1", func(f *hostop.Facts) { f.CRIO, f.ImagePolicy = true, true })(in)
		}, ""},
		{"unreachable", func(in *Input) {
			in.Unreachable = []Unreachable{{Flow{"w1", "cp1", "10.0.0.1", apiPort}, "no answer within 2s"}}
		}, "error: w1: cannot reach 10.0.0.1:6443 of cp1 over tcp, for the API: no answer within 2s (unreachable); open tcp 6443 from w1 to cp1 in the firewalls between and on them"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := good(t)
			test.change(&in)
			findings := Judge(in)
			switch {
			case test.want == "" && len(findings) > 0:
				t.Errorf("found %v", findings)
			case test.want != "" && (len(findings) != 1 || !strings.HasPrefix(findings[0].String(), test.want)):
				t.Errorf("found %v\nwant  [%s]", findings, test.want)
			}
			for _, f := range findings {
				in.Ignore = append(in.Ignore, f.Name)
			}
			if left := Judge(in); len(left) > 0 {
				t.Errorf("ignored, and still found: %v", left)
			}
		})
	}
}

func TestAllAtOnce(t *testing.T) {
	in := good(t)
	in.Facts["w1"] = hostop.Facts{Hostname: "cp1", Arch: "x"}
	var names []string
	for _, f := range Judge(in) {
		names = append(names, string(f.Severity)+" "+f.Name)
	}
	want := "[error arch error root error init error cgroup error memory error hostname warning os warning cpu]"
	if got := fmt.Sprint(names); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !Fatal(Judge(in)) || Fatal(Judge(good(t))) {
		t.Error("Fatal does not tell errors")
	}
}

func TestMatrix(t *testing.T) {
	count := func(inv *inventory.Inventory) map[string]int {
		found := map[string]int{}
		for _, f := range Matrix(inv) {
			if f.From == f.To {
				t.Errorf("%s has to reach itself", f.From)
			}
			found[f.Port.String()]++
		}
		return found
	}
	// 4 nodes reach the 3 API servers but themselves; the 3 reach the 4 nodes;
	// members reach one another; so do nodes.
	want := map[string]int{"tcp 6443": 9, "tcp 10250": 9, "tcp 2379": 6, "tcp 2380": 6, "udp 8472": 12}
	if got := count(parse(t, demo)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("stacked: %v, want %v", got, want)
	}
	external := parse(t, `apiVersion: clusterctl/v1
cluster: {name: demo, etcd: {topology: external}}
hosts:
- {name: "cp[1:2]", address: "10.0.0.[1:2]", roles: [control-plane]}
- {name: "etcd[1:3]", address: "10.0.0.[21:23]", roles: [etcd]}
`)
	want = map[string]int{"tcp 6443": 2, "tcp 10250": 2, "tcp 2379": 6 + 6, "tcp 2380": 6, "udp 8472": 2}
	if got := count(external); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("external: %v, want %v", got, want)
	}
}
