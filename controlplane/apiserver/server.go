package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/auth/authn"
	"clusterctl/controlplane/storage"
	"clusterctl/hostconfig"
)

// Options are what is not configuration of a host.
type Options struct {
	Logger *slog.Logger
	// Listener replaces the one on the configured port (tests). Run closes it.
	Listener net.Listener
}

// Server is one API server. Run it once.
type Server struct {
	config    hostconfig.ControlPlane
	logger    *slog.Logger
	listener  net.Listener
	store     *storage.Client
	tokens    *authn.ServiceAccountTokens
	inProcess *inProcess
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	services  *serviceResolver
	storages  map[string]rest.Storage // by "group/resource"
	endpoint  *endpoint
	generic   *genericapiserver.GenericAPIServer   // the first of the chain
	chain     []*genericapiserver.GenericAPIServer // in the order that requests pass
	ready     chan struct{}

	life context.Context // of what New starts; ends when Run has served
	end  context.CancelFunc

	// background is what runs while the server serves, by name.
	background map[string]func(context.Context)
}

// New reads certificates and keys, opens the listener and builds everything
// that is served. It does not wait for etcd. ctx bounds New only.
func New(ctx context.Context, config hostconfig.ControlPlane, options Options) (*Server, error) {
	pki := hostconfig.PKI(config.PKIDir)
	s := &Server{
		config:    config,
		logger:    options.Logger,
		listener:  options.Listener,
		inProcess: newInProcess(),
		storages:  map[string]rest.Storage{},
		ready:     make(chan struct{}),
	}
	s.background = map[string]func(context.Context){}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.open(pki); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// open does what New promises.
func (s *Server) open(pki hostconfig.PKI) error {
	config := s.config
	var err error
	s.tokens, err = authn.LoadServiceAccountTokens(
		"https://kubernetes.default.svc."+config.Cluster.Domain, pki.ServiceAccountKey(), pki.ServiceAccountPub())
	if err != nil {
		return err
	}
	s.client, err = kubernetes.NewForConfig(s.ClientConfig(user.APIServerUser, user.SystemPrivilegedGroup))
	if err != nil {
		return fmt.Errorf("make in-process client: %w", err)
	}
	s.informers = informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(withoutManagedFields))
	s.store, err = storage.Open(storage.Config{
		Endpoints:  config.Etcd,
		CertFile:   pki.Cert(hostconfig.PairAPIServerEtcd),
		KeyFile:    pki.Key(hostconfig.PairAPIServerEtcd),
		CAFile:     pki.EtcdCA(),
		Prefix:     config.Prefix,
		Encryption: config.Encryption,
	})
	if err != nil {
		return err
	}
	if s.listener == nil {
		if s.listener, err = net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(config.Port))); err != nil {
			s.store.Close()
			return fmt.Errorf("listen: %w", err)
		}
	}
	if err := s.build(kinds()); err != nil {
		s.store.Close()
		// Whoever gave the listener learns of the failure by the error below.
		_ = s.listener.Close()
		return err
	}
	return nil
}

// build assembles the server of these kinds.
func (s *Server) build(kinds []api.Kind) error {
	scheme, err := api.NewScheme(kinds)
	if err != nil {
		return err
	}
	if s.services, err = newServiceResolver(s.informers); err != nil {
		return err
	}
	config, err := s.genericConfig(scheme)
	if err != nil {
		return err
	}
	if err := s.authenticate(config); err != nil {
		return err
	}
	if err := s.authorize(config); err != nil {
		return err
	}
	if err := s.record(config); err != nil {
		return err
	}
	s.share(config)
	config.RESTOptionsGetter = &storage.Options{
		Client:   s.store,
		Scheme:   scheme,
		Counts:   config.StorageObjectCountTracker,
		Uncached: map[schema.GroupResource]bool{{Resource: "events"}: true, {Group: "events.k8s.io", Resource: "events"}: true},
	}
	if err := s.admit(config, kinds); err != nil {
		return err
	}
	nodes, err := s.nodeConnector()
	if err != nil {
		return err
	}
	// A request passes from one server of the chain to the next until one
	// serves it: aggregator, kinds of our own, custom resources. Discovery tells
	// of all of them.
	config.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	extensions, err := s.newExtensions(config)
	if err != nil {
		return err
	}
	outer := *config // before Complete, which fills in what is once a server
	kindsServer, err := config.Complete(s.informers).New("clusterctl", extensions.GenericAPIServer)
	if err != nil {
		return fmt.Errorf("assemble server: %w", err)
	}
	env := &api.Environment{
		Scheme:         scheme,
		ParameterCodec: runtime.NewParameterCodec(scheme),
		RESTOptions:    config.RESTOptionsGetter,
		Client:         s.client,
		Authorizer:     config.Authorization.Authorizer,
		RuleResolver:   config.RuleResolver,
		Tokens:         s.tokens,
		Audiences:      config.Authentication.APIAudiences,
		Authenticate:   config.Authentication.Authenticator,
		Nodes:          nodes,
		ServiceCIDR:    s.config.Cluster.ServiceCIDR,
		NodePortRange:  s.config.Cluster.NodePortRange,
		ClusterDomain:  s.config.Cluster.Domain,
		Lookup:         s.lookup,
		Background:     func(name string, run func(context.Context)) { s.background[name] = run },
	}
	if err := s.install(kindsServer, config, env, kinds); err != nil {
		return err
	}
	crds := extensions.Informers.Apiextensions().V1().CustomResourceDefinitions()
	first, err := s.newAggregator(&outer, compressing{kindsServer}, crds)
	if err != nil {
		return err
	}
	s.generic = first.GenericAPIServer
	s.chain = []*genericapiserver.GenericAPIServer{s.generic, kindsServer, extensions.GenericAPIServer}
	served := &documents{custom: &customDocuments{crds: crds.Lister()}, remote: s.remoteDocuments(first), logger: s.logger}
	served.install(s.generic.Handler.NonGoRestfulMux)
	if err := s.serveTokenKeys(); err != nil {
		return err
	}
	s.endpoint = newEndpoint(s.config, s.store, storage.Codec(scheme, schema.GroupVersion{Version: "v1"}), s.client, s.logger)
	return s.addHooks()
}

// Run serves until ctx ends, then lets requests in flight finish, and frees
// everything that New took.
func (s *Server) Run(ctx context.Context) error {
	defer s.store.Close()
	defer s.end()
	s.generic.ShutdownTimeout = stopGrace
	prepared := s.generic.PrepareRun()
	memory, stopMemory := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.inProcess.serve(memory, s.generic.Handler, s.logger)
	}()
	go s.awaitReady(ctx)
	err := prepared.RunWithContext(ctx)
	stopMemory()
	<-stopped
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// Ready is closed once /readyz says ok for the first time.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// ClientConfig is for clients in the same process: it authenticates as user in
// groups, over memory, and passes authentication, authorization and admission
// like any other. It works while Run does.
func (s *Server) ClientConfig(user string, groups ...string) *clientrest.Config {
	return s.inProcess.config(user, groups...)
}

func (s *Server) awaitReady(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Transport: s.inProcess.transport, Timeout: 5 * time.Second}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		answer, err := client.Get("http://in-process/readyz")
		if err != nil {
			continue
		}
		// The body says which checks fail; /readyz?verbose tells operators.
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			close(s.ready)
			return
		}
	}
}

// withoutManagedFields spares the informers of the server what only
// server-side apply reads.
func withoutManagedFields(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}
