package core

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

func newVolume(edit func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
	}}
	if edit != nil {
		edit(v)
	}
	defaultVolumeObject(v)
	return v
}

func nodeAffinity(key string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}},
	}}}}
}

func TestValidateVolume(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*corev1.PersistentVolume)
		want []string
	}{
		{"sound", nil, []string{}},
		{"nothing", func(v *corev1.PersistentVolume) { v.Spec = corev1.PersistentVolumeSpec{} }, []string{
			"spec.accessModes: Required value", "spec.capacity: Required value",
			`spec.capacity: Unsupported value: null: supported values: "storage"`, "spec: Required value: must specify a volume type"}},
		{"modes", func(v *corev1.PersistentVolume) {
			v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteOncePod)
		},
			[]string{"spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"}},
		{"policy", func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = "Burn" },
			[]string{`spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain"`}},
		{"no size", func(v *corev1.PersistentVolume) { v.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("0") },
			[]string{`spec.capacity[storage]: Invalid value: "0": must be greater than zero`}},
		{"two sources", func(v *corev1.PersistentVolume) { v.Spec.NFS = &corev1.NFSVolumeSource{} },
			[]string{"spec.nfs: Forbidden: may not specify more than 1 volume type"}},
		{"local", func(v *corev1.PersistentVolume) {
			v.Spec.HostPath, v.Spec.Local = nil, &corev1.LocalVolumeSource{Path: "/a/../b"}
		}, []string{`spec.local.path: Invalid value: "/a/../b": must not contain '..'`, "spec.nodeAffinity: Required value: Local volume requires node affinity"}},
		{"no affinity", func(v *corev1.PersistentVolume) { v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{} },
			[]string{"spec.nodeAffinity.required: Required value: must specify required node constraints"}},
		{"recycled root", func(v *corev1.PersistentVolume) {
			v.Spec.HostPath.Path, v.Spec.PersistentVolumeReclaimPolicy = "/", corev1.PersistentVolumeReclaimRecycle
		}, []string{"spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"}},
		{"csi", func(v *corev1.PersistentVolume) {
			v.Spec.HostPath, v.Spec.CSI = nil, &corev1.CSIPersistentVolumeSource{NodePublishSecretRef: &corev1.SecretReference{Name: "s"}}
		}, []string{"spec.csi.driver: Required value", "spec.csi.volumeHandle: Required value", "spec.csi.nodePublishSecretRef.namespace: Required value"}},
		{"attributes class", func(v *corev1.PersistentVolume) { v.Spec.VolumeAttributesClassName = ptr.To("") }, []string{
			"spec.volumeAttributesClassName: Required value: an empty string is disallowed",
			"spec.csi: Required value: has to be specified when using volumeAttributesClassName"}},
		{"mount options", func(v *corev1.PersistentVolume) {
			v.Annotations = map[string]string{corev1.MountOptionAnnotation: "ro"}
		},
			[]string{"metadata.annotations.volume.beta.kubernetes.io/mount-options: Forbidden: may not specify mount options for this volume type"}},
	} {
		if diff := cmp.Diff(test.want, texts(validateVolumeObject(newVolume(test.edit)))); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
	inline := &corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{}, AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}}
	want := []string{"i.claimRef: Forbidden: may not be specified in the context of inline volumes", "i.csi: Required value: has to be specified in the context of inline volumes", "i: Required value: must specify a volume type"}
	if diff := cmp.Diff(want, texts(ValidateInlineVolume(inline, field.NewPath("i")))); diff != "" {
		t.Error(diff)
	}
}

func TestValidateVolumeUpdate(t *testing.T) {
	for _, test := range []struct {
		name     string
		old, now func(*corev1.PersistentVolume)
		want     string
	}{
		{"nothing", nil, nil, ""},
		{"labels move on", func(v *corev1.PersistentVolume) {
			v.Spec.NodeAffinity = nodeAffinity(corev1.LabelFailureDomainBetaZone)
		},
			func(v *corev1.PersistentVolume) { v.Spec.NodeAffinity = nodeAffinity(corev1.LabelTopologyZone) }, ""},
		{"affinity comes", nil, func(v *corev1.PersistentVolume) { v.Spec.NodeAffinity = nodeAffinity("a") }, ""},
		{"affinity changes", func(v *corev1.PersistentVolume) { v.Spec.NodeAffinity = nodeAffinity("a") },
			func(v *corev1.PersistentVolume) { v.Spec.NodeAffinity = nodeAffinity("b") }, "field is immutable, except for updating from beta label to GA"},
		{"source", nil, func(v *corev1.PersistentVolume) { v.Spec.HostPath.Path = "/x" }, "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"},
		{"mode", nil, func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }, `volumeMode: Invalid value: "Block": field is immutable`},
	} {
		got := texts(validateVolumeUpdate(newVolume(test.now), newVolume(test.old)))
		if test.want == "" && len(got) > 0 || test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	now, old := newVolume(nil), newVolume(nil)
	now.Status.Phase = corev1.VolumeBound
	stampPhase(context.Background(), now, old)
	if now.Status.LastPhaseTransitionTime == nil {
		t.Error("the time of a transition is not kept")
	}
}

func newClaim(edit func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "n"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}},
	}}
	if edit != nil {
		edit(c)
	}
	defaultClaim(c)
	return c
}

func TestValidateClaimUpdate(t *testing.T) {
	type claim = *corev1.PersistentVolumeClaim
	size := func(q string) func(claim) {
		return func(c claim) { c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(q) }
	}
	bound := func(more func(claim)) func(claim) {
		return func(c claim) {
			c.Spec.VolumeName, c.Status.Phase = "v", corev1.ClaimBound
			c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
			if more != nil {
				more(c)
			}
		}
	}
	for _, test := range []struct {
		name     string
		old, now func(claim)
		want     string
	}{
		{"binding", nil, func(c claim) { c.Spec.VolumeName = "v" }, ""},
		{"binding again", bound(nil), bound(func(c claim) { c.Spec.VolumeName = "w" }), "spec: Forbidden: spec is immutable after creation"},
		{"growing", bound(nil), bound(size("3Gi")), ""},
		{"growing unbound", nil, size("3Gi"), "spec: Forbidden: spec is immutable after creation"},
		{"shrinking after a failure", bound(nil), bound(size("1500Mi")), ""},
		{"shrinking", bound(nil), bound(size("1Gi")), "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"},
		{"class comes", nil, func(c claim) { c.Spec.StorageClassName = ptr.To("x") }, ""},
		{"class changes", func(c claim) { c.Spec.StorageClassName = ptr.To("y") }, func(c claim) { c.Spec.StorageClassName = ptr.To("x") }, "spec: Forbidden: spec is immutable"},
		{"annotation becomes field", func(c claim) { c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "x"} }, func(c claim) { c.Spec.StorageClassName = ptr.To("x") }, ""},
		{"annotation goes", func(c claim) { c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "x"} }, nil,
			`metadata.annotations[volume.beta.kubernetes.io/storage-class]: Invalid value: "": field is immutable`},
		{"attributes", bound(nil), bound(func(c claim) { c.Spec.VolumeAttributesClassName = ptr.To("gold") }), ""},
		{"attributes go", bound(func(c claim) {
			c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName = ptr.To("gold"), ptr.To("gold")
		}), bound(nil), "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"},
	} {
		got := texts(validateClaimUpdate(newClaim(test.now), newClaim(test.old)))
		if test.want == "" && len(got) > 0 || test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestClaimDataSource(t *testing.T) {
	for kind, kept := range map[string]bool{"PersistentVolumeClaim": true, "Other": false} {
		c := newClaim(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: kind, Name: "s"}
		})
		normalizeDataSource(&c.Spec, nil)
		if (c.Spec.DataSource != nil) != kept || (c.Spec.DataSourceRef != nil) != kept {
			t.Errorf("%s: %+v, %+v", kind, c.Spec.DataSource, c.Spec.DataSourceRef)
		}
	}
	c := newClaim(func(c *corev1.PersistentVolumeClaim) {
		c.Spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: ptr.To("example.com"), Kind: "Own", Name: "s"}
	})
	normalizeDataSource(&c.Spec, nil)
	if s := c.Spec.DataSource; s == nil || s.Kind != "Own" || *s.APIGroup != "example.com" {
		t.Errorf("source %+v", s)
	}
}

func TestValidateClaimStatus(t *testing.T) {
	got := texts(validateClaimStatus(&corev1.PersistentVolumeClaimStatus{
		Capacity:                  corev1.ResourceList{"storage": resource.MustParse("-1")},
		AllocatedResourceStatuses: map[corev1.ResourceName]corev1.ClaimResourceStatus{"cpu": corev1.PersistentVolumeClaimNodeResizePending, "storage": "Odd"},
		AllocatedResources:        corev1.ResourceList{"example.com/x": resource.MustParse("1")},
	}))
	want := []string{
		"status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
		`status.allocatedResourceStatuses: Unsupported value: "cpu": supported values: "storage"`,
		`status.allocatedResourceStatuses: Unsupported value: "storage": supported values: "ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLimitRange(t *testing.T) {
	q := resource.MustParse
	list := func(name, amount string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceName(name): q(amount)}
	}
	for _, test := range []struct {
		item corev1.LimitRangeItem
		want []string
	}{
		{corev1.LimitRangeItem{Type: "Container", Max: list("cpu", "2"), Min: list("cpu", "1")}, []string{}},
		{corev1.LimitRangeItem{Type: "Odd"}, []string{`spec.limits[0].type: Invalid value: "Odd": must be a standard limit type or fully qualified`}},
		{corev1.LimitRangeItem{Type: "Container", Max: list("cpu", "1"), Min: list("cpu", "2"), Default: list("cpu", "1"), DefaultRequest: list("cpu", "1")}, []string{
			`spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1`,
			`spec.limits[0].defaultRequest[cpu]: Invalid value: "1": min value 2 is greater than default request value 1`,
			`spec.limits[0].default[cpu]: Invalid value: "2": min value 2 is greater than default value 1`}},
		{corev1.LimitRangeItem{Type: "Pod", Default: list("cpu", "1")}, []string{"spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"}},
		{corev1.LimitRangeItem{Type: "PersistentVolumeClaim"}, []string{"spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"}},
		{corev1.LimitRangeItem{Type: "Pod", Max: list("cpu", "2"), Min: list("cpu", "1"), MaxLimitRequestRatio: list("cpu", "3")},
			[]string{`spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000`}},
		{corev1.LimitRangeItem{Type: "Pod", MaxLimitRequestRatio: list("cpu", "500m")}, []string{`spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1`}},
		{corev1.LimitRangeItem{Type: "Pod", Max: list("storage", "1")}, []string{`spec.limits[0].max[storage]: Invalid value: "storage": must be a standard resource for containers`}},
	} {
		l := &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{test.item}}}
		defaultLimit(&l.Spec.Limits[0])
		if diff := cmp.Diff(test.want, texts(validateLimitRange(l))); diff != "" {
			t.Error(diff)
		}
	}
	item := corev1.LimitRangeItem{Type: "Container", Max: list("cpu", "2"), Min: list("memory", "1")}
	defaultLimit(&item)
	if limit, request := item.Default["cpu"], item.DefaultRequest["memory"]; limit.Cmp(q("2")) != 0 || request.Cmp(q("1")) != 0 || len(item.DefaultRequest) != 2 {
		t.Errorf("defaulted to %+v", item)
	}
}

func TestValidateQuota(t *testing.T) {
	hard := func(name, amount string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceName(name): resource.MustParse(amount)}
	}
	for _, test := range []struct {
		spec corev1.ResourceQuotaSpec
		want []string
	}{
		{corev1.ResourceQuotaSpec{Hard: hard("count/deployments.apps", "3")}, []string{}},
		{corev1.ResourceQuotaSpec{Hard: hard("pods", "1500m")}, []string{`spec.hard[pods]: Invalid value: "1500m": must be an integer`}},
		{corev1.ResourceQuotaSpec{Hard: hard("storage", "1")}, []string{`spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota`}},
		{corev1.ResourceQuotaSpec{Hard: hard("cpu", "-1")}, []string{`spec.hard[cpu]: Invalid value: "-1": must be greater than or equal to 0`}},
		{corev1.ResourceQuotaSpec{Hard: hard("pods", "1"), Scopes: []corev1.ResourceQuotaScope{"BestEffort", "NotBestEffort"}},
			[]string{`spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes`}},
		{corev1.ResourceQuotaSpec{Hard: hard("cpu", "1"), Scopes: []corev1.ResourceQuotaScope{"BestEffort"}},
			[]string{`spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource`}},
		{corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: "PriorityClass", Operator: "In"}, {ScopeName: "Odd", Operator: "Exists"}}}}, []string{
			"spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
			`spec.scopeSelector.matchExpressions.scopeName: Invalid value: "Odd": unsupported scope`}},
	} {
		if diff := cmp.Diff(test.want, texts(validateQuota(&test.spec))); diff != "" {
			t.Error(diff)
		}
	}
	row := quotaRow(&corev1.ResourceQuota{Status: corev1.ResourceQuotaStatus{
		Hard: corev1.ResourceList{"limits.cpu": resource.MustParse("2"), "pods": resource.MustParse("3")}, Used: hard("pods", "1"),
	}})
	if row[1] != "pods: 1/3" || row[2] != "limits.cpu: 0/2" {
		t.Errorf("row %q", row)
	}
}

// leases answers as the store of leases does.
type leases struct {
	rest.Storage
	held map[string]*coordinationv1.Lease
}

func (l leases) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if held := l.held[name]; held != nil {
		return held, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, name)
}

func TestComponentStatus(t *testing.T) {
	lease := func(age time.Duration) *coordinationv1.Lease {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To("a"), LeaseDurationSeconds: ptr.To[int32](3), RenewTime: &metav1.MicroTime{Time: time.Now().Add(-age)},
		}}
	}
	held := map[string]*coordinationv1.Lease{"kube-scheduler": lease(time.Second)}
	c := &componentStatuses{env: &api.Environment{Lookup: func(string) rest.Storage { return leases{held: held} }}}
	health := func(name string) corev1.ComponentCondition {
		got, err := c.Get(context.Background(), name, nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.(*corev1.ComponentStatus).Conditions[0]
	}
	if got := health("scheduler"); got.Status != corev1.ConditionTrue || got.Message != "ok" {
		t.Errorf("scheduler %+v", got)
	}
	held["kube-scheduler"] = lease(time.Minute)
	if got := health("scheduler"); got.Status != corev1.ConditionFalse || !strings.Contains(got.Error, "last renewed") {
		t.Errorf("dead scheduler %+v", got)
	}
	if got := health("controller-manager"); got.Status != corev1.ConditionFalse || !strings.Contains(got.Error, "not found") {
		t.Errorf("missing controllers %+v", got)
	}
	if _, err := c.Get(context.Background(), "x", nil); !apierrors.IsNotFound(err) {
		t.Errorf("unknown component: %v", err)
	}
}
