package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"clusterctl/footprint"
	"clusterctl/hostconfig"
	"clusterctl/nodeagent/serviceproxy"
)

// contestant is a proxy in one of its modes.
type contestant struct {
	name    string
	command func(dir, server string) (*exec.Cmd, error)
}

// ours runs this very program, as our service proxy and nothing else.
func ours(mode string) contestant {
	return contestant{"ours, " + mode, func(_, server string) (*exec.Cmd, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		return exec.Command(self, "-serve", mode, "-server", server), nil
	}}
}

func stock(program, mode string) contestant {
	return contestant{"stock, " + mode, func(dir, server string) (*exec.Cmd, error) {
		kubeconfig, config := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "config.yaml")
		for path, text := range map[string]string{
			kubeconfig: fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"a","cluster":{"server":"%s"}}],"contexts":[{"name":"a","context":{"cluster":"a"}}],"current-context":"a"}`, server),
			config: fmt.Sprintf(`
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
clusterCIDR: %s
hostnameOverride: %s
clientConnection: {kubeconfig: %s, contentType: application/vnd.kubernetes.protobuf}
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, mode, podCIDR, nodeName, kubeconfig),
		} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				return nil, fmt.Errorf("configure kube-proxy: %w", err)
			}
		}
		return exec.Command(program, "--config", config), nil
	}}
}

// serve is our service proxy, as the node agent runs it.
func serve(ctx context.Context, mode, server string) error {
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server, QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf, AcceptContentTypes: runtime.ContentTypeProtobuf}})
	if err != nil {
		return fmt.Errorf("make API client: %w", err)
	}
	go footprint.Settle(ctx)
	factory := informers.NewSharedInformerFactory(client, 0)
	config := serviceproxy.Config{
		Agent: hostconfig.NodeAgent{
			NodeName: nodeName, Cluster: hostconfig.Cluster{PodCIDR: podCIDR, ServiceCIDR: serviceCIDR},
			ServiceProxy: hostconfig.ServiceProxy{Mode: mode},
		},
		Services: factory.Core().V1().Services(), Slices: factory.Discovery().V1().EndpointSlices(), Nodes: factory.Core().V1().Nodes(),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	config.Services.Informer()
	config.Slices.Informer()
	config.Nodes.Informer()
	factory.Start(ctx.Done())
	return serviceproxy.Run(ctx, config)
}
