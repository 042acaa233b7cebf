// Package kubectl drives every verb of kubectl, as the library that is kubectl,
// against a control plane of this repository with a node that plays along. The
// test program is kubectl too, when the environment says so, so that each call
// has its own exit code, input and output. What needs a real node (logs, exec,
// attach, cp, port-forward, debug) is tried on lab hosts, in test/e2e.
package kubectl
