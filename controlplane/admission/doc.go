// Package admission is the chain that every write passes after authorization
// and before validation: the built-in plugins, one file each, in the order
// that Kubernetes has them. What Kubernetes' libraries publish (namespace
// lifecycle) is used from there.
//
// Plugins see the published v1 types, since those are what the registry hubs
// on.
package admission
