// Command proxy measures our service proxy beside stock kube-proxy, each in a
// network namespace of its own: how long it takes until the packet path has
// all services, and until it has one endpoint's change; what the first packet
// of a connection waits; memory and CPU.
//
// What lives here:
//
//   - main.go: which contestants, which sizes, in which order
//   - world.go: the namespaces: a node, a client before it, pods behind it
//   - api.go: a stand-in for the API server, which serves list and watch
//   - contestant.go: how each proxy is started, and ours itself
//   - measure.go: what is measured of one proxy
//   - report.go: the table
package main
