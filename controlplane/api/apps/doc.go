// Package apps defines the kinds of the group apps: Deployment, ReplicaSet,
// StatefulSet, DaemonSet and ControllerRevision. Pod templates are defaulted
// and checked by package core; the controllers that act on the kinds live in
// controlplane/controllers.
package apps

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{
		api.Define(deployment),
		api.Define(replicaSet),
		api.Define(statefulSet),
		api.Define(daemonSet),
		api.Define(controllerRevision),
	}
}
