// Package network joins a node's pods with those of all other nodes: it
// writes the CNI configuration that puts pods on the bridge cctl0, and keeps a
// route to every other node's pods: straight to nodes that share a link with
// this one, through a VXLAN device to others. Pods have addresses of their nodes'
// family, and beside IPv4 those of IPv6 where the cluster's networks are of both;
// the VXLAN device carries both between the nodes' addresses of the first, so that
// hosts need no others.
//
// What lives here:
//
//   - network.go: Run and Remove, when to do what
//   - picture.go: what the network has to look like, a pure function of the
//     cluster's nodes
//   - family.go: address families, and which addresses a node has
//   - overlay.go: making the kernel's links, addresses and neighbours so
//   - routes.go: making its routes so
//   - serviceranges.go: the networks of services' addresses
//   - nft.go: our tables of nftables, over netlink, and masquerading
//   - rules.go: letting pods' packets through foreign rules of iptables
//   - hostports.go: which ports of the host lead to pods (hostPort)
//   - hostports_nft.go: how they do, in nftables
//   - sysctl.go: the kernel's settings, and how they were before
//   - conflist.go: the CNI configuration
//
// Masquerading and host ports stand in nftables tables of their own: hosts need
// no program for them, neither nft nor iptables. What nftables lets through, rules
// of iptables may still drop: Docker and ufw have the chain FORWARD drop what they
// do not know. So where a host has iptables, pods' packets are accepted in that
// chain; where it has not, nobody has made such rules.
//
// Everything is reconciled against what is there, so that a restart of the
// node agent changes nothing and interrupts no traffic. Services are none of
// its business (package serviceproxy), nor are pods' own interfaces, which
// the CNI plugins make. Whose host ports are mapped, and when, package pods says.
package network
