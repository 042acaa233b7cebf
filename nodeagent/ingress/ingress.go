package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/objects"
)

const (
	// settle is the least time between two tables: changes come in crowds.
	settle = 200 * time.Millisecond
	// retry is how long after a failure it is tried again.
	retry = 5 * time.Second

	headerTimeout = 15 * time.Second // for a client's headers
	idleTimeout   = 75 * time.Second // between requests of a client
	maxHeaders    = 64 << 10
)

// Config is what Run needs. The informers are started by the caller.
type Config struct {
	Settings hostconfig.Ingress
	NodeName string
	HTTP     string        // ":80"
	HTTPS    string        // ":443"
	Drain    time.Duration // what requests get to end in when ctx has ended

	Client    kubernetes.Interface // for Secrets and for status
	Ingresses networkinginformers.IngressInformer
	Classes   networkinginformers.IngressClassInformer
	Services  coreinformers.ServiceInformer
	Slices    discoveryinformers.EndpointSliceInformer
	Nodes     coreinformers.NodeInformer

	Metrics *Metrics
	Log     *slog.Logger
	// Listening, if set, is told the addresses that are listened on.
	Listening func(http, https net.Addr)
}

type controller struct {
	Config
	proxy   *proxy
	certs   atomic.Pointer[certificates]
	secrets *objects.Cache
	wake    chan struct{}

	used  atomic.Pointer[map[objectName]bool] // services whose endpoints matter
	held  map[objectName]bool                 // secrets that are watched
	wrong map[objectName]string               // what was logged of a secret already
}

// Ask makes the informers known to their factories. It has to be called before
// these are started.
func (c Config) Ask() {
	c.Ingresses.Informer()
	c.Classes.Informer()
}

// Run serves until ctx ends, then lets requests end. What fails is logged and
// tried again.
func Run(ctx context.Context, config Config) error {
	own, err := selfSigned()
	if err != nil {
		return err
	}
	var access *slog.Logger
	if config.Settings.AccessLog {
		access = config.Log
	}
	c := &controller{
		Config: config,
		proxy:  newProxy(config.Settings.MaxBodyBytes, access, config.Log, config.Metrics),
		wake:   make(chan struct{}, 1),
		held:   map[objectName]bool{}, wrong: map[objectName]string{},
	}
	c.certs.Store(&certificates{own: own})
	c.used.Store(&map[objectName]bool{})
	watches, stop := context.WithCancel(ctx)
	defer stop()
	c.secrets = objects.New(watches, config.Client, func(types.UID) { c.rouse() })
	stopHandling, err := c.handle()
	if err != nil {
		return err
	}
	defer stopHandling()
	if !cache.WaitForCacheSync(ctx.Done(), c.Ingresses.Informer().HasSynced, c.Classes.Informer().HasSynced,
		c.Services.Informer().HasSynced, c.Slices.Informer().HasSynced, c.Nodes.Informer().HasSynced) {
		return nil // told to stop
	}
	c.update(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { c.serve(ctx) })
	for {
		select {
		case <-ctx.Done():
			parts.Wait()
			return nil
		case <-c.wake:
		}
		c.update(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(settle):
		}
	}
}

// rouse has the table made again soon.
func (c *controller) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// handle rouses the controller for changes that matter to it.
func (c *controller) handle() (stop func(), err error) {
	var undo []func()
	stop = func() {
		for _, u := range undo {
			u()
		}
	}
	for _, source := range []struct {
		informer cache.SharedIndexInformer
		matters  func(any) bool
	}{
		{c.Ingresses.Informer(), func(any) bool { return true }},
		{c.Classes.Informer(), func(any) bool { return true }},
		{c.Services.Informer(), func(o any) bool {
			service, ok := o.(*v1.Service)
			return !ok || (*c.used.Load())[objectName{service.Namespace, service.Name}]
		}},
		{c.Slices.Informer(), func(o any) bool {
			slice, ok := o.(*discoveryv1.EndpointSlice)
			return !ok || (*c.used.Load())[objectName{slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]}]
		}},
		{c.Nodes.Informer(), func(o any) bool {
			node, ok := o.(*v1.Node)
			return !ok || c.concerns(node.Name)
		}},
	} {
		notice := func(o any) {
			if source.matters(o) {
				c.rouse()
			}
		}
		registered, err := source.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    notice,
			UpdateFunc: func(_, o any) { notice(o) },
			DeleteFunc: notice,
		})
		if err != nil {
			stop()
			return nil, fmt.Errorf("watch what ingresses depend on: %w", err)
		}
		undo = append(undo, func() { _ = source.informer.RemoveEventHandler(registered) }) // fails for those removed already
	}
	return stop, nil
}

func (c *controller) concerns(node string) bool {
	return slices.Contains(c.Settings.Nodes, node)
}

// update makes table and certificates from what is known now.
func (c *controller) update(ctx context.Context) {
	if err := c.tryUpdate(ctx); err != nil && ctx.Err() == nil {
		c.Log.Warn("ingresses are not all up to date; trying again", "error", err, "after", retry)
		time.AfterFunc(retry, c.rouse)
	}
}

func (c *controller) tryUpdate(ctx context.Context) error {
	all, err := c.Ingresses.Lister().List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list ingresses: %w", err)
	}
	classes, err := c.Classes.Lister().List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list ingress classes: %w", err)
	}
	nodes, err := c.Nodes.Lister().List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	ours := selectOurs(all, classes)
	// Before endpoints are read, so that a change from here on is noticed.
	used := servicesOf(ours)
	c.used.Store(&used)
	t := build(world{
		ingresses: ours,
		service: func(name objectName) *v1.Service {
			service, err := c.Services.Lister().Services(name.namespace).Get(name.name)
			if err != nil {
				return nil
			}
			return service
		},
		slices: func(name objectName) []*discoveryv1.EndpointSlice {
			chosen := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name.name})
			list, err := c.Slices.Lister().EndpointSlices(name.namespace).List(chosen)
			if err != nil {
				return nil
			}
			return list
		},
	})
	certsErr := c.updateCertificates(ctx, t)
	c.proxy.table.Store(t)
	return errors.Join(certsErr, c.publish(ctx, ours, nodes))
}

// updateCertificates reads the Secrets that the table names, and watches no
// others. Of one that cannot be used, the names are answered as if they had none.
func (c *controller) updateCertificates(ctx context.Context, t *table) error {
	next := &certificates{byHost: map[string]*tls.Certificate{}, own: c.certs.Load().own}
	parsed := map[objectName]*tls.Certificate{}
	wrong := map[objectName]string{}
	needed := map[objectName]bool{}
	var failed error
	for host, name := range t.secrets {
		if !needed[name] {
			needed[name] = true
			secret, err := c.secrets.Secret(ctx, name.user(), name.namespace, name.name)
			if err == nil {
				parsed[name], err = parseCertificate(secret)
			} else if !apierrors.IsNotFound(err) {
				failed = errors.Join(failed, fmt.Errorf("read secret %s/%s: %w", name.namespace, name.name, err))
			}
			if err != nil {
				wrong[name] = err.Error()
			}
		}
		if pair := parsed[name]; pair != nil {
			next.byHost[host] = pair
		}
	}
	for name := range c.held {
		if !needed[name] {
			c.secrets.Release(name.user())
		}
	}
	for name, problem := range wrong {
		if c.wrong[name] != problem {
			c.Log.Warn("the certificate of an ingress cannot be used", "secret", name.namespace+"/"+name.name, "error", problem)
		}
	}
	c.held, c.wrong = needed, wrong
	c.certs.Store(next)
	return failed
}

// serve answers on both ports until ctx ends and requests have ended.
func (c *controller) serve(ctx context.Context) {
	plain := c.listen(ctx, c.HTTP)
	secure := c.listen(ctx, c.HTTPS)
	if plain == nil || secure == nil {
		for _, l := range []net.Listener{plain, secure} {
			if l != nil {
				_ = l.Close()
			}
		}
		return // told to stop
	}
	if c.Listening != nil {
		c.Listening(plain.Addr(), secure.Addr())
	}
	c.Log.Info("serving ingresses", "http", plain.Addr().String(), "https", secure.Addr().String())
	// Connections that were upgraded end with this context: nobody else knows
	// when they would.
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	server := &http.Server{
		Handler:           c.proxy,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaders,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug), // anyone can spoil a handshake
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			// Said here, since Serve and ServeTLS share the server: if Serve comes
			// first and finds no h2 here, HTTP/2 is offered but not spoken.
			NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				return c.certs.Load().choose(hello.ServerName), nil
			},
		},
	}
	var serving sync.WaitGroup
	for name, serve := range map[string]func() error{
		"HTTP":  func() error { return server.Serve(plain) },
		"HTTPS": func() error { return server.ServeTLS(secure, "", "") },
	} {
		serving.Go(func() {
			if err := serve(); !errors.Is(err, http.ErrServerClosed) {
				c.Log.Error("ingresses are no longer served", "over", name, "error", err)
			}
		})
	}
	<-ctx.Done()
	limit, stop := context.WithTimeout(context.WithoutCancel(ctx), c.Drain)
	defer stop()
	if err := server.Shutdown(limit); err != nil {
		c.Log.Warn("requests are cut off", "error", err)
		_ = server.Close()
	}
	endRequests()
	serving.Wait()
}

// listen waits for the address to be free; nil: ctx has ended.
func (c *controller) listen(ctx context.Context, address string) net.Listener {
	for {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			return listener
		}
		if ctx.Err() != nil {
			return nil
		}
		c.Log.Error("ingresses cannot be served yet; trying again", "error", err, "after", retry)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}
