// Package hostconfig holds what clusterctl writes on a host and the host's
// programs read: where things lie (paths.go, pki.go) and the configuration
// files of the three long-running programs (controlplane run, controlplane
// etcd, nodeagent run).
//
// It is a leaf: it imports nothing of this module, and both sides of the wire
// (bootstrap on the workstation; controlplane and nodeagent on the host)
// import it. No behaviour lives here beyond loading, defaulting and checking
// a file.
package hostconfig
