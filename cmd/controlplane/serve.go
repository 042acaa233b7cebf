package main

import (
	"context"
	"log/slog"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"clusterctl/controlplane/apiserver"
	"clusterctl/hostconfig"
)

// serve runs the API server, and beside it the parts, which stop before it so
// that they can give up their leases.
func serve(ctx context.Context, config hostconfig.ControlPlane, parts []part, logger *slog.Logger) error {
	server, err := apiserver.New(ctx, config, apiserver.Options{Logger: logger})
	if err != nil {
		return err
	}
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()

	go paceGC(serving)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return server.Run(serving) })
	all.Go(func() error {
		defer stopServing()
		select {
		case <-ctx.Done():
			return nil
		case <-server.Ready():
		}
		logger.Info("API server is ready", "address", config.Address, "port", config.Port)
		// What start-up needed is garbage now, and some of it is large.
		debug.FreeOSMemory()
		if err := notifyReady(); err != nil {
			return err
		}
		// Its context ends with Wait: without parts, at once.
		running, leading := errgroup.WithContext(ctx)
		for _, part := range parts {
			running.Go(func() error {
				return part.lead(leading, server.ClientConfig(part.user), config, logger)
			})
		}
		if err := running.Wait(); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	return all.Wait()
}
