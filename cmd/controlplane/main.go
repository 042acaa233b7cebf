package main

import (
	"context"
	"fmt"
	"log/slog"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"clusterctl/cmd/daemon"
	"clusterctl/controlplane/etcd"
	"clusterctl/hostconfig"
)

func main() {
	daemon.Main("controlplane", "Run the parts of a clusterctl cluster's control plane", func(logger *slog.Logger) []*cobra.Command {
		return append(partCommands(logger), etcdCommand(logger), runCommand(logger), apiServerCommand(logger),
			daemon.Version("Kubernetes API "+hostconfig.KubernetesVersion))
	})
}

func etcdCommand(logger *slog.Logger) *cobra.Command {
	return daemon.Configured("etcd", "Run an etcd member", hostconfig.EtcdConf, func(ctx context.Context, config hostconfig.Etcd) error {
		member, err := etcd.Start(config, logger)
		if err != nil {
			return err
		}
		logger.Info("etcd member listens", "name", config.Name, "address", config.Address)
		// Now, not when a quorum is there: the members of a new cluster wait
		// for each other, and whoever starts them must not.
		if err := notifyReady(); err != nil {
			return err
		}
		return member.Wait(ctx)
	})
}

func apiServerCommand(logger *slog.Logger) *cobra.Command {
	return daemon.Configured("apiserver", "Run the API server alone", hostconfig.CPConf, func(ctx context.Context, config hostconfig.ControlPlane) error {
		return serve(ctx, config, nil, logger)
	})
}

func runCommand(logger *slog.Logger) *cobra.Command {
	return daemon.Configured("run", "Run API server, scheduler and controllers in one process", hostconfig.CPConf, func(ctx context.Context, config hostconfig.ControlPlane) error {
		return serve(ctx, config, parts, logger)
	})
}

// notifyReady tells systemd, where it wants to know.
func notifyReady() error {
	if _, err := systemd.SdNotify(false, systemd.SdNotifyReady); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
