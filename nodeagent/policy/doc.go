// Package policy enforces NetworkPolicies on a node: it lets the kernel drop
// packets from and to the node's pods that no policy allows.
//
// What lives here:
//
//   - enforce.go: Run and Remove, when to do what
//   - gate.go: holding a pod's first container back until its policies hold
//   - watch.go: what is known of the cluster, and how little of it is watched
//   - picture.go: the chains and sets that the policies ask for, a pure
//     function of policies, pods and namespaces
//   - family.go: address families, and where addresses stand in packets
//   - ranges.go: arithmetic of address blocks
//   - kernel.go: giving the kernel what changed, in one transaction
//
// The rules stand in nftables tables of their own, one for each address family
// that pods have, and are spoken of to the kernel over netlink
// (github.com/google/nftables): hosts need not have the program nft, which other
// libraries run. They hook where packets are forwarded. There a service's
// address has been replaced by an endpoint's already; and what the node itself
// sends to its pods, or they to it, does not pass there: a kubelet's probes are
// never denied. Rules are asked about the first packet of a connection: those that are
// established when a policy comes go on.
//
// As long as no policy selects a pod of the node there are no tables, and other
// nodes' pods are not watched. Pods with the host's network are neither
// selected nor peers: only blocks of addresses match them.
package policy
