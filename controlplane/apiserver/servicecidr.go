package apiserver

import (
	"context"
	"fmt"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingapply "k8s.io/client-go/applyconfigurations/networking/v1"

	"clusterctl/hostconfig"
)

// serviceCIDRPeriod is how soon the default ServiceCIDR is back once an
// administrator has deleted it.
const serviceCIDRPeriod = 10 * time.Second

func (s *Server) keepServiceCIDR(ctx context.Context) {
	tick := time.NewTicker(serviceCIDRPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		attempt, cancel := context.WithTimeout(ctx, serviceCIDRPeriod)
		err := s.ensureServiceCIDR(attempt)
		cancel()
		if err != nil && ctx.Err() == nil {
			s.logger.Warn("The default ServiceCIDR is not in place; trying again", "error", err)
		}
	}
}

// ensureServiceCIDR tells the ranges that services' addresses come from, and
// that they are ready where nobody has said so or otherwise yet. A cluster that
// has been given a second family tells so; one of other ranges, or that is being
// deleted, is left to the administrator.
func (s *Server) ensureServiceCIDR(ctx context.Context) error {
	all := s.client.NetworkingV1().ServiceCIDRs()
	ranges, err := hostconfig.ParseNetworks(s.config.Cluster.ServiceCIDR)
	if err != nil {
		return fmt.Errorf("service ranges: %w", err)
	}
	var want []string
	for _, r := range ranges {
		want = append(want, r.String())
	}
	cidr, err := all.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		cidr, err = all.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: want},
		}, metav1.CreateOptions{})
	}
	if apierrors.IsAlreadyExists(err) {
		return nil // another server is at it
	}
	if err != nil {
		return fmt.Errorf("create default ServiceCIDR: %w", err)
	}
	if len(want) == 2 && slices.Equal(cidr.Spec.CIDRs, want[:1]) && cidr.DeletionTimestamp == nil {
		cidr = cidr.DeepCopy()
		cidr.Spec.CIDRs = want
		if cidr, err = all.Update(ctx, cidr, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("add a family to the default ServiceCIDR: %w", err)
		}
	}
	ready := meta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	if cidr.DeletionTimestamp != nil || !slices.Equal(cidr.Spec.CIDRs, want) || ready != nil && ready.Status != metav1.ConditionUnknown {
		return nil
	}
	condition := metaapply.Condition().WithType(networkingv1.ServiceCIDRConditionReady).WithStatus(metav1.ConditionTrue).
		WithReason("").WithMessage("Kubernetes default Service CIDR is ready").WithLastTransitionTime(metav1.Now())
	_, err = all.ApplyStatus(ctx,
		networkingapply.ServiceCIDR(serviceName).WithStatus(networkingapply.ServiceCIDRStatus().WithConditions(condition)),
		metav1.ApplyOptions{FieldManager: "kubernetes-service-cidr-controller", Force: true})
	if err != nil {
		return fmt.Errorf("mark default ServiceCIDR as ready: %w", err)
	}
	return nil
}
