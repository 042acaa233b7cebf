// Command nodeagent is clusterctl's program on every host: `nodeagent run`
// runs the host's pods, network, service proxy and API load balancer;
// `nodeagent host` is the hand by which clusterctl works on the host. Here are
// flags and wiring only; the parts of `run` are listed in run.go.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/host"
	"clusterctl/nodeagent/network"
	"clusterctl/nodeagent/node"
	"clusterctl/nodeagent/policy"
	"clusterctl/nodeagent/serviceproxy"
)

func main() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	slog.SetDefault(logger)
	// Kubernetes' libraries log at this level what is none of an operator's
	// business; what goes wrong in them is a warning or an error.
	klog.SetSlogLogger(slog.New(atLeast{logger.Handler(), slog.LevelWarn}))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(logger).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "nodeagent:", err)
		stop()
		os.Exit(1)
	}
}

func command(logger *slog.Logger) *cobra.Command {
	root := &cobra.Command{
		Use:           "nodeagent",
		Short:         "Run a host of a clusterctl cluster",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(logger), host.Command(network.Remove, serviceproxy.Remove, policy.Remove), versionCommand())
	return root
}

func runCommand(logger *slog.Logger) *cobra.Command {
	file := hostconfig.NodeConf
	command := &cobra.Command{
		Use: "run", Short: "Run the host's pods, network, service proxy and API load balancer", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			var config hostconfig.NodeAgent
			if err := hostconfig.Load(file, &config); err != nil {
				return err
			}
			return run(command.Context(), config, logger)
		},
	}
	command.Flags().StringVar(&file, "config", file, "configuration file")
	return command
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print versions", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(command.OutOrStdout(), "clusterctl %s, node %s\n", hostconfig.Version, node.Version)
			return err
		},
	}
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
