// Package node authorizes node agents: each sees its own Node, Lease and
// CSINode, the pods bound to it, and the secrets, config maps, claims and
// service accounts that those pods refer to, and nothing of other nodes.
//
// What a node may write is narrowed further by the admission plugin
// NodeRestriction, which knows the objects' contents.
package node
