package integration

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"clusterctl/hostconfig"
)

// startDual is an API server of a cluster with both address families, beside
// the shared one and without anything in common with it.
func startDual(t *testing.T) *Cluster {
	return Start(t).another(t, func(config *hostconfig.ControlPlane) {
		config.Prefix = "/dual"
		config.Cluster.PodCIDR += ",fd00:10:244::/56"
		config.Cluster.NodeMaskSizeIPv6 = 64
		config.Cluster.ServiceCIDR += ",fd00:10:96::/112"
	})
}

func TestServicesOfBothFamilies(t *testing.T) {
	c, ctx := startDual(t), t.Context()
	ns := c.namespace(t)
	services := c.Client.CoreV1().Services(ns)
	families := func(list ...corev1.IPFamily) []corev1.IPFamily { return list }
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	of := func(ip string) corev1.IPFamily {
		if strings.Contains(ip, ":") {
			return v6
		}
		return v4
	}
	for name, test := range map[string]struct {
		policy corev1.IPFamilyPolicy
		asked  []corev1.IPFamily
		want   []corev1.IPFamily
		wants  corev1.IPFamilyPolicy
	}{
		"default":  {"", nil, families(v4), corev1.IPFamilyPolicySingleStack},
		"six":      {"", families(v6), families(v6), corev1.IPFamilyPolicySingleStack},
		"prefers":  {corev1.IPFamilyPolicyPreferDualStack, nil, families(v4, v6), corev1.IPFamilyPolicyPreferDualStack},
		"requires": {corev1.IPFamilyPolicyRequireDualStack, families(v6), families(v6, v4), corev1.IPFamilyPolicyRequireDualStack},
	} {
		s := simpleService(name, "")
		s.Spec.IPFamilies = test.asked
		if test.policy != "" {
			s.Spec.IPFamilyPolicy = &test.policy
		}
		got := must(services.Create(ctx, s, metav1.CreateOptions{}))(t).Spec
		if !slices.Equal(got.IPFamilies, test.want) || *got.IPFamilyPolicy != test.wants || len(got.ClusterIPs) != len(test.want) || got.ClusterIP != got.ClusterIPs[0] {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i, ip := range got.ClusterIPs {
			address := must(c.Client.NetworkingV1().IPAddresses().Get(ctx, ip, metav1.GetOptions{}))(t)
			if of(ip) != test.want[i] || address.Labels[networkingv1.LabelIPAddressFamily] != string(test.want[i]) {
				t.Errorf("%s: address %d is %s with labels %v", name, i, ip, address.Labels)
			}
		}
	}

	// From one family to both and back: the second address comes and goes.
	s := must(services.Get(ctx, "default", metav1.GetOptions{}))(t)
	first := s.Spec.ClusterIP
	s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
	s = must(services.Update(ctx, s, metav1.UpdateOptions{}))(t)
	if s.Spec.ClusterIP != first || len(s.Spec.ClusterIPs) != 2 || !slices.Equal(s.Spec.IPFamilies, families(v4, v6)) {
		t.Fatalf("upgraded: %+v", s.Spec)
	}
	second := s.Spec.ClusterIPs[1]
	wrong := s.DeepCopy()
	wrong.Spec.ClusterIPs, wrong.Spec.IPFamilies = wrong.Spec.ClusterIPs[:1], wrong.Spec.IPFamilies[:1]
	_, err := services.Update(ctx, wrong, metav1.UpdateOptions{})
	for _, want := range []string{"must be 'SingleStack' to release the secondary cluster IP", "must be 'SingleStack' to release the secondary IP family"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("released without a policy: %v", err)
		}
	}
	s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
	s = must(services.Update(ctx, s, metav1.UpdateOptions{}))(t)
	if !slices.Equal(s.Spec.ClusterIPs, []string{first}) || !slices.Equal(s.Spec.IPFamilies, families(v4)) {
		t.Errorf("downgraded: %+v", s.Spec)
	}
	if _, err := c.Client.NetworkingV1().IPAddresses().Get(ctx, second, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the address that was given up: %v", err)
	}

	for want, change := range map[string]func(*corev1.ServiceSpec){
		"may specify no more than one IP for each IP family": func(s *corev1.ServiceSpec) { s.ClusterIPs = []string{"10.96.1.1", "10.96.1.2"} },
		"expected an IPv6 value as indicated by `ipFamilies[0]`": func(s *corev1.ServiceSpec) {
			s.ClusterIPs, s.IPFamilies = []string{"10.96.1.1"}, families(v6)
		},
		"must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified": func(s *corev1.ServiceSpec) {
			s.ClusterIPs = []string{"10.96.1.1", "fd00:10:96::1:1"}
		},
		"failed to allocate IP fd00:10:97::1: the provided IP (fd00:10:97::1) is not in the valid range. The range of valid IPs is fd00:10:96::/112": func(s *corev1.ServiceSpec) {
			s.ClusterIPs = []string{"fd00:10:97::1"}
		},
	} {
		s := simpleService("refused", "")
		change(&s.Spec)
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
		if _, err := services.Create(ctx, s, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// A cluster that gains a second family tells of it in the ServiceCIDR that it
// has.
func TestServiceRangeGainsAFamily(t *testing.T) {
	single := Start(t).another(t, func(config *hostconfig.ControlPlane) { config.Prefix = "/grows" })
	cidrs := single.Client.NetworkingV1().ServiceCIDRs()
	eventually(t, "the range of one family", func(ctx context.Context) (bool, error) {
		got, err := cidrs.Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil && slices.Equal(got.Spec.CIDRs, []string{"10.96.0.0/16"}), err
	})
	Start(t).another(t, func(config *hostconfig.ControlPlane) {
		config.Prefix = "/grows"
		config.Cluster.ServiceCIDR += ",fd00:10:96::/112"
	})
	eventually(t, "the range of both families", func(ctx context.Context) (bool, error) {
		got, err := cidrs.Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil && slices.Equal(got.Spec.CIDRs, []string{"10.96.0.0/16", "fd00:10:96::/112"}), err
	})
	service := must(single.Client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t)
	if !slices.Equal(service.Spec.ClusterIPs, []string{"10.96.0.1"}) {
		t.Errorf("service kubernetes: %+v", service.Spec)
	}
}
