// Package nodeipam gives every node its share of the pod networks, one of each
// address family, as spec.podCIDRs. A share belongs to one node at a time and is
// free again when that node is deleted. The network itself (bridges, routes) is
// the node agents' business.
package nodeipam
