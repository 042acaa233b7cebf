// Package events serves the group events.k8s.io: the very events of the core
// group, in their newer shape. There is one store, core's; this package
// converts on the way in and out, and is stricter about what comes in.
package events

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group. The core group's Event has to be
// served too.
func Kinds() []api.Kind { return []api.Kind{eventKind{}} }
