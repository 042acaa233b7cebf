package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage"

	"clusterctl/controlplane/api"
)

// nodePorts are all that a service holds, that of its health check included.
func nodePorts(s *corev1.Service) []int32 {
	var list []int32
	add := func(p int32) {
		if p != 0 && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	for _, p := range s.Spec.Ports {
		add(p.NodePort)
	}
	add(s.Spec.HealthCheckNodePort)
	return list
}

// nodePortAllocator keeps one object in etcd, with one bit a port: each change
// is a transaction, so that no two API servers give out the same port.
type nodePortAllocator struct {
	store       storage.Interface
	text        string
	first, last int32
}

const portsKey = "/ranges/servicenodeports"

// rangeAllocationList is what a watch cache over the allocation reads it with;
// Kubernetes has no list of the type.
type rangeAllocationList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []corev1.RangeAllocation
}

// DeepCopyObject implements runtime.Object.
func (l *rangeAllocationList) DeepCopyObject() runtime.Object {
	out := &rangeAllocationList{TypeMeta: l.TypeMeta, Items: make([]corev1.RangeAllocation, len(l.Items))}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		l.Items[i].DeepCopyInto(&out.Items[i])
	}
	return out
}

func newNodePortAllocator(env *api.Environment) (*nodePortAllocator, error) {
	a := &nodePortAllocator{text: env.NodePortRange}
	from, to, ok := strings.Cut(env.NodePortRange, "-")
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if !ok || err1 != nil || err2 != nil || first > last {
		return nil, fmt.Errorf("parse range of node ports %q: want two numbers like 30000-32767", env.NodePortRange)
	}
	a.first, a.last = int32(first), int32(last)
	resource := schema.GroupResource{Resource: "servicenodeportallocations"}
	options, err := env.RESTOptions.GetRESTOptions(resource, &corev1.RangeAllocation{})
	if err != nil {
		return nil, fmt.Errorf("find store of node ports: %w", err)
	}
	a.store, _, err = options.Decorator(options.StorageConfig, "/ranges",
		func(runtime.Object) (string, error) { return portsKey, nil },
		func() runtime.Object { return &corev1.RangeAllocation{} },
		func() runtime.Object { return &rangeAllocationList{} },
		storage.DefaultClusterScopedAttr, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("open store of node ports: %w", err)
	}
	return a, nil
}

// portRequest is what one change of a service wants at once.
type portRequest struct {
	exact []exactPort
	// fresh are filled with ports chosen by the allocator.
	fresh []*int32
}

type exactPort struct {
	port int32
	path *field.Path
}

// update settles a service's node ports; old is nil on create.
func (a *nodePortAllocator) update(ctx context.Context, s, old *corev1.Service, dryRun bool) (allocation, error) {
	var had []int32
	if old != nil {
		had = nodePorts(old)
	}
	want := portRequest{}
	ask := func(port int32, path *field.Path) {
		known := slices.ContainsFunc(want.exact, func(e exactPort) bool { return e.port == port })
		if !known && !slices.Contains(had, port) {
			want.exact = append(want.exact, exactPort{port, path})
		}
	}
	// Ports of different protocols with one number share their node port.
	share := map[int32]*int32{}
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.NodePort != 0 && mayHaveNodePorts(s) {
			ask(p.NodePort, field.NewPath("spec", "ports").Index(i).Child("nodePort"))
			share[p.Port] = &p.NodePort
		}
	}
	var same [][2]*int32
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 || !getsNodePorts(s) {
			continue
		}
		if first := share[p.Port]; first != nil {
			same = append(same, [2]*int32{&p.NodePort, first})
			continue
		}
		want.fresh = append(want.fresh, &p.NodePort)
		share[p.Port] = &p.NodePort
	}
	if needsHealthPort(s) {
		if s.Spec.HealthCheckNodePort != 0 {
			ask(s.Spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort"))
		} else {
			want.fresh = append(want.fresh, &s.Spec.HealthCheckNodePort)
		}
	}
	if len(want.exact)+len(want.fresh) > 0 {
		if err := a.take(ctx, s, &want, dryRun); err != nil {
			return allocation{}, err
		}
	}
	for _, pair := range same {
		*pair[0] = *pair[1]
	}
	var taken []int32
	for _, e := range want.exact {
		taken = append(taken, e.port)
	}
	for _, p := range want.fresh {
		taken = append(taken, *p)
	}
	now := nodePorts(s)
	freed := slices.DeleteFunc(slices.Clone(had), func(p int32) bool { return slices.Contains(now, p) })
	if dryRun || len(taken)+len(freed) == 0 {
		return keepNothing, nil
	}
	return allocation{func(ctx context.Context, stored bool) {
		if stored {
			a.release(ctx, freed)
		} else {
			a.release(ctx, taken)
		}
	}}, nil
}

var errPortTaken = errors.New("provided port is already allocated")

// take sets the bits of all ports wanted, or of none.
func (a *nodePortAllocator) take(ctx context.Context, s *corev1.Service, want *portRequest, dryRun bool) error {
	try := func(bits *big.Int) error {
		for _, e := range want.exact {
			if e.port < a.first || e.port > a.last {
				return invalidService(s, field.Invalid(e.path, e.port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %s", a.text)))
			}
			if bits.Bit(int(e.port-a.first)) == 1 {
				return invalidService(s, field.Invalid(e.path, e.port, errPortTaken.Error()))
			}
			bits.SetBit(bits, int(e.port-a.first), 1)
		}
		for _, p := range want.fresh {
			offset, ok := freePort(bits, int(a.last-a.first)+1)
			if !ok {
				return apierrors.NewInternalError(errors.New("failed to allocate a nodePort: range is full"))
			}
			bits.SetBit(bits, offset, 1)
			*p = a.first + int32(offset)
		}
		return nil
	}
	if dryRun {
		current := &corev1.RangeAllocation{}
		if err := a.store.Get(ctx, portsKey, storage.GetOptions{IgnoreNotFound: true}, current); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("read node ports in use: %w", err))
		}
		return try(a.bits(current))
	}
	return a.change(ctx, func(_ *corev1.RangeAllocation, bits *big.Int) error { return try(bits) })
}

// freePort chooses an unset bit, at random, first above the static band of the
// range, which is for those who choose a port themselves.
func freePort(bits *big.Int, size int) (int, bool) {
	band := min(max(size/32, 16), 128, size/2)
	for _, part := range [][2]int{{band, size}, {0, band}} {
		n := part[1] - part[0]
		if n == 0 {
			continue
		}
		start := rand.IntN(n)
		for i := range n {
			if at := part[0] + (start+i)%n; bits.Bit(at) == 0 {
				return at, true
			}
		}
	}
	return 0, false
}

// change edits what is held, in one transaction: edit is called again with
// what others have written meanwhile, and has the object read only.
func (a *nodePortAllocator) change(ctx context.Context, edit func(current *corev1.RangeAllocation, bits *big.Int) error) error {
	return a.store.GuaranteedUpdate(ctx, portsKey, &corev1.RangeAllocation{}, true, nil, storage.SimpleUpdate(func(object runtime.Object) (runtime.Object, error) {
		current := object.(*corev1.RangeAllocation)
		bits := a.bits(current)
		if err := edit(current, bits); err != nil {
			return nil, err
		}
		current.Range, current.Data = a.text, bits.Bytes()
		if current.Name == "" {
			current.ObjectMeta = metav1.ObjectMeta{Name: "servicenodeports", CreationTimestamp: metav1.Now(), ResourceVersion: current.ResourceVersion}
		}
		return current, nil
	}), nil)
}

// bits are the ports held. Where the range was moved by configuration, ports
// keep their numbers.
func (a *nodePortAllocator) bits(current *corev1.RangeAllocation) *big.Int {
	if current.Range == a.text {
		return new(big.Int).SetBytes(current.Data)
	}
	bits := new(big.Int)
	from, _, _ := strings.Cut(current.Range, "-")
	first, err := strconv.Atoi(from)
	if err != nil {
		return bits
	}
	old := new(big.Int).SetBytes(current.Data)
	for i := range old.BitLen() {
		if p := int32(first + i); old.Bit(i) == 1 && p >= a.first && p <= a.last {
			bits.SetBit(bits, int(p-a.first), 1)
		}
	}
	return bits
}

// release clears ports' bits, even after the request has ended.
func (a *nodePortAllocator) release(ctx context.Context, ports []int32) {
	if len(ports) == 0 {
		return
	}
	err := a.change(context.WithoutCancel(ctx), func(_ *corev1.RangeAllocation, bits *big.Int) error {
		for _, p := range ports {
			if p >= a.first && p <= a.last {
				bits.SetBit(bits, int(p-a.first), 0)
			}
		}
		return nil
	})
	if err != nil {
		slog.Error("release node ports", "ports", ports, "error", err)
	}
}
