package storage

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

var ctx = context.Background()

// check compares the faults of a new object, after defaulting, and its table's
// width.
func check[T api.Object](t *testing.T, d api.Definition[T], obj T, want ...string) {
	t.Helper()
	if d.Default != nil {
		d.Default(obj)
	}
	compare(t, d.Validate(ctx, obj), want...)
	if d.Row == nil {
		return // the columns of any object
	}
	if row := d.Row(obj); len(row) != len(d.Columns) {
		t.Errorf("%s: %d columns, %d cells", d.Kind, len(d.Columns), len(row))
	}
}

func compare(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var got []string
	for _, err := range errs {
		got = append(got, err.Error())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStorageClass(t *testing.T) {
	check(t, storageClass, &storagev1.StorageClass{Provisioner: "csi.example.com"})
	check(t, storageClass, &storagev1.StorageClass{}, "provisioner: Required value")
	check(t, storageClass, &storagev1.StorageClass{
		Provisioner: "p", ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimRecycle), VolumeBindingMode: ptr.To(storagev1.VolumeBindingMode("Late")),
		Parameters: map[string]string{"": "x"},
		AllowedTopologies: []corev1.TopologySelectorTerm{
			{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "z", Values: []string{"a", "a"}}, {Key: "z"}}},
			{},
		},
	}, `parameters: Invalid value: "": field can not be empty.`,
		`reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"`,
		`volumeBindingMode: Unsupported value: "Late": supported values: "Immediate", "WaitForFirstConsumer"`,
		`allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a"`,
		"allowedTopologies[0].matchLabelExpressions[1].values: Required value",
		`allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: "z"`,
		`allowedTopologies[1].matchLabelExpressions: Duplicate value: ""`)
	check(t, storageClass, &storagev1.StorageClass{Provisioner: "p", Parameters: map[string]string{"a": strings.Repeat("x", maxParameterSize)}},
		"parameters: Too long: may not be more than 262144 bytes")

	old := &storagev1.StorageClass{Provisioner: "p"}
	storageClass.Default(old)
	now := old.DeepCopy()
	now.Provisioner, now.AllowVolumeExpansion = "q", ptr.To(true)
	compare(t, storageClass.ValidateUpdate(ctx, now, old), `provisioner: Invalid value: "q": field is immutable`)

	old.Name, old.Annotations = "c", map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	if row := storageClass.Row(old); row[0] != "c (default)" || row[4] != false {
		t.Errorf("row %v", row)
	}
	old.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "beta.kubernetes.io/os"}}}}
	want := []string{`allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.14; use "kubernetes.io/os" instead`}
	if diff := cmp.Diff(want, storageClass.Warnings(ctx, old, nil)); diff != "" {
		t.Error(diff)
	}
}

func TestVolumeAttributesClass(t *testing.T) {
	check(t, volumeAttributesClass, &storagev1.VolumeAttributesClass{DriverName: "d", Parameters: map[string]string{"iops": "1"}})
	check(t, volumeAttributesClass, &storagev1.VolumeAttributesClass{}, "driverName: Required value", "parameters: Required value: must contain at least one key/value pair")
	old := &storagev1.VolumeAttributesClass{DriverName: "d", Parameters: map[string]string{"a": "b"}}
	now := &storagev1.VolumeAttributesClass{DriverName: "e", Parameters: map[string]string{"a": "c"}}
	compare(t, volumeAttributesClass.ValidateUpdate(ctx, now, old),
		"driverName: Forbidden: updates to driverName are forbidden.", "parameters: Forbidden: updates to parameters are forbidden.")
}

func attachment(edit func(*storagev1.VolumeAttachment)) *storagev1.VolumeAttachment {
	a := &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{
		Attacher: "csi.example.com", NodeName: "n", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("v")},
	}}
	edit(a)
	return a
}

func TestVolumeAttachment(t *testing.T) {
	check(t, volumeAttachment, attachment(func(*storagev1.VolumeAttachment) {}))
	check(t, volumeAttachment, attachment(func(a *storagev1.VolumeAttachment) { a.Spec.Source.PersistentVolumeName = nil }),
		"spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	check(t, volumeAttachment, attachment(func(a *storagev1.VolumeAttachment) {
		a.Spec.Attacher, a.Spec.Source.InlineVolumeSpec = "", &corev1.PersistentVolumeSpec{}
	}), "spec.attacher: Required value", "spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	check(t, volumeAttachment, attachment(func(a *storagev1.VolumeAttachment) {
		a.Spec.Source = storagev1.VolumeAttachmentSource{InlineVolumeSpec: &corev1.PersistentVolumeSpec{}}
	}), "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes",
		"spec.source.inlineVolumeSpec.accessModes: Required value", "spec.source.inlineVolumeSpec: Required value: must specify a volume type")
	check(t, volumeAttachment, attachment(func(a *storagev1.VolumeAttachment) {
		a.Status.AttachError = &storagev1.VolumeError{Message: strings.Repeat("x", 1025), ErrorCode: ptr.To[int32](-1)}
	}), "status.attachError.message: Too long: may not be more than 1024 bytes",
		"status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive")
	moved := attachment(func(a *storagev1.VolumeAttachment) { a.Spec.NodeName = "m" })
	if errs := volumeAttachment.ValidateUpdate(ctx, moved, attachment(func(*storagev1.VolumeAttachment) {})); len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "spec: Invalid value: ") || !strings.HasSuffix(errs[0].Error(), "field is immutable") {
		t.Errorf("moved: %v", errs)
	}
}

func TestCSIDriver(t *testing.T) {
	driver := &storagev1.CSIDriver{}
	check(t, csiDriver, driver)
	if !*driver.Spec.AttachRequired || *driver.Spec.PodInfoOnMount || *driver.Spec.FSGroupPolicy != storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy || driver.Spec.VolumeLifecycleModes[0] != storagev1.VolumeLifecyclePersistent {
		t.Errorf("defaulted to %+v", driver.Spec)
	}
	check(t, csiDriver, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{
		FSGroupPolicy:                      ptr.To(storagev1.FSGroupPolicy("Some")),
		TokenRequests:                      []storagev1.TokenRequest{{Audience: "a", ExpirationSeconds: ptr.To[int64](1)}, {Audience: "a"}},
		VolumeLifecycleModes:               []storagev1.VolumeLifecycleMode{"Eternal"},
		NodeAllocatableUpdatePeriodSeconds: ptr.To[int64](9),
	}}, `spec.fsGroupPolicy: Unsupported value: "Some": supported values: "File", "None", "ReadWriteOnceWithFSType"`,
		"spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
		`spec.tokenRequests[1].audience: Duplicate value: "a"`,
		`spec.volumeLifecycleModes: Unsupported value: "Eternal": supported values: "Persistent", "Ephemeral"`,
		"spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds")
	check(t, csiDriver, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{ServiceAccountTokenInSecrets: ptr.To(true)}},
		"spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests are specified")
	now := driver.DeepCopy()
	now.Spec.AttachRequired = ptr.To(false)
	compare(t, csiDriver.ValidateUpdate(ctx, now, driver), "spec.attachedRequired: Invalid value: false: field is immutable")
	csiDriver.PrepareForUpdate(ctx, now, driver)
	if now.Generation != driver.Generation+1 {
		t.Errorf("generation %d", now.Generation)
	}
	now.Spec.TokenRequests = []storagev1.TokenRequest{{}}
	if len(csiDriver.Warnings(ctx, now, driver)) != 1 || len(csiDriver.Warnings(ctx, now, now)) != 0 {
		t.Error("want a warning about tokens when they change, and only then")
	}
}

func TestCSINode(t *testing.T) {
	drivers := func(list ...storagev1.CSINodeDriver) *storagev1.CSINode {
		return &storagev1.CSINode{Spec: storagev1.CSINodeSpec{Drivers: list}}
	}
	check(t, csiNode, drivers(storagev1.CSINodeDriver{Name: "d", NodeID: "n", TopologyKeys: []string{"example.com/zone"}}))
	check(t, csiNode, drivers(
		storagev1.CSINodeDriver{NodeID: strings.Repeat("x", 257), Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To[int32](-1)}},
		storagev1.CSINodeDriver{Name: "d"}, storagev1.CSINodeDriver{Name: "d", NodeID: "n", TopologyKeys: []string{"a", "a"}},
	), "spec.drivers[0].name: Required value",
		`spec.drivers[0].nodeID: Invalid value: "`+strings.Repeat("x", 257)+`": must be 256 characters or less`,
		"spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
		"spec.drivers[1].nodeID: Required value", `spec.drivers[2].name: Duplicate value: "d"`, `spec.drivers[2]: Duplicate value: "a"`)
	old := drivers(storagev1.CSINodeDriver{Name: "d", NodeID: "n"})
	compare(t, csiNode.ValidateUpdate(ctx, drivers(storagev1.CSINodeDriver{Name: "d", NodeID: "n", Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To[int32](3)}}), old))
	if errs := csiNode.ValidateUpdate(ctx, drivers(storagev1.CSINodeDriver{Name: "d", NodeID: "m"}), old); len(errs) != 1 || errs[0].Field != "spec.drivers" {
		t.Errorf("another node's name: %v", errs)
	}
}

func TestCSIStorageCapacity(t *testing.T) {
	capacity := &storagev1.CSIStorageCapacity{StorageClassName: "c", Capacity: resource.NewQuantity(1<<30, resource.BinarySI)}
	check(t, csiStorageCapacity, capacity)
	check(t, csiStorageCapacity, &storagev1.CSIStorageCapacity{StorageClassName: "c", Capacity: ptr.To(resource.MustParse("-1")),
		NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{"a b": "c"}}},
		`nodeTopology.matchLabels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
		`capacity: Invalid value: "-1": must be greater than or equal to 0`)
	now := capacity.DeepCopy()
	now.StorageClassName = "d"
	compare(t, csiStorageCapacity.ValidateUpdate(ctx, now, capacity), `storageClassName: Invalid value: "d": field is immutable`)
}
