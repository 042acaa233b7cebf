package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// limitRanger gives containers the default requests and limits of their
// namespace, and refuses pods and claims outside its bounds.
type limitRanger struct {
	*admission.Handler
	client kubernetes.Interface
	ranges listers.LimitRangeLister

	mu    sync.Mutex
	asked map[string]time.Time // namespace -> when the server was last asked
}

var (
	_ admission.MutationInterface   = (*limitRanger)(nil)
	_ admission.ValidationInterface = (*limitRanger)(nil)
)

const (
	limitAnnotation = "kubernetes.io/limit-ranger"
	// limitPatience is how long a namespace that had no limit ranges when the
	// server was asked is believed to have none unless the informer brings one.
	limitPatience = 30 * time.Second
)

func newLimitRanger(config Config) (admission.Interface, error) {
	informer := config.Informers.Core().V1().LimitRanges()
	p := &limitRanger{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		client:  config.Client,
		ranges:  informer.Lister(),
		asked:   map[string]time.Time{},
	}
	p.SetReadyFunc(informer.Informer().HasSynced)
	return p, nil
}

func (p *limitRanger) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil
	}
	ranges, err := p.rangesFor(ctx, a)
	if err != nil {
		return err
	}
	for _, limits := range ranges {
		setDefaults(pod, limits)
	}
	return nil
}

func (p *limitRanger) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	ranges, err := p.rangesFor(ctx, a)
	if err != nil {
		return err
	}
	for _, limits := range ranges {
		var errs []error
		switch object := a.GetObject().(type) {
		case *corev1.Pod:
			errs = podOutside(object, limits)
		case *corev1.PersistentVolumeClaim:
			errs = claimOutside(object, limits)
		}
		if err := utilerrors.NewAggregate(errs); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

// rangesFor returns the limit ranges that a write has to obey: none for most
// kinds of writes.
func (p *limitRanger) rangesFor(ctx context.Context, a admission.Attributes) ([]*corev1.LimitRange, error) {
	pod := a.GetKind().GroupKind() == corev1.SchemeGroupVersion.WithKind("Pod").GroupKind()
	claim := a.GetKind().GroupKind() == corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim").GroupKind()
	update := a.GetOperation() == admission.Update
	switch {
	case pod && update && a.GetSubresource() == "resize":
	case pod && !update && a.GetSubresource() == "":
	case claim && a.GetSubresource() == "":
	default:
		return nil, nil
	}
	if old := a.GetOldObject(); old != nil {
		accessor, err := meta.Accessor(old)
		if err != nil {
			return nil, admission.NewForbidden(a, err)
		}
		if accessor.GetDeletionTimestamp() != nil {
			return nil, nil
		}
	}
	if !p.WaitForReady() {
		return nil, admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	ranges, err := p.ranges.LimitRanges(a.GetNamespace()).List(labels.Everything())
	if err == nil && len(ranges) == 0 && p.worthAsking(a.GetNamespace()) {
		ranges, err = p.ask(ctx, a.GetNamespace())
	}
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
	}
	slices.SortFunc(ranges, func(x, y *corev1.LimitRange) int { return strings.Compare(x.Name, y.Name) })
	return ranges, nil
}

// worthAsking reports whether the server was not asked lately.
func (p *limitRanger) worthAsking(namespace string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(p.asked, func(_ string, at time.Time) bool { return now.Sub(at) > limitPatience })
	_, lately := p.asked[namespace]
	return !lately
}

// ask lists what the informer may not have yet.
func (p *limitRanger) ask(ctx context.Context, namespace string) ([]*corev1.LimitRange, error) {
	list, err := p.client.CoreV1().LimitRanges(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list limit ranges of %s: %w", namespace, err)
	}
	if len(list.Items) == 0 {
		p.mu.Lock()
		p.asked[namespace] = time.Now()
		p.mu.Unlock()
	}
	ranges := make([]*corev1.LimitRange, len(list.Items))
	for i := range list.Items {
		ranges[i] = &list.Items[i]
	}
	return ranges, nil
}

// setDefaults fills in what containers do not say, and notes it on the pod.
func setDefaults(pod *corev1.Pod, limits *corev1.LimitRange) {
	requests, maxima := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range limits.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(maxima, item.Default)
		}
	}
	var notes []string
	fill := func(list *corev1.ResourceList, defaults corev1.ResourceList, what string) {
		var set []string
		for _, name := range slices.Sorted(maps.Keys(defaults)) {
			if _, given := (*list)[name]; given {
				continue
			}
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[name] = defaults[name].DeepCopy()
			set = append(set, string(name))
		}
		if len(set) > 0 {
			notes = append(notes, strings.Join(set, ", ")+" "+what)
		}
	}
	for _, sort := range []struct {
		name       string
		containers []corev1.Container
	}{{"container", pod.Spec.Containers}, {"init container", pod.Spec.InitContainers}} {
		for i := range sort.containers {
			c := &sort.containers[i]
			fill(&c.Resources.Requests, requests, "request for "+sort.name+" "+c.Name)
			fill(&c.Resources.Limits, maxima, "limit for "+sort.name+" "+c.Name)
		}
	}
	if len(notes) > 0 {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, limitAnnotation, "LimitRanger plugin set: "+strings.Join(notes, "; "))
	}
}

func podOutside(pod *corev1.Pod, limits *corev1.LimitRange) []error {
	var errs []error
	for _, item := range limits.Spec.Limits {
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for i := range containers {
					errs = append(errs, outside(item, containers[i].Resources.Requests, containers[i].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			var options resourcehelper.PodResourcesOptions
			errs = append(errs, outside(item, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))...)
		}
	}
	return errs
}

// claimOutside looks at requests alone: claims have no limits.
func claimOutside(claim *corev1.PersistentVolumeClaim, limits *corev1.LimitRange) []error {
	var errs []error
	for _, item := range limits.Spec.Limits {
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		requests := claim.Spec.Resources.Requests
		errs = append(errs, belowMinimum(item, requests, nil)...)
		for _, name := range slices.Sorted(maps.Keys(item.Max)) {
			bound := item.Max[name]
			request, ok := requests[name]
			switch {
			case !ok:
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, item.Type, bound.String()))
			case request.Cmp(bound) > 0:
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), request.String()))
			}
		}
	}
	return errs
}

func outside(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	errs := belowMinimum(item, requests, limits)
	for _, name := range slices.Sorted(maps.Keys(item.Max)) {
		bound := item.Max[name]
		request, requested := requests[name]
		limit, limited := limits[name]
		switch {
		case !limited:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, item.Type, bound.String()))
		case limit.Cmp(bound) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, item.Type, bound.String(), limit.String()))
		case requested && request.Cmp(bound) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), request.String()))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(item.MaxLimitRequestRatio)) {
		if err := aboveRatio(item, name, requests[name], limits[name]); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func belowMinimum(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(item.Min)) {
		bound := item.Min[name]
		request, requested := requests[name]
		limit, limited := limits[name]
		switch {
		case !requested:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, item.Type, bound.String()))
		case request.Cmp(bound) < 0:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), request.String()))
		case limited && limit.Cmp(bound) < 0:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, item.Type, bound.String(), limit.String()))
		}
	}
	return errs
}

func aboveRatio(item corev1.LimitRangeItem, name corev1.ResourceName, request, limit resource.Quantity) error {
	bound := item.MaxLimitRequestRatio[name]
	if request.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, item.Type, bound.String())
	}
	if limit.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, item.Type, bound.String())
	}
	ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64()
	if ratio > bound.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, item.Type, bound.String(), ratio)
	}
	return nil
}
