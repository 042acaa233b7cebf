// Package volumes prepares the directories that a pod's containers mount,
// keeps their contents up to date and takes them away again.
//
// Under the agent's state directory each pod has
//
//	pods/<uid>/volumes/kubernetes.io~<kind>/<name>   one directory per volume
//	                                                 (the name is the PersistentVolume's where there is one)
//	pods/<uid>/volume-subpaths/<volume>/<container>/<index>
//	pods/<uid>/etc-hosts, containers/<name>/…        written by nodeagent/pods
//
// Contents that come from the API are replaced atomically (writer.go); paths
// inside a volume are opened so that no link leads out of it (subpath.go).
package volumes
