package loadbalancer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"clusterctl/hostconfig"
)

// pool is a hostconfig.LoadBalancerPool that has been read.
type pool struct {
	name      string
	ranges    []hostconfig.AddressRange
	onRequest bool
}

func readPools(configs []hostconfig.LoadBalancerPool) ([]pool, error) {
	var pools []pool
	for _, config := range configs {
		p := pool{name: config.Name, onRequest: config.OnRequest}
		for _, text := range config.Addresses {
			r, err := hostconfig.ParseAddressRange(text)
			if err != nil {
				return nil, fmt.Errorf("read load balancer pool %s: %w", config.Name, err)
			}
			p.ranges = append(p.ranges, r)
		}
		pools = append(pools, p)
	}
	return pools, nil
}

func (p pool) contains(a netip.Addr) bool {
	return slices.ContainsFunc(p.ranges, func(r hostconfig.AddressRange) bool { return r.Contains(a) })
}

// holder finds the pool of an address.
func holder(pools []pool, a netip.Addr) (pool, bool) {
	i := slices.IndexFunc(pools, func(p pool) bool { return p.contains(a) })
	if i < 0 {
		return pool{}, false
	}
	return pools[i], true
}

// familyOf is the family of an address.
func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// wish is what a service asks for.
type wish struct {
	addresses map[corev1.IPFamily]netip.Addr
	pool      string // "": any that is for everybody
}

func readWish(s *corev1.Service) (wish, error) {
	w := wish{addresses: map[corev1.IPFamily]netip.Addr{}, pool: s.Annotations[hostconfig.AnnotationPool]}
	text := s.Annotations[hostconfig.AnnotationAddresses]
	if text == "" {
		text = s.Spec.LoadBalancerIP
	}
	if text == "" {
		return w, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return w, fmt.Errorf("read the addresses it asks for: %w", err)
		}
		if old, twice := w.addresses[familyOf(a)]; twice {
			return w, fmt.Errorf("it asks for two %s addresses, %s and %s", familyOf(a), old, a)
		}
		w.addresses[familyOf(a)] = a
	}
	return w, nil
}

// grant is what a service is to have.
type grant struct {
	addresses []netip.Addr
	pools     []string // of each
}

// choose gives service, which has the addresses of have, one address for each
// of its families. taken tells whether another service has an address. What it
// cannot give is left out and said in the error; an address that the service has
// is kept until it can have the one that it asks for.
func choose(pools []pool, service *corev1.Service, have []netip.Addr, taken func(netip.Addr) (by string, is bool)) (grant, error) {
	wish, err := readWish(service)
	problems := []error{err}
	if wish.pool != "" {
		i := slices.IndexFunc(pools, func(p pool) bool { return p.name == wish.pool })
		if i < 0 {
			return grant{}, fmt.Errorf("there is no pool %q", wish.pool)
		}
		pools = pools[i : i+1]
	}
	families := service.Spec.IPFamilies
	if len(families) == 0 {
		families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	var g grant
	var missing []error
	for _, family := range families {
		address, from, err := chooseOne(pools, family, wish, have, taken)
		if address.IsValid() {
			g.addresses, g.pools = append(g.addresses, address), append(g.pools, from)
			problems = append(problems, err)
		} else {
			missing = append(missing, err)
		}
	}
	prefers := service.Spec.IPFamilyPolicy != nil && *service.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack
	if !prefers || len(g.addresses) == 0 {
		problems = append(problems, missing...)
	}
	return g, errors.Join(problems...)
}

func chooseOne(pools []pool, family corev1.IPFamily, wish wish, have []netip.Addr, taken func(netip.Addr) (string, bool)) (netip.Addr, string, error) {
	var problem error
	if want, asked := wish.addresses[family]; asked {
		p, found := holder(pools, want)
		by, is := taken(want)
		switch {
		case !found:
			problem = fmt.Errorf("it asks for %s, which is in no pool that it may use", want)
		case is:
			problem = fmt.Errorf("it asks for %s, which service %s has", want, by)
		default:
			return want, p.name, nil
		}
	}
	for _, a := range have {
		if p, found := holder(pools, a); found && familyOf(a) == family {
			if _, is := taken(a); !is {
				return a, p.name, problem
			}
		}
	}
	if problem != nil {
		return netip.Addr{}, "", problem
	}
	for _, p := range pools {
		if p.onRequest && wish.pool == "" {
			continue
		}
		if a, ok := p.free(family, taken); ok {
			return a, p.name, nil
		}
	}
	return netip.Addr{}, "", fmt.Errorf("no %s address is free", family)
}

// free is the first address of a family that nobody has.
func (p pool) free(family corev1.IPFamily, taken func(netip.Addr) (string, bool)) (netip.Addr, bool) {
	for _, r := range p.ranges {
		if familyOf(r.First) != family {
			continue
		}
		for a := r.First; r.Contains(a); a = a.Next() {
			if _, is := taken(a); !is {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}
