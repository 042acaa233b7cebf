package apiserver

import (
	"context"
	"fmt"
	"os"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/utils/clock"
)

// Each API server says by a lease in kube-system that it is there. The figures
// are Kubernetes'.
const (
	identityLabel   = "apiserver.kubernetes.io/identity"
	identityServer  = "kube-apiserver"
	identitySeconds = 3600
	identityRenewal = 10 * time.Second
	// identitySweep is how often leases of servers that are no more are removed.
	identitySweep = time.Hour
	// identityGoodbye bounds how long a server that stops tries to remove its own.
	identityGoodbye = 2 * time.Second
)

// addIdentity keeps the server's lease while it serves, and removes it when it
// stops.
func (s *Server) addIdentity() error {
	const hook = "start-kube-apiserver-identity-lease-controller"
	name := s.generic.APIServerID
	stop, stopped := make(chan struct{}), make(chan struct{})
	err := s.generic.AddPostStartHook(hook, func(ctx genericapiserver.PostStartHookContext) error {
		serving, cancel := context.WithCancel(ctx)
		go func() {
			<-stop
			cancel()
		}()
		go func() {
			defer close(stopped)
			lease.NewController(clock.RealClock{}, s.client, name+"_"+string(uuid.NewUUID()), identitySeconds, nil, identityRenewal,
				name, metav1.NamespaceSystem, labelIdentity).Run(serving)
		}()
		return nil
	})
	if err != nil {
		return fmt.Errorf("add hook: %w", err)
	}
	err = s.generic.AddPreShutdownHook(hook, func() error {
		close(stop)
		ctx, cancel := context.WithTimeout(context.Background(), identityGoodbye)
		defer cancel()
		select {
		case <-stopped:
		case <-ctx.Done():
			return nil // it does not answer itself any more; the lease ends by itself
		}
		err := s.client.CoordinationV1().Leases(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove the server's lease: %w", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("add hook: %w", err)
	}
	s.background["start-kube-apiserver-identity-lease-garbage-collector"] = s.sweepIdentities
	return nil
}

func labelIdentity(l *coordinationv1.Lease) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name the host in the server's lease: %w", err)
	}
	if l.Labels == nil {
		l.Labels = map[string]string{}
	}
	l.Labels[identityLabel], l.Labels[corev1.LabelHostname] = identityServer, host
	return nil
}

// sweepIdentities removes what servers left that ended without a word.
func (s *Server) sweepIdentities(ctx context.Context) {
	tick := time.NewTicker(identitySweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := s.sweepIdentitiesAt(ctx, now); err != nil && ctx.Err() == nil {
				s.logger.Warn("Leases of API servers that are no more are not removed; trying again in an hour", "error", err)
			}
		}
	}
}

func (s *Server) sweepIdentitiesAt(ctx context.Context, now time.Time) error {
	leases := s.client.CoordinationV1().Leases(metav1.NamespaceSystem)
	list, err := leases.List(ctx, metav1.ListOptions{LabelSelector: identityLabel + "=" + identityServer})
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for i := range list.Items {
		l := &list.Items[i]
		if spec := &l.Spec; spec.RenewTime != nil && spec.LeaseDurationSeconds != nil && now.Before(spec.RenewTime.Add(time.Duration(*spec.LeaseDurationSeconds)*time.Second)) {
			continue
		}
		// As it was read: a server may have come back since.
		err := leases.Delete(ctx, l.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &l.UID, ResourceVersion: &l.ResourceVersion}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("remove lease %s: %w", l.Name, err)
		}
	}
	return nil
}
