// Package serviceproxy makes services reachable from a node and from its
// pods: the kernel rewrites packets to a service's addresses so that they go
// to one of its endpoints.
//
// What lives here:
//
//   - proxy.go: Run and Remove, when to do what
//   - model.go: what each port of a service leads to, a pure function of the
//     service and its endpoint slices
//   - tracker.go: which services have changed, and what became of them
//   - backend.go: what back ends do, and which one is chosen
//   - nft*.go: the back end for nftables, over netlink (hosts need not have the
//     program nft): the layout of its table, the elements that services put
//     into its maps, the ledger of what the kernel holds
//   - iptables*.go: the back end for iptables, and the model as its rules
//   - conntrack.go: forgetting UDP flows to endpoints that have gone
//   - health.go: answering load balancers that ask for local endpoints
//   - proxyhealth.go: answering those that ask for the node
//   - meters.go: what Prometheus is told, as kube-proxy would
//
// The rules work without the proxy, and stay when it ends. One that starts
// finds them and changes what differs.
//
// Ports of pods on the host (hostPort), and how packets reach pods on other nodes,
// are package network's business. Each family of
// addresses that the cluster's pods have is served, apart from the other.
package serviceproxy
