// Package coordination defines the kind of the group coordination.k8s.io:
// Lease.
package coordination

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group.
func Kinds() []api.Kind { return []api.Kind{api.Define(lease)} }
