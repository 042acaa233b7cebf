// Package network joins a node's pods with those of all other nodes: it
// writes the CNI configuration that puts pods on the bridge cctl0, and keeps
// a VXLAN device with a route to every other node's pods.
//
// What lives here:
//
//   - network.go: Run and Remove, when to do what
//   - picture.go: what the network has to look like, a pure function of the
//     cluster's nodes
//   - overlay.go: making the kernel's links, routes and neighbours so
//   - rules.go: masquerading and forwarding of pods' packets
//   - sysctl.go: the kernel's settings, and how they were before
//   - conflist.go: the CNI configuration
//
// Everything is reconciled against what is there, so that a restart of the
// node agent changes nothing and interrupts no traffic. Services are none of
// its business (package serviceproxy), nor are pods' own interfaces, which
// the CNI plugins make.
package network
