package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/hostconfig"
)

// allocation is what was taken for a service: to be kept if the service is
// stored, to be given back otherwise.
type allocation struct {
	finish func(ctx context.Context, stored bool)
}

// keepNothing is the allocation of a dry run, or of nothing.
var keepNothing = allocation{func(context.Context, bool) {}}

var serviceGroupKind = schema.GroupKind{Kind: "Service"}

func invalidService(s *corev1.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(serviceGroupKind, s.Name, errs)
}

// addressAllocator takes cluster IPs by creating IPAddress objects named after
// them: of two API servers only one can create an object.
type addressAllocator struct {
	env *api.Environment
	// configured are the cluster's own ranges, the primary family first.
	configured []netip.Prefix
}

func newAddressAllocator(env *api.Environment) (*addressAllocator, error) {
	configured, err := hostconfig.ParseNetworks(env.ServiceCIDR)
	if err != nil {
		return nil, fmt.Errorf("service ranges: %w", err)
	}
	return &addressAllocator{env: env, configured: configured}, nil
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func (a *addressAllocator) primary() corev1.IPFamily { return familyOf(a.configured[0].Addr()) }

func (a *addressAllocator) serves(f corev1.IPFamily) bool {
	return slices.ContainsFunc(a.configured, func(p netip.Prefix) bool { return familyOf(p.Addr()) == f })
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// clusterIPs are a service's addresses; a headless one has none.
func clusterIPs(s *corev1.Service) []string {
	if !hasClusterIP(s) || isHeadless(s) {
		return nil
	}
	return s.Spec.ClusterIPs
}

// update settles a service's families and addresses; old is nil on create.
func (a *addressAllocator) update(ctx context.Context, s, old *corev1.Service, dryRun bool) (allocation, error) {
	if !hasClusterIP(s) {
		if old == nil {
			return keepNothing, nil
		}
		return a.changed(s, nil, clusterIPs(old), dryRun), nil
	}
	if err := a.settleFamilies(s, old); err != nil {
		return allocation{}, err
	}
	if isHeadless(s) {
		return keepNothing, nil
	}
	var had []string
	if old != nil {
		if had = clusterIPs(old); isHeadless(old) {
			// "may not change once set" is for validation to say.
			return keepNothing, nil
		}
	}
	var taken []string
	undo := func() {
		if !dryRun {
			a.release(ctx, s, taken)
		}
	}
	ips := slices.Clone(s.Spec.ClusterIPs)
	for i, family := range s.Spec.IPFamilies {
		if i >= len(ips) {
			ips = append(ips, "")
		}
		if ips[i] != "" && (slices.Contains(had, ips[i]) || a.isLeftOf(ctx, s, ips[i])) {
			continue
		}
		ip, err := a.take(ctx, s, family, ips[i], dryRun)
		if err != nil {
			undo()
			return allocation{}, err
		}
		ips[i] = ip
		taken = append(taken, ip)
	}
	s.Spec.ClusterIPs = ips
	if len(ips) > 0 {
		s.Spec.ClusterIP = ips[0]
	}
	freed := slices.DeleteFunc(slices.Clone(had), func(ip string) bool { return slices.Contains(ips, ip) })
	return a.changed(s, taken, freed, dryRun), nil
}

// isLeftOf says that ip is held in the name of this very service: by a creation
// that was cut off between taking the address and storing the service, say when
// its API server was killed. It is not given back if this creation fails too,
// since the service may exist after all.
func (a *addressAllocator) isLeftOf(ctx context.Context, s *corev1.Service, ip string) bool {
	getter, ok := a.env.Lookup("networking.k8s.io/ipaddresses").(rest.Getter)
	if !ok {
		return false
	}
	object, err := getter.Get(clusterScope(ctx), ip, &metav1.GetOptions{})
	if err != nil {
		return false // taking it will tell
	}
	ref := object.(*networkingv1.IPAddress).Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services" && ref.Namespace == s.Namespace && ref.Name == s.Name
}

func (a *addressAllocator) changed(s *corev1.Service, taken, freed []string, dryRun bool) allocation {
	if dryRun || len(taken)+len(freed) == 0 {
		return keepNothing
	}
	return allocation{func(ctx context.Context, stored bool) {
		if stored {
			a.release(ctx, s, freed)
		} else {
			a.release(ctx, s, taken)
		}
	}}
}

// settleFamilies decides which address families a service has.
func (a *addressAllocator) settleFamilies(s, old *corev1.Service) error {
	spec := &s.Spec
	plain := spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil {
		switch {
		case old != nil && old.Spec.IPFamilyPolicy != nil:
			spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
		case plain:
			// Headless without a selector: its endpoints may be anything.
			spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
		default:
			spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
		}
	}
	if errs := validateServiceAddresses(s, old); len(errs) > 0 {
		return invalidService(s, errs...)
	}
	policyPath := field.NewPath("spec", "ipFamilyPolicy")
	single := *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	var errs field.ErrorList
	if old != nil && hasClusterIP(old) {
		if single {
			if slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) && len(spec.ClusterIPs) > 1 {
				spec.ClusterIPs = spec.ClusterIPs[:1]
			}
			if slices.Equal(spec.IPFamilies, old.Spec.IPFamilies) && len(spec.IPFamilies) > 1 {
				spec.IPFamilies = spec.IPFamilies[:1]
			}
		} else {
			if n := len(spec.ClusterIPs); n > 0 && n < len(old.Spec.ClusterIPs) {
				errs = append(errs, field.Invalid(policyPath, spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
			}
			if n := len(spec.IPFamilies); n > 0 && n < len(old.Spec.IPFamilies) {
				errs = append(errs, field.Invalid(policyPath, spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
			}
		}
	}
	if single && len(spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(policyPath, spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if single && len(spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(policyPath, spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	for i := len(spec.IPFamilies); i < len(spec.ClusterIPs); i++ {
		ip, err := netip.ParseAddr(spec.ClusterIPs[i])
		if err != nil {
			break // "None"
		}
		if f := familyOf(ip); !a.serves(f) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", f)))
		} else {
			spec.IPFamilies = append(spec.IPFamilies, f)
		}
	}
	if len(errs) > 0 {
		return invalidService(s, errs...)
	}
	if plain {
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{a.primary()}
		}
		if len(spec.IPFamilies) == 1 && !single {
			spec.IPFamilies = append(spec.IPFamilies, otherFamily(spec.IPFamilies[0]))
		}
		return nil
	}
	dual := a.serves(corev1.IPv4Protocol) && a.serves(corev1.IPv6Protocol)
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && !dual {
		errs = append(errs, field.Invalid(policyPath, spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range spec.IPFamilies {
		if !a.serves(f) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return invalidService(s, errs...)
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{a.primary()}
	}
	if !single && dual && len(spec.IPFamilies) == 1 {
		spec.IPFamilies = append(spec.IPFamilies, otherFamily(spec.IPFamilies[0]))
	}
	return nil
}

var (
	errTaken = errors.New("provided IP is already allocated")
	errFull  = errors.New("range is full")
)

// take allocates ip, or any address of the family where it is empty.
func (a *addressAllocator) take(ctx context.Context, s *corev1.Service, family corev1.IPFamily, ip string, dryRun bool) (string, error) {
	path := field.NewPath("spec", "clusterIPs")
	ranges, err := a.ranges(ctx, family)
	if err != nil {
		return "", apierrors.NewInternalError(fmt.Errorf("list service ranges: %w", err))
	}
	if ip == "" {
		taken, err := a.takeAny(ctx, s, ranges, dryRun)
		if errors.Is(err, errFull) {
			return "", apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", s.Name, err))
		}
		if err != nil {
			return "", invalidService(s, field.Invalid(path, s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP: %v", err)))
		}
		return taken, nil
	}
	refuse := func(why error) error {
		return invalidService(s, field.Invalid(path, s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", ip, why)))
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return "", refuse(err)
	}
	i := slices.IndexFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
	if i < 0 || addr == ranges[i].Addr() {
		return "", refuse(fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", ip, joinPrefixes(ranges)))
	}
	if err := a.create(ctx, s, addr, dryRun); apierrors.IsAlreadyExists(err) {
		return "", refuse(errTaken)
	} else if err != nil {
		return "", refuse(err)
	}
	return ip, nil
}

func joinPrefixes(list []netip.Prefix) string {
	var texts []string
	for _, p := range list {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}

// ranges are the prefixes of one family: those of ServiceCIDR objects that are
// ready and stay. The cluster's own are there from the beginning, before an
// object tells of them.
func (a *addressAllocator) ranges(ctx context.Context, family corev1.IPFamily) ([]netip.Prefix, error) {
	var list []netip.Prefix
	add := func(p netip.Prefix) {
		if familyOf(p.Addr()) == family && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	lister, ok := a.env.Lookup("networking.k8s.io/servicecidrs").(rest.Lister)
	if !ok {
		return nil, errors.New("service ranges are not served")
	}
	object, err := lister.List(clusterScope(ctx), &metainternal.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	items := object.(*networkingv1.ServiceCIDRList).Items
	if !slices.ContainsFunc(items, func(c networkingv1.ServiceCIDR) bool { return c.Name == defaultServiceCIDR }) {
		for _, p := range a.configured {
			add(p)
		}
	}
	for _, c := range items {
		unready := slices.ContainsFunc(c.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == networkingv1.ServiceCIDRConditionReady && c.Status == metav1.ConditionFalse
		})
		if unready || c.DeletionTimestamp != nil {
			continue
		}
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				add(p.Masked())
			}
		}
	}
	return list, nil
}

// defaultServiceCIDR tells of the cluster's own ranges.
const defaultServiceCIDR = "kubernetes"

// clusterScope is ctx without the service's namespace.
func clusterScope(ctx context.Context) context.Context { return request.WithNamespace(ctx, "") }

// takeAny tries free addresses, at random, first above the lower band of each
// range, which is for those who choose an address themselves.
func (a *addressAllocator) takeAny(ctx context.Context, s *corev1.Service, ranges []netip.Prefix, dryRun bool) (string, error) {
	lister, ok := a.env.Lookup("networking.k8s.io/ipaddresses").(rest.Lister)
	if !ok {
		return "", errors.New("IP addresses are not served")
	}
	object, err := lister.List(clusterScope(ctx), &metainternal.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return "", fmt.Errorf("list addresses in use: %w", err)
	}
	used := map[netip.Addr]bool{}
	for i := range object.(*networkingv1.IPAddressList).Items {
		if ip, err := netip.ParseAddr(object.(*networkingv1.IPAddressList).Items[i].Name); err == nil {
			used[ip] = true
		}
	}
	for _, static := range []bool{false, true} {
		for _, p := range ranges {
			for {
				ip, found := freeAddress(p, static, used)
				if !found {
					break
				}
				err := a.create(ctx, s, ip, dryRun)
				if err == nil {
					return ip.String(), nil
				}
				if !apierrors.IsAlreadyExists(err) {
					return "", err
				}
				used[ip] = true // another server was faster, or the cache is behind
			}
		}
	}
	return "", errFull
}

// staticBand is how many addresses at the start of a range of this size are
// not given out on their own, as long as there are others.
func staticBand(size *big.Int) int64 {
	const most, least = 256, 16
	if !size.IsInt64() || size.Int64() >= most*16 {
		return most
	}
	if n := size.Int64() / 16; n > least {
		return n
	}
	return min(least, size.Int64()/2)
}

// freeAddress finds an unused address in the static or in the dynamic band of
// a range, from a random place onwards. The first address is the network's;
// an IPv4 range's last one its broadcast address.
func freeAddress(p netip.Prefix, static bool, used map[netip.Addr]bool) (netip.Addr, bool) {
	hostBits := p.Addr().BitLen() - p.Bits()
	size := new(big.Int).Lsh(big.NewInt(1), uint(hostBits))
	last := new(big.Int).Sub(size, big.NewInt(1))
	if p.Addr().Is4() {
		last.Sub(last, big.NewInt(1))
	}
	first, band := big.NewInt(1), big.NewInt(staticBand(size))
	if static {
		last = new(big.Int).Set(band)
	} else {
		first.Add(band, big.NewInt(1))
	}
	count := new(big.Int).Sub(last, first)
	if count.Add(count, big.NewInt(1)); count.Sign() <= 0 {
		return netip.Addr{}, false
	}
	// Of an IPv6 range, more than can ever be used are enough to look at.
	n := int64(1) << 30
	if count.IsInt64() {
		n = min(n, count.Int64())
	}
	start := rand.Int64N(n)
	base := new(big.Int).SetBytes(p.Addr().AsSlice())
	for i := range n {
		at := new(big.Int).Add(base, first)
		at.Add(at, big.NewInt((start+i)%n))
		bytes := make([]byte, p.Addr().BitLen()/8)
		ip, ok := netip.AddrFromSlice(at.FillBytes(bytes))
		if ok && !used[ip] {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

const managedBy = "ipallocator.k8s.io"

// create takes one address, atomically among all API servers.
func (a *addressAllocator) create(ctx context.Context, s *corev1.Service, ip netip.Addr, dryRun bool) error {
	creater, ok := a.env.Lookup("networking.k8s.io/ipaddresses").(rest.Creater)
	if !ok {
		return errors.New("IP addresses are not served")
	}
	object := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(familyOf(ip)), networkingv1.LabelManagedBy: managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
	options := &metav1.CreateOptions{}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err := creater.Create(clusterScope(ctx), object, rest.ValidateAllObjectFunc, options)
	return err
}

// release gives addresses of s back. It goes on after the request has ended:
// what it leaves behind nobody else would find.
func (a *addressAllocator) release(ctx context.Context, s *corev1.Service, ips []string) {
	deleter, ok := a.env.Lookup("networking.k8s.io/ipaddresses").(interface {
		rest.GracefulDeleter
		rest.Getter
	})
	if !ok {
		return
	}
	ctx = clusterScope(context.WithoutCancel(ctx))
	for _, ip := range ips {
		object, err := deleter.Get(ctx, ip, &metav1.GetOptions{})
		if err == nil {
			held := object.(*networkingv1.IPAddress)
			if ref := held.Spec.ParentRef; ref == nil || ref.Namespace != s.Namespace || ref.Name != s.Name {
				continue // somebody else's by now
			}
			uid := held.UID
			_, _, err = deleter.Delete(ctx, ip, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			slog.Error("release cluster IP", "service", s.Namespace+"/"+s.Name, "ip", ip, "error", err)
		}
	}
}
