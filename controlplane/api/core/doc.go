// Package core holds the kinds of the core group ("v1"): namespaces, nodes,
// pods and what pods use. One file tells a kind's story; pods, too large for
// one, have pod*.go, and services service*.go.
//
// Other groups build on what stands here: DefaultPodTemplate and
// ValidatePodTemplate for everything that makes pods, Events for the
// events.k8s.io view of the same objects. It imports nothing of the other
// groups' kinds; where it needs another resource (IP addresses for services),
// it goes through Environment.Lookup.
package core
