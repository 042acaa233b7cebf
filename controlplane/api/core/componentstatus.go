package core

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

// componentStatusKind is the old view of the control plane's health: objects
// that are made when they are read, and never stored.
type componentStatusKind struct{}

func (componentStatusKind) Name() schema.GroupVersionKind {
	return groupVersion.WithKind("ComponentStatus")
}

func (componentStatusKind) GroupVersionResource() schema.GroupVersionResource {
	return groupVersion.WithResource("componentstatuses")
}

// Register implements api.Kind; the published types are all there is.
func (componentStatusKind) Register(*runtime.Scheme) error { return nil }

func (componentStatusKind) Storages(env *api.Environment) (map[string]rest.Storage, error) {
	return map[string]rest.Storage{"componentstatuses": &componentStatuses{env: env}}, nil
}

// componentStatuses finds out how the components are: etcd by the API server's
// own check of it, scheduler and controllers by the lease their leader holds.
type componentStatuses struct{ env *api.Environment }

var (
	_ rest.Getter               = (*componentStatuses)(nil)
	_ rest.Lister               = (*componentStatuses)(nil)
	_ rest.Scoper               = (*componentStatuses)(nil)
	_ rest.SingularNameProvider = (*componentStatuses)(nil)
	_ rest.ShortNamesProvider   = (*componentStatuses)(nil)
)

// components maps what clients know the components by to the leases of ours;
// etcd has none.
var components = []struct{ name, lease string }{
	{"controller-manager", "kube-controller-manager"}, {"scheduler", "kube-scheduler"}, {"etcd-0", ""},
}

func (*componentStatuses) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (*componentStatuses) NewList() runtime.Object { return &corev1.ComponentStatusList{} }
func (*componentStatuses) Destroy()                {}
func (*componentStatuses) NamespaceScoped() bool   { return false }
func (*componentStatuses) GetSingularName() string { return "componentstatus" }
func (*componentStatuses) ShortNames() []string    { return []string{"cs"} }

// Get implements rest.Getter.
func (c *componentStatuses) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	for _, known := range components {
		if known.name == name {
			return c.status(ctx, known.name, known.lease), nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "componentstatus"}, name)
}

// List implements rest.Lister.
func (c *componentStatuses) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	list := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{}}
	for _, known := range components {
		if options != nil {
			if s := options.LabelSelector; s != nil && !s.Matches(labels.Set{}) {
				continue
			}
			if s := options.FieldSelector; s != nil && !s.Matches(fields.Set{"metadata.name": known.name}) {
				continue
			}
		}
		list.Items = append(list.Items, *c.status(ctx, known.name, known.lease))
	}
	return list, nil
}

func (c *componentStatuses) status(ctx context.Context, name, lease string) *corev1.ComponentStatus {
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	check := c.leads
	if lease == "" {
		check = c.etcd
	}
	if err := check(ctx, lease); err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", err.Error()
	}
	return &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{condition}}
}

func (c *componentStatuses) etcd(ctx context.Context, _ string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := c.env.Client.Discovery().RESTClient().Get().AbsPath("/livez/etcd").Do(ctx).Error(); err != nil {
		return fmt.Errorf("check etcd: %w", err)
	}
	return nil
}

// leads checks that somebody holds a lease.
func (c *componentStatuses) leads(ctx context.Context, name string) error {
	leases, err := getter(c.env, "coordination.k8s.io/leases")
	if err != nil {
		return err
	}
	object, err := leases.Get(request.WithNamespace(ctx, metav1.NamespaceSystem), name, &metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read lease %s: %w", name, err)
	}
	lease, ok := object.(*coordinationv1.Lease)
	if !ok {
		return fmt.Errorf("read lease %s: got %T", name, object)
	}
	held := time.Duration(ptr.Deref(lease.Spec.LeaseDurationSeconds, 0)) * time.Second
	switch {
	case ptr.Deref(lease.Spec.HolderIdentity, "") == "" || lease.Spec.RenewTime == nil:
		return fmt.Errorf("nobody holds lease %s", name)
	case time.Since(lease.Spec.RenewTime.Time) > 2*held:
		return fmt.Errorf("lease %s was last renewed at %s", name, lease.Spec.RenewTime.UTC().Format(time.RFC3339))
	}
	return nil
}

var componentColumns = []metav1.TableColumnDefinition{
	columns.Name(), columns.Text("Status", "Status of the component conditions"),
	columns.Text("Message", "Message of the component conditions"), columns.Text("Error", "Error of the component conditions"),
}

// ConvertToTable implements rest.TableConvertor.
func (c *componentStatuses) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	var items []corev1.ComponentStatus
	switch o := object.(type) {
	case *corev1.ComponentStatus:
		items = []corev1.ComponentStatus{*o}
	case *corev1.ComponentStatusList:
		items = o.Items
	default:
		return nil, fmt.Errorf("print table: want ComponentStatus, got %T", object)
	}
	table := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		table.ColumnDefinitions = componentColumns
	}
	for i := range items {
		status, message, fault := "Unknown", "", ""
		for _, condition := range items[i].Conditions {
			if condition.Type == corev1.ComponentHealthy {
				status, message, fault = "Unhealthy", condition.Message, condition.Error
				if condition.Status == corev1.ConditionTrue {
					status = "Healthy"
				}
			}
		}
		table.Rows = append(table.Rows, metav1.TableRow{
			Cells: []any{items[i].Name, status, message, fault}, Object: runtime.RawExtension{Object: &items[i]},
		})
	}
	return table, nil
}
