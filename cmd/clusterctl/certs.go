package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"clusterctl/bootstrap/encryption"
	"clusterctl/bootstrap/execute"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// newCertsCommand is `clusterctl certs`: the cluster's keys.
func newCertsCommand() *cobra.Command {
	c := &cobra.Command{Use: "certs", Short: "Change the keys of a cluster"}
	c.AddCommand(newRotateEncryptionCommand())
	return c
}

func newRotateEncryptionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-encryption INVENTORY",
		Short: "Encrypt the cluster's Secrets in etcd with a new key",
		Long: `Encrypt the cluster's Secrets in etcd with a new key.

Every control plane first learns to read the new key, then to write with it; all
Secrets are written anew; then the old key goes. Nothing restarts. A rotation that
was interrupted, at whatever moment, is carried on by the next one.`,
		Example: `  clusterctl certs rotate-encryption inventory.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			f, err := connect(c.Context(), args[0])
			if f != nil {
				defer func() { err = errors.Join(err, f.Close()) }()
			}
			if err != nil {
				return err
			}
			hands := execute.Hands{}
			for name, r := range f.hands {
				hands[name] = r
			}
			if err := lockHosts(c.Context(), hands, c.ErrOrStderr()); err != nil {
				return err
			}
			cluster, err := newRotatedCluster(c.Context(), f)
			if err != nil {
				return err
			}
			started := time.Now()
			err = encryption.Rotate(c.Context(), cluster, func(what string) { fmt.Fprintln(c.OutOrStdout(), what) })
			if err != nil {
				return fmt.Errorf("%w; run the same command again to carry on", err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "done in %s\n", time.Since(started).Round(100*time.Millisecond))
			return err
		},
	}
}

// rotatedCluster implements encryption.Cluster over SSH.
type rotatedCluster struct {
	fleet   *fleet
	servers map[string]*rest.Config // of each control plane's own API server
}

func newRotatedCluster(ctx context.Context, f *fleet) (*rotatedCluster, error) {
	config, err := f.adminConfig(ctx)
	if err != nil {
		return nil, err
	}
	cluster := &rotatedCluster{fleet: f, servers: map[string]*rest.Config{}}
	for _, h := range f.inventory.ControlPlanes() {
		if cluster.servers[h.Name], err = f.through(config, h); err != nil {
			return nil, err
		}
	}
	return cluster, nil
}

func (c *rotatedCluster) Read(ctx context.Context) (map[string][]byte, error) {
	files := map[string][]byte{}
	for host := range c.servers {
		var file []byte
		if err := c.fleet.call(ctx, host, hostop.MethodEncryption, nil, &file); err != nil {
			return nil, fmt.Errorf("%s: %w", host, err)
		}
		files[host] = file
	}
	return files, nil
}

func (c *rotatedCluster) Write(ctx context.Context, host string, file []byte) error {
	_, err := c.fleet.hands[host].Call(ctx, hostop.Request{Method: hostop.MethodApply, Ops: hostop.Ops{
		&hostop.Encryption{PKIDir: hostconfig.PKIDir, Content: file, Replace: true},
	}}, nil, nil)
	return err
}

func (c *rotatedCluster) Loaded(ctx context.Context, host, hash string) (bool, error) {
	return encryption.Loaded(ctx, c.servers[host], hash)
}

func (c *rotatedCluster) Rewrite(ctx context.Context) (int, error) {
	first := c.fleet.inventory.ControlPlanes()[0].Name
	changed, err := encryption.Rewrite(ctx, c.servers[first])
	if err != nil {
		return 0, fmt.Errorf("through %s: %w", first, err)
	}
	return changed, nil
}

var _ encryption.Cluster = (*rotatedCluster)(nil)
