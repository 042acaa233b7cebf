// Package policy defines the kind of the group policy: PodDisruptionBudget.
// Evictions, which budgets limit, are a subresource of pods in package core.
package policy

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group.
func Kinds() []api.Kind { return []api.Kind{api.Define(podDisruptionBudget)} }
