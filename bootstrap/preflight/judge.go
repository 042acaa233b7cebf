package preflight

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// Severity says whether a finding stops an `up`.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Names of findings, by which they are ignored.
const (
	OS        = "os"
	Arch      = "arch"
	Root      = "root"
	Init      = "init"
	Cgroup    = "cgroup"
	Modules   = "modules"
	Disk      = "disk"
	Memory    = "memory"
	CPU       = "cpu"
	Swap      = "swap"
	Address   = "address"
	Clock     = "clock"
	Hostname  = "hostname"
	MachineID = "machine-id"
	PortTaken = "port-taken"
	Runtime   = "runtime"
	Programs  = "programs"
	Reach     = "unreachable"
)

// Names lists all of them, sorted.
func Names() []string {
	names := []string{
		OS, Arch, Root, Init, Cgroup, Modules, Disk, Memory, CPU, Swap, Address, Clock, Hostname, MachineID, PortTaken, Runtime, Programs, Reach,
	}
	slices.Sort(names)
	return names
}

// What a host needs. A control plane holds the API's state in memory.
const (
	gib                = 1 << 30
	mib                = 1 << 20
	memoryControlPlane = 900 * mib // what a machine sold as 1 GiB shows
	memoryOther        = 400 * mib
	diskState          = 4 * gib   // below /var/lib
	diskPrograms       = 512 * mib // below /usr/local/lib
	diskConfiguration  = 16 * mib  // below /etc
	clockError         = 10 * time.Second
	clockWarning       = time.Second
)

// Finding is one thing about one host.
type Finding struct {
	Host     string   `json:"host"`
	Name     string   `json:"name"`
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
	Hint     string   `json:"hint,omitempty"`
}

// String is a line for people.
func (f Finding) String() string {
	line := fmt.Sprintf("%s: %s: %s (%s)", f.Severity, f.Host, f.Message, f.Name)
	if f.Hint != "" {
		line += "; " + f.Hint
	}
	return line
}

// Input is what is judged.
type Input struct {
	Inventory   *inventory.Inventory
	Facts       map[string]hostop.Facts
	Gathered    map[string]time.Time // this machine's time when a host's facts arrived
	Unreachable []Unreachable        // what Matrix tells to try and did not get through
	Archs       []string             // that there is a payload for
	Ignore      []string             // names of findings
}

// Judge gives every finding, host by host in the inventory's order, errors
// before warnings.
func Judge(in Input) []Finding {
	j := &judge{Input: in}
	for _, h := range in.Inventory.Present() {
		facts, ok := in.Facts[h.Name]
		if !ok {
			continue // whoever gathers facts reports hosts that gave none
		}
		j.host = h.Name
		j.system(facts)
		j.resources(h, facts)
		j.runtime(h, facts)
		j.programs(h, facts)
		j.ports(h, facts)
	}
	j.twins(Hostname, "host name", "give it one of its own (hostnamectl set-hostname)", func(f hostop.Facts) string { return f.Hostname })
	j.twins(MachineID, "machine-id", "make a new one: rm /etc/machine-id && systemd-machine-id-setup", func(f hostop.Facts) string { return f.MachineID })
	j.clocks()
	for _, u := range in.Unreachable {
		j.host = u.From
		j.find(Reach, Error, fmt.Sprintf("open %s from %s to %s in the firewalls between and on them", u.Port, u.From, u.To),
			"cannot reach %s of %s over %s, for %s: %s", net.JoinHostPort(u.Address, strconv.Itoa(u.Port.Number)), u.To, u.Port.Network, u.Port.Use, u.Error)
	}
	order := map[string]int{}
	for i, h := range in.Inventory.Hosts {
		order[h.Name] = i
	}
	slices.SortStableFunc(j.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.Host], order[b.Host]), cmp.Compare(a.Severity, b.Severity))
	})
	return j.findings
}

// Fatal says whether any of the findings is an error.
func Fatal(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == Error })
}

type judge struct {
	Input
	host     string
	findings []Finding
}

func (j *judge) find(name string, severity Severity, hint, format string, args ...any) {
	if !slices.Contains(j.Ignore, name) {
		j.findings = append(j.findings, Finding{Host: j.host, Name: name, Severity: severity, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
}

// knownOS are the distributions that clusterctl is made for.
var knownOS = []string{
	"debian", "ubuntu", "rhel", "centos", "rocky", "almalinux", "fedora", "ol", "amzn",
	"opensuse-leap", "opensuse-tumbleweed", "sles", "alpine", "raspbian",
}

func (j *judge) system(f hostop.Facts) {
	if !slices.Contains(knownOS, f.OS.ID) {
		name := cmp.Or(f.OS.Name, f.OS.ID, "an unknown system")
		j.find(OS, Warning, "it may work; tell us if it does", "runs %s, which clusterctl is not tested on", name)
	}
	if !slices.Contains(j.Archs, f.Arch) {
		j.find(Arch, Error, "use a clusterctl built for it", "is %s, and this clusterctl brings programs for %s", f.Arch, strings.Join(j.Archs, ", "))
	}
	if !f.Root {
		j.find(Root, Error, "log in as root, or set ssh.sudo to auto for a user whom sudo lets", "the user we log in as is not root and does not become it")
	}
	if f.Init != "systemd" {
		j.find(Init, Error, "use a host that systemd runs", "its init system is %s", cmp.Or(f.Init, "unknown"))
	}
	var missing []string
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(f.Cgroup.Controllers, controller) {
			missing = append(missing, controller)
		}
	}
	switch {
	case f.Cgroup.Version != 1 && f.Cgroup.Version != 2:
		j.find(Cgroup, Error, "mount cgroup2 at /sys/fs/cgroup", "has no cgroups")
	case len(missing) > 0:
		j.find(Cgroup, Error, "enable them on the kernel's command line (cgroup_enable=…)", "its cgroups lack %s", strings.Join(missing, ", "))
	}
	if len(f.ModulesAbsent) > 0 {
		j.find(Modules, Error, "install the distribution's full kernel (such as linux-image-amd64, linux-modules-extra)",
			"its kernel lacks %s", strings.Join(f.ModulesAbsent, ", "))
	}
}

func (j *judge) resources(h inventory.Host, f hostop.Facts) {
	wanted := int64(memoryOther)
	if h.Has(inventory.ControlPlane) {
		wanted = memoryControlPlane
	}
	if f.Memory < wanted {
		j.find(Memory, Error, "give it more", "has %s of memory, and needs %s", size(f.Memory), size(wanted))
	}
	if f.CPUs < 1 {
		j.find(CPU, Warning, "", "does not say how many CPUs it has")
	}
	if f.Swap > 0 {
		j.find(Swap, Warning, "turn it off: swapoff -a, and its line in /etc/fstab", "has %s of swap, which makes memory limits inexact", size(f.Swap))
	}
	for _, need := range []struct {
		path string
		size int64
	}{{"/var/lib", diskState}, {"/usr/local/lib", diskPrograms}, {"/etc", diskConfiguration}} {
		disk, ok := f.Disks[need.path]
		if ok && disk.Free < need.size && f.Installed == "" {
			j.find(Disk, Error, "make room", "has %s free below %s, and needs %s", size(disk.Free), need.path, size(need.size))
		} else if ok && disk.Free < need.size/4 {
			j.find(Disk, Warning, "make room", "has only %s free below %s", size(disk.Free), need.path)
		}
	}
	if len(f.Addresses) > 0 && !slices.Contains(f.Addresses, h.Address) {
		j.find(Address, Error, "write one that is, or ignore this where addresses are translated",
			"%s is none of its addresses (%s)", h.Address, strings.Join(f.Addresses, ", "))
	}
}

// programs asks for those that nodes run and that are not brought along.
func (j *judge) programs(h inventory.Host, f hostop.Facts) {
	if h.IsNode() && !f.IPTables && j.Inventory.Cluster.ServiceProxy.Mode == hostconfig.ProxyIptables {
		j.find(Programs, Error, "install it (apt-get install iptables, dnf install iptables-nft, zypper install iptables), or leave serviceProxy.mode to auto",
			"lacks iptables, which the inventory has services need")
	}
}

// runtime asks for a CRI-O that works on hosts that are to use theirs.
func (j *judge) runtime(h inventory.Host, f hostop.Facts) {
	if !h.IsNode() || h.Runtime != hostconfig.RuntimeCRIO {
		return
	}
	if !f.CRIO {
		j.find(Runtime, Error, "install it with conmon and crun or runc (https://cri-o.io has packages), or leave runtime: crio out",
			"is to use its own CRI-O, and has no service %s", hostconfig.UnitCRIO)
	}
	if !f.ImagePolicy {
		j.find(Runtime, Error, `install containers-common, or write {"default": [{"type": "insecureAcceptAnything"}]} into it`,
			"has no %s, without which CRI-O takes no image", hostconfig.ImagePolicy)
	}
}

// ownPrograms may hold a port for a moment after their service stopped. So does
// the kernel, nameless, for the pod network's VXLAN device.
var ownPrograms = []string{"controlplane", "nodeagent"}

// ports finds ports that somebody else holds.
func (j *judge) ports(h inventory.Host, f hostop.Facts) {
	for _, port := range Ports(j.Inventory, h) {
		state, installed := f.Services[port.Unit]
		if state == "active" || state == "activating" {
			continue // it is ours
		}
		for _, l := range f.Listening {
			if !occupies(l, port) || installed && (l.Process == "" || slices.Contains(ownPrograms, l.Process)) {
				continue
			}
			who := "another program"
			if l.Process != "" {
				who = l.Process
			}
			j.find(PortTaken, Error, "stop it, or move it to another port", "%s listens on %s (%s), which is for %s", who, port, l.Address, port.Use)
			break
		}
	}
}

func occupies(l hostop.Listener, port Port) bool {
	cut := strings.LastIndexByte(l.Address, ':')
	if cut < 0 || !strings.HasPrefix(l.Network, port.Network) || l.Address[cut+1:] != fmt.Sprint(port.Number) {
		return false
	}
	host := strings.Trim(l.Address[:cut], "[]")
	local := strings.HasPrefix(host, "127.") || host == "::1"
	return !local || port.Local
}

// twins finds hosts that share what has to be their own.
func (j *judge) twins(name, what, hint string, of func(hostop.Facts) string) {
	first := map[string]string{}
	for _, h := range j.Inventory.Present() {
		value := of(j.Facts[h.Name])
		if value == "" {
			continue
		}
		if other, ok := first[value]; ok {
			j.host = h.Name
			j.find(name, Error, hint, "has the %s of %s: %s", what, other, value)
			continue
		}
		first[value] = h.Name
	}
}

// clocks compares hosts with one another: each one's distance from this
// machine's clock with the median of all.
func (j *judge) clocks() {
	offsets := map[string]time.Duration{}
	var all []time.Duration
	for _, h := range j.Inventory.Present() {
		facts, ok := j.Facts[h.Name]
		gathered, told := j.Gathered[h.Name]
		if ok && told && !facts.Clock.IsZero() {
			offsets[h.Name] = facts.Clock.Sub(gathered)
			all = append(all, offsets[h.Name])
		}
	}
	if len(all) < 2 {
		return
	}
	slices.Sort(all)
	median := all[(len(all)-1)/2]
	for _, h := range j.Inventory.Present() {
		offset, ok := offsets[h.Name]
		if !ok {
			continue
		}
		j.host = h.Name
		hint := "let NTP set it (timedatectl set-ntp true)"
		distance, direction := offset-median, "ahead of"
		if distance < 0 {
			distance, direction = -distance, "behind"
		}
		switch {
		case distance > clockError:
			j.find(Clock, Error, hint, "its clock is %s %s the others'", distance.Round(time.Second), direction)
		case distance > clockWarning:
			j.find(Clock, Warning, hint, "its clock is %s %s the others'", distance.Round(100*time.Millisecond), direction)
		}
	}
}

func size(bytes int64) string {
	if bytes >= gib {
		return fmt.Sprintf("%.1f GiB", float64(bytes)/gib)
	}
	return fmt.Sprintf("%d MiB", bytes/mib)
}
