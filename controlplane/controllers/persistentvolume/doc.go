// Package persistentvolume binds claims to volumes, has volumes made for claims
// and reclaims volumes whose claims are gone.
//
//   - claim.go: what becomes of a claim; match.go finds its volume.
//   - volume.go: what becomes of a volume.
//   - bind.go: the writes by which both point at each other.
//   - provision.go: volumes for claims of classes with a provisioner: our own
//     (package localpath) or an external one, which is only told.
//
// A volume is bound first, then its claim: a volume points at one claim by UID
// at most, so that two claims never share one. Each step can be repeated after
// a crash. Choosing a volume for a claim that waits for its first consumer is
// the scheduler's; claims that pods bring along are made by package
// ephemeralvolume; finalizers that keep objects in use are storageprotection's.
package persistentvolume
