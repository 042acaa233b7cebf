package hostop

import "time"

// Facts is what a host says of itself. It is gathered by nodeagent host facts
// without changing anything, and judged by bootstrap/preflight.
type Facts struct {
	Hostname      string            `json:"hostname"`
	MachineID     string            `json:"machineID"`
	OS            OS                `json:"os"`
	Arch          string            `json:"arch"` // GOARCH
	Kernel        string            `json:"kernel"`
	Init          string            `json:"init"` // systemd, openrc or unknown
	Cgroup        Cgroup            `json:"cgroup"`
	Root          bool              `json:"root"`        // the hand runs as uid 0
	SysResource   bool              `json:"sysResource"` // CAP_SYS_RESOURCE is in the bounding set
	Addresses     []string          `json:"addresses"`   // global unicast, without prefix length
	Memory        int64             `json:"memory"`      // bytes
	CPUs          int               `json:"cpus"`
	Disks         map[string]Disk   `json:"disks"`                 // by path: /var/lib, /usr/local/lib, /etc
	Swap          int64             `json:"swap"`                  // bytes in use or ready
	Clock         time.Time         `json:"clock"`                 // when the facts were gathered
	Listening     []Listener        `json:"listening"`             // TCP and UDP sockets in listening state
	Installed     string            `json:"installed"`             // what LibDir/current points at; empty: nothing
	Services      map[string]string `json:"services"`              // our units, and CRI-O where pods of ours use it: active, inactive, failed; absent: not installed
	Authorities   map[string]string `json:"authorities"`           // fingerprints by file name, where AuthorityDir exists
	Resolvers     []string          `json:"resolvers"`             // nameservers of /etc/resolv.conf, as written
	EtcdData      bool              `json:"etcdData"`              // EtcdDir holds a member
	Runtime       string            `json:"runtime,omitempty"`     // that pods of ours run with, as hostconfig.Runtime…; empty: there are none
	CRIO          bool              `json:"crio,omitempty"`        // CRI-O's service is installed
	ImagePolicy   bool              `json:"imagePolicy,omitempty"` // hostconfig.ImagePolicy is there
	ModulesAbsent []string          `json:"modulesAbsent"`         // of overlay, br_netfilter, vxlan, nf_tables…: neither built in nor loadable
	IPTables      bool              `json:"iptables"`              // the programs iptables and ip6tables are installed
}

// OS is from /etc/os-release.
type OS struct {
	ID      string `json:"id"`
	Version string `json:"version"`
	Name    string `json:"name"`
}

// Cgroup is the host's cgroup layout.
type Cgroup struct {
	Version     int      `json:"version"` // 1 or 2; hybrid counts as 1
	Controllers []string `json:"controllers"`
}

// Disk is a file system's room in bytes.
type Disk struct {
	Total int64 `json:"total"`
	Free  int64 `json:"free"`
}

// Listener is a socket in use.
type Listener struct {
	Network string `json:"network"` // tcp or udp
	Address string `json:"address"` // host:port
	Process string `json:"process"` // command name, where it can be known
}
