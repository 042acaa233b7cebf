// Package lab boots throw-away hosts on one Linux machine, so that a whole
// cluster can be brought up, broken and thrown away without hardware.
//
// A host is a set of namespaces (network, mount, PID, UTS, IPC, cgroup) around
// a real systemd and a real sshd, on an overlay over a Debian tree that is
// made once and cached. Its /var/lib lies on the machine's file system, since
// overlay file systems cannot be stacked. Hosts hang on a bridge inside a
// network namespace of the lab's own, or in turn on two that it routes between;
// the machine takes part through one veth pair, so that neither its packet filters nor its sysctls are touched and
// neither matters to traffic between hosts.
//
// What lives here:
//
//   - lab.go: Lab and Host, what a caller can do, and the state file
//   - create.go, delete.go: a lab's beginning and end
//   - run.go: starting, stopping, killing one host
//   - hostinit.go: what runs inside a host's namespaces before systemd
//   - switch.go: addresses, the bridges, cutting and healing links
//   - links.go: what is on which link, and the router between two
//   - cgroups.go: a delegated subtree per host, cgroup v1 and v2
//   - tree.go, mirror.go: the cached Debian tree
//   - keys.go, inventory.go: how to get in, and what `up` reads
//   - requirements.go: what the machine lacks
//
// The package knows nothing of clusters beyond the roles that it writes into
// the inventory, and imports nothing of this module. It needs root on Linux;
// elsewhere it is empty.
//
// A program that creates or starts hosts runs itself again inside the new
// namespaces: it has to call HostInit when its arguments begin with
// HostInitArgs.
package lab
