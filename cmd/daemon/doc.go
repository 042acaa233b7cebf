// Package daemon is what the two programs that run on hosts, controlplane and
// nodeagent, share: how they log and end, and commands that read their
// configuration from a file. What they run is not here.
package daemon
