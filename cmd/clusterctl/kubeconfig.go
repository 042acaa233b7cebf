package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

func newKubeconfigCommand() *cobra.Command {
	var path string
	var printIt bool
	c := &cobra.Command{
		Use:   "kubeconfig INVENTORY",
		Short: "Write the administrator's credentials to a kubeconfig",
		Long: `Write the administrator's credentials to a kubeconfig.

The cluster becomes a context of its own, named like the cluster, and the current
one; what else the file holds stays. Further contexts NAME@HOST go to each control
plane directly, for the day when the first one is down.`,
		Example: `  clusterctl kubeconfig inventory.yaml
  clusterctl kubeconfig inventory.yaml --print > admin.kubeconfig`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			f, err := connect(c.Context(), args[0])
			if f == nil || len(f.hands) == 0 {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			config, err := f.adminConfig(c.Context())
			if err != nil {
				return err
			}
			if printIt {
				raw, err := clientcmd.Write(*config)
				if err != nil {
					return fmt.Errorf("encode kubeconfig: %w", err)
				}
				_, err = c.OutOrStdout().Write(raw)
				return err
			}
			written, _, err := mergeKubeconfig(path, config)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "context %s is in %s\n", config.CurrentContext, written)
			return nil
		},
	}
	c.Flags().StringVar(&path, "kubeconfig", "", "file to write (default: $KUBECONFIG, then ~/.kube/config)")
	c.Flags().BoolVar(&printIt, "print", false, "print it instead; it is a secret")
	return c
}

// adminConfig is the administrator's kubeconfig as the first control plane that
// answers has it, with the addresses that clients outside use.
func (f *fleet) adminConfig(ctx context.Context) (*api.Config, error) {
	var raw []byte
	failure := errors.New("no control plane could be reached")
	for _, h := range f.inventory.ControlPlanes() {
		if f.hands[h.Name] == nil {
			continue
		}
		if failure = f.call(ctx, h.Name, hostop.MethodAdmin, nil, &raw); failure == nil {
			break
		}
		failure = fmt.Errorf("%s: %w", h.Name, failure)
	}
	if failure != nil {
		return nil, fmt.Errorf("read the administrator's credentials: %w", failure)
	}
	onHost, err := clientcmd.Load(raw)
	if err != nil {
		return nil, fmt.Errorf("parse the administrator's credentials: %w", err)
	}
	current := onHost.Contexts[onHost.CurrentContext]
	if current == nil || onHost.Clusters[current.Cluster] == nil || onHost.AuthInfos[current.AuthInfo] == nil {
		return nil, errors.New("the control plane's kubeconfig has no usable context; run `clusterctl up` again")
	}
	name := f.inventory.Cluster.Name
	user := name + "-admin"
	config := api.NewConfig()
	config.CurrentContext = name
	config.AuthInfos[user] = onHost.AuthInfos[current.AuthInfo]
	add := func(context, hostPort string) {
		cluster := onHost.Clusters[current.Cluster].DeepCopy()
		cluster.Server = "https://" + hostPort
		cluster.TLSServerName = ""
		config.Clusters[context] = cluster
		config.Contexts[context] = &api.Context{Cluster: context, AuthInfo: user}
	}
	add(name, f.inventory.Endpoint())
	for _, h := range f.inventory.ControlPlanes() {
		add(name+"@"+h.Name, net.JoinHostPort(h.Address, strconv.Itoa(hostconfig.PortAPI)))
	}
	return config, nil
}

// mergeKubeconfig puts the contexts of config into the file at path (or the
// user's own), leaves what else is there alone, and returns the path. A file
// that holds them already is not written.
func mergeKubeconfig(path string, config *api.Config) (written string, changed bool, err error) {
	options := clientcmd.NewDefaultPathOptions()
	if path != "" {
		options.LoadingRules.ExplicitPath = path
	}
	file := options.GetDefaultFilename()
	if options.IsExplicitFile() {
		file = options.GetExplicitFile()
	}
	merged, err := clientcmd.LoadFromFile(file)
	if errors.Is(err, os.ErrNotExist) {
		merged, err = api.NewConfig(), nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read %s: %w", file, err)
	}
	before, err := clientcmd.Write(*merged)
	if err != nil {
		return "", false, fmt.Errorf("encode kubeconfig: %w", err)
	}
	for name, cluster := range config.Clusters {
		merged.Clusters[name] = cluster
	}
	for name, user := range config.AuthInfos {
		merged.AuthInfos[name] = user
	}
	for name, context := range config.Contexts {
		merged.Contexts[name] = context
	}
	merged.CurrentContext = config.CurrentContext
	after, err := clientcmd.Write(*merged)
	if err != nil {
		return "", false, fmt.Errorf("encode kubeconfig: %w", err)
	}
	if bytes.Equal(before, after) {
		return file, false, nil
	}
	if err := clientcmd.WriteToFile(*merged, file); err != nil {
		return "", false, fmt.Errorf("write %s: %w", file, err)
	}
	return file, true, nil
}
