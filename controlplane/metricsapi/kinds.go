package metricsapi

import (
	"context"
	"errors"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

// Kinds are NodeMetrics and PodMetrics, measured by one collector.
func Kinds() []api.Kind {
	shared := &measuring{}
	return []api.Kind{
		&kind{shared, "NodeMetrics", "nodes", false},
		&kind{shared, "PodMetrics", "pods", true},
	}
}

// measuring makes the collector once the environment is there.
type measuring struct {
	once      sync.Once
	collector *collector
}

func (m *measuring) with(env *api.Environment) *collector {
	m.once.Do(func() { m.collector = newCollector(env.Nodes) })
	return m.collector
}

type kind struct {
	measuring  *measuring
	name       string
	resource   string // of this group, and of the objects of the core group that it measures
	namespaced bool
}

func (k *kind) Name() schema.GroupVersionKind {
	return metricsv1beta1.SchemeGroupVersion.WithKind(k.name)
}

func (k *kind) GroupVersionResource() schema.GroupVersionResource {
	return metricsv1beta1.SchemeGroupVersion.WithResource(k.resource)
}

// Register implements api.Kind: the whole group, once.
func (k *kind) Register(scheme *runtime.Scheme) error {
	if scheme.Recognizes(k.Name()) {
		return nil
	}
	if err := metricsv1beta1.AddToScheme(scheme); err != nil {
		return err
	}
	scheme.AddKnownTypes(schema.GroupVersion{Group: metricsv1beta1.GroupName, Version: runtime.APIVersionInternal},
		&metricsv1beta1.NodeMetrics{}, &metricsv1beta1.NodeMetricsList{}, &metricsv1beta1.PodMetrics{}, &metricsv1beta1.PodMetricsList{})
	return nil
}

func (k *kind) Storages(env *api.Environment) (map[string]rest.Storage, error) {
	return map[string]rest.Storage{k.resource: &metrics{kind: k, env: env, collector: k.measuring.with(env)}}, nil
}

// metrics serves one of the kinds, for the objects that the core group's store
// has: that store knows of selectors, and of what exists.
type metrics struct {
	*kind
	env       *api.Environment
	collector *collector
}

var (
	_ rest.Getter               = (*metrics)(nil)
	_ rest.Lister               = (*metrics)(nil)
	_ rest.Scoper               = (*metrics)(nil)
	_ rest.SingularNameProvider = (*metrics)(nil)
)

func (m *metrics) New() runtime.Object {
	if m.namespaced {
		return &metricsv1beta1.PodMetrics{}
	}
	return &metricsv1beta1.NodeMetrics{}
}

func (m *metrics) NewList() runtime.Object {
	if m.namespaced {
		return &metricsv1beta1.PodMetricsList{}
	}
	return &metricsv1beta1.NodeMetricsList{}
}

func (m *metrics) Destroy()                {}
func (m *metrics) NamespaceScoped() bool   { return m.namespaced }
func (m *metrics) GetSingularName() string { return "" } // those of metrics-server have none

// Get implements rest.Getter.
func (m *metrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	missing := apierrors.NewNotFound(m.GroupVersionResource().GroupResource(), name)
	store, ok := m.env.Lookup("/" + m.resource).(rest.Getter)
	if !ok {
		return nil, missing
	}
	object, err := store.Get(ctx, name, &metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	used, err := m.measure(ctx)
	if err != nil {
		return nil, err
	}
	switch o := object.(type) {
	case *corev1.Node:
		if found, ok := nodeMetrics(o, used); ok {
			return &found, nil
		}
	case *corev1.Pod:
		if found, ok := podMetrics(o, used); ok {
			return &found, nil
		}
	}
	return nil, missing
}

// List implements rest.Lister. What has not been measured is left out.
func (m *metrics) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	wanted := &internalversion.ListOptions{ResourceVersion: "0"}
	if options != nil {
		wanted.LabelSelector, wanted.FieldSelector = options.LabelSelector, options.FieldSelector
	}
	objects, err := m.list(ctx, m.resource, wanted)
	if err != nil {
		return nil, err
	}
	used, err := m.measure(ctx)
	if err != nil {
		return nil, err
	}
	switch o := objects.(type) {
	case *corev1.NodeList:
		list := &metricsv1beta1.NodeMetricsList{Items: []metricsv1beta1.NodeMetrics{}}
		for i := range o.Items {
			if found, ok := nodeMetrics(&o.Items[i], used); ok {
				list.Items = append(list.Items, found)
			}
		}
		return list, nil
	case *corev1.PodList:
		list := &metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{}}
		for i := range o.Items {
			if found, ok := podMetrics(&o.Items[i], used); ok {
				list.Items = append(list.Items, found)
			}
		}
		return list, nil
	}
	return m.NewList(), nil
}

func (m *metrics) list(ctx context.Context, resource string, options *internalversion.ListOptions) (runtime.Object, error) {
	store, ok := m.env.Lookup("/" + resource).(rest.Lister)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New(resource + " are not served"))
	}
	return store.List(ctx, options)
}

// measure measures on every node that is known to be alive.
func (m *metrics) measure(ctx context.Context) (map[subject]use, error) {
	used, err := m.collector.uses(ctx, func(ctx context.Context) ([]types.NodeName, error) {
		objects, err := m.list(request.WithNamespace(ctx, metav1.NamespaceNone), "nodes", &internalversion.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return nil, err
		}
		var names []types.NodeName
		err = meta.EachListItem(objects, func(o runtime.Object) error {
			if node, ok := o.(*corev1.Node); ok && alive(node) {
				names = append(names, types.NodeName(node.Name))
			}
			return nil
		})
		return names, err
	})
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	return used, nil
}

// alive reports whether a node's agent may be expected to answer.
func alive(node *corev1.Node) bool {
	return !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown
	})
}

func nodeMetrics(node *corev1.Node, used map[subject]use) (metricsv1beta1.NodeMetrics, bool) {
	u, ok := used[subject{name: node.Name}]
	return metricsv1beta1.NodeMetrics{
		ObjectMeta: objectMeta(node),
		Timestamp:  metav1.NewTime(u.at), Window: metav1.Duration{Duration: u.window}, Usage: u.usage,
	}, ok
}

// podMetrics are those of a running pod of which every container that runs has
// been measured: half of its use would make it look idle.
func podMetrics(pod *corev1.Pod, used map[subject]use) (metricsv1beta1.PodMetrics, bool) {
	found := metricsv1beta1.PodMetrics{ObjectMeta: objectMeta(pod), Containers: []metricsv1beta1.ContainerMetrics{}}
	if pod.Status.Phase != corev1.PodRunning {
		return found, false
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if c.State.Running == nil {
			continue
		}
		u, ok := used[subject{pod.UID, c.Name}]
		if !ok {
			return found, false
		}
		if u.at.After(found.Timestamp.Time) {
			found.Timestamp, found.Window = metav1.NewTime(u.at), metav1.Duration{Duration: u.window}
		}
		found.Containers = append(found.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: u.usage})
	}
	return found, len(found.Containers) > 0
}

// objectMeta is what metrics have of whom they measure. They are as old as the
// answer.
func objectMeta(of metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: of.GetName(), Namespace: of.GetNamespace(), Labels: of.GetLabels(), CreationTimestamp: metav1.Now()}
}

// ConvertToTable implements rest.TableConvertor.
func (m *metrics) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		columns.Name(), columns.Text("cpu", "Use of processors"), columns.Text("memory", "Working set"), columns.Text("Window", "Time that the use of processors was measured over"),
	}}
	row := func(o runtime.Object) error {
		var cells []any
		switch o := o.(type) {
		case *metricsv1beta1.NodeMetrics:
			cells = []any{o.Name, o.Usage.Cpu().String(), o.Usage.Memory().String(), o.Window.Duration.String()}
		case *metricsv1beta1.PodMetrics:
			var c, b resource.Quantity
			for _, container := range o.Containers {
				c.Add(*container.Usage.Cpu())
				b.Add(*container.Usage.Memory())
			}
			cells = []any{o.Name, c.String(), b.String(), o.Window.Duration.String()}
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: o}})
		return nil
	}
	if !meta.IsListType(object) {
		err := row(object)
		return table, err
	}
	err := meta.EachListItem(object, row)
	return table, err
}
