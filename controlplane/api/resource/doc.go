// Package resource holds the kinds of the group resource.k8s.io, by which pods
// get devices: classes of devices, claims and templates of claims, and the
// slices in which drivers publish what they have. Who chooses the devices of a
// claim is the scheduler; who keeps claims is controllers/resourceclaim.
//
// Fields of features that Kubernetes 1.36 has off by default (attributes that
// are lists, devices that stand for a node's own resources) are dropped, as
// they are there.
package resource
