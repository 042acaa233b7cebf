// Package csi lets storage drivers mount volumes for pods, by the Container
// Storage Interface.
//
//   - drivers.go: drivers register (package plugins finds their sockets), and
//     the node's CSINode says what they told.
//   - attach.go: waiting until volumes are attached, where a driver needs that.
//   - mount.go: staging and publishing volumes.
//   - unmount.go: taking both back; what cannot be unstaged yet is tried again.
//   - record.go: what is mounted and staged where, on disk beside each mount, so
//     that an agent that was restarted takes away what the one before it mounted.
//   - grow.go: file systems follow volumes that grew.
//   - limits.go: how many volumes drivers take, where that changes.
//
// Attaching volumes to the node is the control plane's and the driver's; this
// package waits for it. Drivers are told paths below Root, which is where
// published drivers expect a node's agent.
package csi
