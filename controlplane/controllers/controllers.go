package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"clusterctl/controlplane/controllers/attachdetach"
	"clusterctl/controlplane/controllers/bootstrapsigner"
	"clusterctl/controlplane/controllers/clusterroles"
	"clusterctl/controlplane/controllers/cronjob"
	"clusterctl/controlplane/controllers/csrapprove"
	"clusterctl/controlplane/controllers/csrclean"
	"clusterctl/controlplane/controllers/csrsign"
	"clusterctl/controlplane/controllers/daemonset"
	"clusterctl/controlplane/controllers/deployment"
	"clusterctl/controlplane/controllers/devicetainteviction"
	"clusterctl/controlplane/controllers/disruption"
	"clusterctl/controlplane/controllers/endpoints"
	"clusterctl/controlplane/controllers/endpointslice"
	"clusterctl/controlplane/controllers/endpointslicemirroring"
	"clusterctl/controlplane/controllers/ephemeralvolume"
	"clusterctl/controlplane/controllers/garbagecollector"
	"clusterctl/controlplane/controllers/horizontalpodautoscaler"
	"clusterctl/controlplane/controllers/job"
	"clusterctl/controlplane/controllers/legacytokens"
	"clusterctl/controlplane/controllers/loadbalancer"
	"clusterctl/controlplane/controllers/namespace"
	"clusterctl/controlplane/controllers/nodeipam"
	"clusterctl/controlplane/controllers/nodelifecycle"
	"clusterctl/controlplane/controllers/nodettl"
	"clusterctl/controlplane/controllers/persistentvolume"
	"clusterctl/controlplane/controllers/podgc"
	"clusterctl/controlplane/controllers/policytypes"
	"clusterctl/controlplane/controllers/proportional"
	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/controlplane/controllers/replicaset"
	"clusterctl/controlplane/controllers/resourceclaim"
	"clusterctl/controlplane/controllers/resourcequota"
	"clusterctl/controlplane/controllers/rootca"
	"clusterctl/controlplane/controllers/serviceaccount"
	"clusterctl/controlplane/controllers/servicecidr"
	"clusterctl/controlplane/controllers/statefulset"
	"clusterctl/controlplane/controllers/storageprotection"
	"clusterctl/controlplane/controllers/tainteviction"
	"clusterctl/controlplane/controllers/tokenclean"
	"clusterctl/controlplane/controllers/ttlafterfinished"
	"clusterctl/controlplane/controllers/volumeexpand"
	"clusterctl/hostconfig"
)

// Config is what controllers run with.
type Config struct {
	// REST reaches the API server with the rights of a cluster administrator:
	// emptying namespaces and collecting garbage touch every kind. Its client
	// limits should be off (QPS -1).
	REST    *rest.Config
	Cluster hostconfig.Cluster
	PKI     hostconfig.PKI // the cluster CA, to publish and to sign with
	Logger  *slog.Logger
}

// table is every controller that runs.
var table = []struct {
	name string
	new  func(*reconcile.Environment, Config) (reconcile.Controller, error)
}{
	{"deployment", plain(deployment.New)},
	{"replicaset", plain(replicaset.New)},
	{"statefulset", plain(statefulset.New)},
	{"daemonset", plain(daemonset.New)},
	{"job", plain(job.New)},
	{"cronjob", plain(cronjob.New)},
	{"ttlafterfinished", plain(ttlafterfinished.New)},
	{"disruption", func(env *reconcile.Environment, c Config) (reconcile.Controller, error) {
		return disruption.New(env, c.REST)
	}},
	{"horizontalpodautoscaler", func(env *reconcile.Environment, c Config) (reconcile.Controller, error) {
		return horizontalpodautoscaler.New(env, c.REST)
	}},
	{"replicationcontroller", plain(replicaset.NewForReplicationControllers)},
	{"resourceclaim", plain(resourceclaim.New)},
	{"resourcequota", plain(resourcequota.New)},
	{"endpointslice", plain(endpointslice.New)},
	{"endpoints", plain(endpoints.New)},
	{"endpointslicemirroring", plain(endpointslicemirroring.New)},
	{"servicecidr", plain(servicecidr.New)},
	{"loadbalancer", func(env *reconcile.Environment, c Config) (reconcile.Controller, error) {
		return loadbalancer.New(env, c.Cluster.LoadBalancerPools)
	}},
	{"nodelifecycle", plain(nodelifecycle.New)},
	{"tainteviction", plain(tainteviction.New)},
	{"devicetainteviction", plain(devicetainteviction.New)},
	{"nodettl", plain(nodettl.New)},
	{"nodeipam", func(env *reconcile.Environment, c Config) (reconcile.Controller, error) {
		return nodeipam.New(env, c.Cluster)
	}},
	{"podgc", plain(podgc.New)},
	{"storageprotection", plain(storageprotection.New)},
	{"persistentvolume", plain(persistentvolume.New)},
	{"ephemeralvolume", plain(ephemeralvolume.New)},
	{"attachdetach", plain(attachdetach.New)},
	{"volumeexpand", plain(volumeexpand.New)},
	{"namespace", plain(namespace.New)},
	{"serviceaccount", plain(serviceaccount.New)},
	{"legacytokens", func(env *reconcile.Environment, c Config) (reconcile.Controller, error) {
		return legacytokens.New(env, c.PKI)
	}},
	{"policytypes", plain(policytypes.New)},
	{"proportional", plain(proportional.New)},
	{"rootca", func(env *reconcile.Environment, c Config) (reconcile.Controller, error) {
		return rootca.New(env, c.PKI.ClusterCA())
	}},
	{"csrapprove", plain(csrapprove.New)},
	{"csrsign", func(env *reconcile.Environment, c Config) (reconcile.Controller, error) {
		return csrsign.New(env, c.PKI.AuthorityCert(hostconfig.AuthorityCluster), c.PKI.AuthorityKey(hostconfig.AuthorityCluster))
	}},
	{"csrclean", plain(csrclean.New)},
	{"tokenclean", plain(tokenclean.New)},
	{"bootstrapsigner", plain(bootstrapsigner.New)},
	{"clusterroles", plain(clusterroles.New)},
	// Last: it shares the informers that the others have asked for.
	{"garbagecollector", plain(garbagecollector.New)},
}

func plain(f func(*reconcile.Environment) (reconcile.Controller, error)) func(*reconcile.Environment, Config) (reconcile.Controller, error) {
	return func(env *reconcile.Environment, _ Config) (reconcile.Controller, error) { return f(env) }
}

// syncDeadline bounds how long the informers may take to start: without them
// nothing works, and an error says so better than silence.
const syncDeadline = 2 * time.Minute

// Run runs every controller until ctx ends, and then returns nil. If one fails,
// all stop and its error is returned with its name. Only one process of a
// cluster may run this at a time (see package leader).
func Run(ctx context.Context, config Config) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	protobuf := rest.CopyConfig(config.REST)
	protobuf.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(protobuf)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	objects, err := metadata.NewForConfig(config.REST)
	if err != nil {
		return fmt.Errorf("make metadata client: %w", err)
	}
	env, err := reconcile.NewEnvironment(client, objects, config.Logger)
	if err != nil {
		return err
	}
	// Deferred calls run last to first: the context ends, then the informers.
	defer env.Close()
	defer stop(nil)

	running := make([]reconcile.Controller, len(table))
	for i, row := range table {
		if running[i], err = row.new(env, config); err != nil {
			return fmt.Errorf("set up controller %s: %w", row.name, err)
		}
	}
	env.Start(ctx)
	syncing, synced := context.WithTimeout(ctx, syncDeadline)
	err = env.Sync(syncing)
	synced()
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	config.Logger.Info("controllers run", "count", len(running))
	results := make(chan error, len(running))
	for i, row := range table {
		go func() {
			err := running[i].Run(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("ended by itself")
			}
			if err != nil {
				err = fmt.Errorf("controller %s: %w", row.name, err)
				stop(err)
			}
			results <- err
		}()
	}
	var first error
	for range running {
		if err := <-results; err != nil && first == nil {
			first = err
		}
	}
	return first
}
