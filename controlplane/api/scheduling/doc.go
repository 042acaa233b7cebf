// Package scheduling defines the kind of the group scheduling.k8s.io:
// PriorityClass, and the two classes that every cluster has. Resolving pods'
// classes is admission's work.
package scheduling

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group.
func Kinds() []api.Kind { return []api.Kind{api.Define(priorityClass)} }
