// Package storage holds the kinds of the group storage.k8s.io: classes of
// storage and of volume attributes, the CSI drivers of the cluster, of each
// node and their capacity, and the attachment of volumes to nodes. Volumes and
// claims themselves are in package core.
package storage
