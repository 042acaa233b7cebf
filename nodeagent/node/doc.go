// Package node stands for this host in the API: it registers the Node, keeps
// its Lease alive, and reports its status when it changes (every five minutes
// if it does not).
package node
