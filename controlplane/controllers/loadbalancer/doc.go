// Package loadbalancer gives services of type LoadBalancer addresses from the
// pools of the inventory. Who has what stands in the services' status and
// nowhere else: a new leader reads it there. That packets for an address reach a
// node is the node agents' work (nodeagent/announce).
package loadbalancer
