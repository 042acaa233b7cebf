package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"clusterctl/controlplane/api/flowcontrol"
	"clusterctl/controlplane/api/scheduling"
	"clusterctl/controlplane/auth/authn"
	"clusterctl/controlplane/auth/rbac"
	"clusterctl/hostconfig"
)

// systemNamespaces exist in every cluster.
var systemNamespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault}

// addHooks makes the server, once it serves, put in place what a cluster
// begins with. /readyz waits for it.
func (s *Server) addHooks() error {
	founded := make(chan struct{})
	hooks := []struct {
		name string
		run  func(context.Context) error
	}{
		{"rbac/default-policy", func(ctx context.Context) error { return rbac.EnsurePolicy(ctx, s.client) }},
		{"scheduling/system-priority-classes", func(ctx context.Context) error { return scheduling.EnsureSystemClasses(ctx, s.client) }},
		{"priority-and-fairness-config-producer", func(ctx context.Context) error { return flowcontrol.EnsureBootstrap(ctx, s.client) }},
		{"system-objects", func(ctx context.Context) error {
			err := s.ensureSystemObjects(ctx)
			if err == nil {
				close(founded)
			}
			return err
		}},
	}
	for _, hook := range hooks {
		err := s.generic.AddPostStartHook(hook.name, func(ctx genericapiserver.PostStartHookContext) error {
			s.insist(ctx, hook.name, hook.run)
			return nil
		})
		if err != nil {
			return fmt.Errorf("add hook: %w", err)
		}
	}
	if err := s.addIdentity(); err != nil {
		return err
	}
	s.background["default-service-cidr"] = s.keepServiceCIDR
	s.background["legacy-token-tracking"] = func(ctx context.Context) {
		s.insist(ctx, "legacy-token-tracking", s.ensureTokenTracking)
	}
	for name, run := range s.background {
		err := s.generic.AddPostStartHook(name, func(ctx genericapiserver.PostStartHookContext) error {
			go run(ctx)
			return nil
		})
		if err != nil {
			return fmt.Errorf("add hook: %w", err)
		}
	}
	stopped := make(chan struct{})
	stop := make(chan struct{})
	err := s.generic.AddPostStartHook("service-endpoints", func(hook genericapiserver.PostStartHookContext) error {
		ctx, cancel := context.WithCancel(hook)
		go func() {
			<-stop
			cancel()
		}()
		go func() {
			defer close(stopped)
			select {
			case <-founded: // it writes to the default namespace
				s.endpoint.run(ctx)
			case <-ctx.Done():
			}
		}()
		return nil
	})
	if err != nil {
		return fmt.Errorf("add hook: %w", err)
	}
	err = s.generic.AddPreShutdownHook("service-endpoints", func() error {
		close(stop)
		<-stopped
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return s.endpoint.withdraw(ctx)
	})
	if err != nil {
		return fmt.Errorf("add hook: %w", err)
	}
	return nil
}

// insist runs f until it succeeds or ctx ends, a second apart, and logs why it
// did not.
func (s *Server) insist(ctx context.Context, name string, f func(context.Context) error) {
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := f(attempt)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			s.logger.Warn("Start-up step failed; trying again", "step", name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (s *Server) ensureSystemObjects(ctx context.Context) error {
	group, namespaced := errgroup.WithContext(ctx)
	for _, name := range systemNamespaces {
		group.Go(func() error {
			if err := s.ensureNamespace(namespaced, name); err != nil {
				return fmt.Errorf("create namespace %s: %w", name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := s.ensureServiceCIDR(ctx); err != nil {
		return err
	}
	return s.ensureTrust(ctx)
}

// ensureNamespace looks first: to write is to wait until admission is ready.
func (s *Server) ensureNamespace(ctx context.Context, name string) error {
	all := s.client.CoreV1().Namespaces()
	_, err := all.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // by another server
		}
	}
	return err
}

// ensureTokenTracking records since when servers have noted the use of tokens
// that live in secrets: what was not used since may be taken for unused.
func (s *Server) ensureTokenTracking(ctx context.Context) error {
	const name, since = authn.TrackingConfigMap, authn.TrackingSince
	all := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	today := map[string]string{since: time.Now().UTC().Format(time.DateOnly)}
	got, err := all.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: today}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // by another server, today
		}
	} else if err == nil {
		if _, malformed := time.Parse(time.DateOnly, got.Data[since]); malformed != nil {
			got.Data = today
			_, err = all.Update(ctx, got, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("record since when tokens are tracked: %w", err)
	}
	return nil
}

// ensureTrust publishes whom extension API servers are to trust.
func (s *Server) ensureTrust(ctx context.Context) error {
	pki := hostconfig.PKI(s.config.PKIDir)
	clientCA, err := os.ReadFile(pki.ClusterCA())
	if err != nil {
		return fmt.Errorf("read client certificate authority: %w", err)
	}
	frontProxyCA, err := os.ReadFile(pki.FrontProxyCA())
	if err != nil {
		return fmt.Errorf("read front-proxy certificate authority: %w", err)
	}
	data := map[string]string{
		"client-ca-file":               string(clientCA),
		"requestheader-client-ca-file": string(frontProxyCA),
	}
	for key, values := range map[string][]string{
		"requestheader-username-headers":     {"X-Remote-User"},
		"requestheader-uid-headers":          {"X-Remote-Uid"},
		"requestheader-group-headers":        {"X-Remote-Group"},
		"requestheader-extra-headers-prefix": {"X-Remote-Extra-"},
		"requestheader-allowed-names":        {},
	} {
		list, err := json.Marshal(values)
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		data[key] = string(list)
	}
	const name = "extension-apiserver-authentication"
	all := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	got, err := all.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // by another server, which trusts the same
		}
	} else if err == nil && !maps.Equal(got.Data, data) {
		got.Data = data
		_, err = all.Update(ctx, got, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", name, err)
	}
	return nil
}
