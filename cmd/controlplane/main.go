// Command controlplane runs what a control-plane or etcd host of a cluster
// needs: an etcd member, and the API server with scheduler and controllers in
// one process. Each part can run alone. Here are flags and wiring only.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"clusterctl/controlplane/apiserver"
	"clusterctl/controlplane/etcd"
	"clusterctl/hostconfig"
)

func main() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	slog.SetDefault(logger)
	// Kubernetes' libraries log each request that fails and more at this level;
	// what goes wrong in them is a warning or an error.
	klog.SetSlogLogger(slog.New(atLeast{logger.Handler(), slog.LevelWarn}))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(logger).ExecuteContext(ctx); err != nil {
		logger.Error("controlplane ends", "error", err)
		stop()
		os.Exit(1)
	}
}

func command(logger *slog.Logger) *cobra.Command {
	root := &cobra.Command{
		Use:           "controlplane",
		Short:         "Run the parts of a clusterctl cluster's control plane",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(etcdCommand(logger), runCommand(logger), apiServerCommand(logger), versionCommand())
	root.AddCommand(partCommands(logger)...)
	return root
}

func etcdCommand(logger *slog.Logger) *cobra.Command {
	return configured("etcd", "Run an etcd member", hostconfig.EtcdConf, func(ctx context.Context, config hostconfig.Etcd) error {
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
	return configured("apiserver", "Run the API server alone", hostconfig.CPConf, func(ctx context.Context, config hostconfig.ControlPlane) error {
		return serve(ctx, config, nil, logger)
	})
}

func runCommand(logger *slog.Logger) *cobra.Command {
	return configured("run", "Run API server, scheduler and controllers in one process", hostconfig.CPConf, func(ctx context.Context, config hostconfig.ControlPlane) error {
		return serve(ctx, config, parts, logger)
	})
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print versions", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(command.OutOrStdout(), "clusterctl %s, Kubernetes API %s\n", hostconfig.Version, apiserver.KubernetesVersion)
			return err
		},
	}
}

// configured makes a command that reads a configuration of type C.
func configured[C any](use, short, file string, run func(ctx context.Context, config C) error) *cobra.Command {
	command := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			var config C
			if err := hostconfig.Load(file, &config); err != nil {
				return err
			}
			return run(command.Context(), config)
		},
	}
	command.Flags().StringVar(&file, "config", file, "configuration file")
	return command
}

// notifyReady tells systemd, where it wants to know.
func notifyReady() error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// atLeast lets records of a level and above pass.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(attrs), h.level}
}

func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}
