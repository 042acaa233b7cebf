package network

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"clusterctl/hostconfig"
)

// ServiceRanges are the networks that services have addresses of, sorted: the
// configured ones, and those that ServiceCIDR objects add while the cluster runs.
// No informer: nobody adds any.
func ServiceRanges(configured string, cidrs networkinginformers.ServiceCIDRInformer) []netip.Prefix {
	ranges, err := hostconfig.ParseNetworks(configured)
	if err != nil {
		ranges = nil
	}
	if cidrs != nil {
		added, err := cidrs.Lister().List(everything)
		if err != nil {
			added = nil
		}
		for _, object := range added {
			for _, text := range object.Spec.CIDRs {
				if prefix, err := netip.ParsePrefix(text); err == nil {
					ranges = append(ranges, prefix.Masked())
				}
			}
		}
	}
	slices.SortFunc(ranges, netip.Prefix.Compare)
	return slices.Compact(ranges)
}

// OnServiceRanges calls changed when what ServiceRanges returns may have changed.
func OnServiceRanges(changed func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() },
		UpdateFunc: func(old, new any) {
			before, ok1 := old.(*networkingv1.ServiceCIDR)
			after, ok2 := new.(*networkingv1.ServiceCIDR)
			if !ok1 || !ok2 || !slices.Equal(before.Spec.CIDRs, after.Spec.CIDRs) {
				changed()
			}
		},
		DeleteFunc: func(any) { changed() },
	}
}
