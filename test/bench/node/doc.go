// Command node measures our node agent beside the stock kubelet: the same pods,
// on the same lab host, with the same containerd, runc, CNI configuration, node
// object, certificates and API server, one agent after the other. It boots a lab
// of a control plane and a worker for itself, and prints a Markdown table
// (`make bench-node`).
//
// The kubelet finds what our agent left in place when it was stopped: the CNI
// configuration, the bridge, routes and service rules. What it has to do without
// is the load balancer for the API, so it asks the control plane itself.
//
// Pods are bound to the worker when they are made, so no scheduler takes part.
package main
