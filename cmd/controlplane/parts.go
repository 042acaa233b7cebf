package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // requests of the parts, on /metrics

	"clusterctl/cmd/daemon"
	"clusterctl/controlplane/controllers"
	"clusterctl/controlplane/leader"
	"clusterctl/controlplane/scheduler"
	"clusterctl/hostconfig"
)

// part is what works on the cluster through the API, in one process at a time.
type part struct {
	name  string // of the command
	short string
	user  string // identity in the API server's process
	lease string // in kube-system
	run   func(ctx context.Context, client *rest.Config, config hostconfig.ControlPlane, logger *slog.Logger) error
}

// parts are those of `controlplane run`.
var parts = []part{
	{
		name: "scheduler", short: "Run the scheduler alone", user: user.KubeScheduler, lease: "kube-scheduler",
		run: func(ctx context.Context, client *rest.Config, config hostconfig.ControlPlane, logger *slog.Logger) error {
			clients, err := kubernetes.NewForConfig(client)
			if err != nil {
				return fmt.Errorf("make client of the scheduler: %w", err)
			}
			return scheduler.Run(ctx, scheduler.Config{Profiles: config.SchedulerProfiles, Client: clients, Logger: logger})
		},
	},
	{
		name: "controllers", short: "Run the controllers alone", user: user.KubeControllerManager, lease: "kube-controller-manager",
		run: func(ctx context.Context, client *rest.Config, config hostconfig.ControlPlane, logger *slog.Logger) error {
			return controllers.Run(ctx, controllers.Config{
				REST: client, Cluster: config.Cluster, PKI: hostconfig.PKI(config.PKIDir), Logger: logger,
			})
		},
	},
}

// lead runs p while it holds the lease.
func (p part) lead(ctx context.Context, client *rest.Config, config hostconfig.ControlPlane, logger *slog.Logger) error {
	clients, err := kubernetes.NewForConfig(client)
	if err != nil {
		return fmt.Errorf("make client of %s: %w", p.name, err)
	}
	logger = logger.With("part", p.name)
	return leader.Run(ctx, clients, leader.Options{
		Name:      p.lease,
		Namespace: "kube-system",
		Identity:  config.NodeName + "_" + rand.Text()[:8],
		Logger:    logger,
	}, func(ctx context.Context) error { return p.run(ctx, client, config, logger) })
}

// partCommands run each part alone, against the API server of a kubeconfig.
func partCommands(logger *slog.Logger) []*cobra.Command {
	var commands []*cobra.Command
	for _, part := range parts {
		kubeconfig := hostconfig.AdminCfg
		command := daemon.Configured(part.name, part.short, hostconfig.CPConf, func(ctx context.Context, config hostconfig.ControlPlane) error {
			client, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return fmt.Errorf("read %s: %w", kubeconfig, err)
			}
			client.QPS = -1 // the server's own limits hold
			// Unless it is said, bindings go out as JSON.
			client.ContentType = runtime.ContentTypeProtobuf
			client.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
			return part.lead(ctx, client, config, logger)
		})
		command.Flags().StringVar(&kubeconfig, "kubeconfig", kubeconfig, "how to reach the API server")
		commands = append(commands, command)
	}
	return commands
}
