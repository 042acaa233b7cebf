// Package attachdetach has storage drivers attach volumes to the nodes whose
// pods use them, and detach them when no pod does: it makes and deletes
// VolumeAttachments, and writes on each node what is attached to it. Attaching
// itself is the work of a driver's external attacher; volumes that need no
// attaching are no business of this package.
package attachdetach
