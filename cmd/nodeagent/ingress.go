package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/ingress"
)

// drainTime has to fit into TimeoutStopSec of the agent's unit.
const drainTime = 10 * time.Second

// serveIngresses has the host serve Ingresses if its settings say so, and gives
// what writes their metrics; nil: there are none. It stops as soon as told ends,
// so that connections are drained while pods end. What goes wrong is logged and
// leaves the rest of the agent alone.
func serveIngresses(told, ctx context.Context, group *errgroup.Group, config ingress.Config, settings *hostconfig.Ingress) func(io.Writer) error {
	if settings == nil {
		return nil
	}
	config.Settings = *settings
	config.HTTP, config.HTTPS = fmt.Sprintf(":%d", hostconfig.PortHTTP), fmt.Sprintf(":%d", hostconfig.PortHTTPS)
	config.Drain = drainTime
	config.Metrics = ingress.NewMetrics()
	config.Ask()
	ctx, stop := context.WithCancel(ctx)
	forget := context.AfterFunc(told, stop)
	group.Go(func() error {
		defer stop()
		defer forget()
		if err := ingress.Run(ctx, config); err != nil {
			config.Log.Error("ingresses are not served", "error", err)
		}
		return nil
	})
	return config.Metrics.Write
}
