// Package announce has one node at a time answer for each load-balancer address:
// it tells the network, by ARP and NDP, that packets for the address come here.
// The service proxy of any node knows what to do with them.
//
// What lives here:
//
//   - rank.go: which nodes may announce an address, and in which order
//   - turns.go: when it is this node's turn, by what is heard on the network
//   - announce.go: Run, which feeds both and the links
//   - arp.go, ndp.go: saying, answering and hearing who has an address
//
// Every node ranks all nodes that may announce an address in the same way, by
// rendezvous hashing: when one comes or goes, few addresses move. The first
// claims the address every second, to all of the network. The others listen: when
// claims have stopped for three seconds the next one claims it, and lets go as
// soon as it hears somebody else. So an address moves within seconds, long before
// the cluster knows that a node is dead, without a write to the API and without a
// port of its own; and what is tested is what counts, that the node answers on
// this network. Nodes that cannot hear each other may both announce; packets
// arrive all the same.
//
// The address is on no interface: an agent that died would go on answering, and
// the host's own ports would be open on it.
package announce
