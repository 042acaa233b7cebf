package main

import (
	"context"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/pods"
)

// hostStops says whether systemd is taking the whole host down, not just the
// agent. Where it cannot be asked, only the agent is.
func hostStops() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	systemd, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return false
	}
	defer systemd.Close()
	state, err := systemd.SystemStateContext(ctx)
	return err == nil && strings.Trim(state.Value.String(), `"`) == "stopping"
}

// shutdownGroups are the groups of pods that end one after the other when the
// host goes down.
func shutdownGroups(config hostconfig.NodeAgent) []pods.ShutdownGroup {
	graces := config.Shutdown
	if graces == nil {
		graces = hostconfig.DefaultShutdown
	}
	groups := make([]pods.ShutdownGroup, len(graces))
	for i, g := range graces {
		groups[i] = pods.ShutdownGroup{Priority: g.Priority, Grace: time.Duration(g.Seconds) * time.Second}
	}
	return groups
}
