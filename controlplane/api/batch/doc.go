// Package batch defines the kinds of the group batch: Job and CronJob. Pod
// templates are defaulted and checked by package core; the controllers that
// run jobs and act on schedules live in controlplane/controllers.
package batch

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{api.Define(job), api.Define(cronJob)}
}
