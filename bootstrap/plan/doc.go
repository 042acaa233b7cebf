// Package plan turns an inventory, the facts of its hosts and the manifest of
// the payload into a plan: a graph of steps, each a list of hostop operations
// for one host.
//
// Build is pure. It always plans the whole cluster; Prune then drops what the
// hosts say is in place already. What is left is what `clusterctl plan` prints
// and what bootstrap/execute carries out, step by step.
//
// plan.go is the graph and what can be done with it, build.go puts a cluster's
// steps together, and etcd.go, controlplane.go, node.go and pki.go say what
// each role needs. Secrets never appear here: certificate operations carry
// names only.
package plan
