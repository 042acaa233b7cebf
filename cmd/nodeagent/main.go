package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"clusterctl/cmd/daemon"
	"clusterctl/hostconfig"
	"clusterctl/nodeagent/host"
	"clusterctl/nodeagent/network"
	"clusterctl/nodeagent/node"
	"clusterctl/nodeagent/policy"
	"clusterctl/nodeagent/serviceproxy"
)

func main() {
	daemon.Main("nodeagent", "Run a host of a clusterctl cluster", func(logger *slog.Logger) []*cobra.Command {
		return []*cobra.Command{
			daemon.Configured("run", "Run the host's pods, network, service proxy and API load balancer", hostconfig.NodeConf,
				func(ctx context.Context, config hostconfig.NodeAgent) error { return run(ctx, config, logger) }),
			host.Command(network.Remove, serviceproxy.Remove, policy.Remove),
			daemon.Version("node " + node.Version),
		}
	})
}
