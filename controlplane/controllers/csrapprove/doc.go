// Package csrapprove approves the certificates that nodes ask for themselves:
//
//   - a client certificate of a node, asked for with a bootstrap token or by
//     the node itself when it renews;
//   - a serving certificate of a node, asked for by that node, all of whose
//     names and addresses are the node's own as its Node object has them.
//
// It denies nothing: what it does not approve waits for an operator.
package csrapprove
