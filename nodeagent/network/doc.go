// Package network joins a node's pods with those of all other nodes: it
// writes the CNI configuration that puts pods on the bridge cctl0, and keeps a
// route to every other node's pods: straight to nodes that share a link with
// this one, through a VXLAN device to others. Pods have IPv4 addresses, and IPv6
// ones where the cluster's networks are of both families; the VXLAN device
// carries both between the nodes' IPv4 addresses, so that hosts need no others.
//
// What lives here:
//
//   - network.go: Run and Remove, when to do what
//   - picture.go: what the network has to look like, a pure function of the
//     cluster's nodes
//   - family.go: address families, and which addresses a node has
//   - overlay.go: making the kernel's links, addresses and neighbours so
//   - routes.go: making its routes so
//   - rules.go: masquerading and forwarding of pods' packets
//   - sysctl.go: the kernel's settings, and how they were before
//   - conflist.go: the CNI configuration
//
// Everything is reconciled against what is there, so that a restart of the
// node agent changes nothing and interrupts no traffic. Services are none of
// its business (package serviceproxy), nor are pods' own interfaces, which
// the CNI plugins make.
package network
