// Package flowcontrol holds the kinds of the group
// flowcontrol.apiserver.k8s.io: how requests are told apart (FlowSchema) and
// how much of the server each sort may take (PriorityLevelConfiguration), and
// the objects of both that every cluster has. What they govern, the queues of
// requests, is in k8s.io/apiserver.
package flowcontrol
