// Package ephemeralvolume makes the claims that pods bring along in generic
// ephemeral volumes. They are owned by their pod, so that the garbage collector
// takes them away; binding them is persistentvolume's.
package ephemeralvolume
