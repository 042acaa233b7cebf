package apps

import (
	"context"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

var ctx = context.Background()

func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways,
			Containers:    []corev1.Container{{Name: "c", Image: "i", ImagePullPolicy: corev1.PullAlways, TerminationMessagePolicy: corev1.TerminationMessageReadFile}},
		},
	}
}

func selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
}

func meta() metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: "x"} }

func newDeployment() *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: meta(), Spec: appsv1.DeploymentSpec{Selector: selector(), Template: template()}}
	deployment.Default(d)
	return d
}

func newReplicaSet() *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{ObjectMeta: meta(), Spec: appsv1.ReplicaSetSpec{Selector: selector(), Template: template()}}
	replicaSet.Default(rs)
	return rs
}

func newStatefulSet() *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: meta(), Spec: appsv1.StatefulSetSpec{Selector: selector(), Template: template(), ServiceName: "svc"}}
	statefulSet.Default(s)
	return s
}

func newDaemonSet() *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{ObjectMeta: meta(), Spec: appsv1.DaemonSetSpec{Selector: selector(), Template: template()}}
	daemonSet.Default(ds)
	return ds
}

// messages checks the errors' texts, in any order.
func messages(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var got []string
	for _, err := range errs {
		got = append(got, err.Error())
	}
	for _, w := range want {
		i := slices.IndexFunc(got, func(g string) bool { return strings.HasPrefix(g, w) })
		if i < 0 {
			t.Errorf("no error that begins with %q in %q", w, got)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 {
		t.Errorf("unexpected errors %q", got)
	}
}

type invalid[T any] struct {
	change func(T)
	want   []string
}

func checkInvalid[T api.Object](t *testing.T, d api.Definition[T], valid func() T, tests []invalid[T]) {
	t.Helper()
	messages(t, d.Validate(ctx, valid()))
	messages(t, d.ValidateUpdate(ctx, valid(), valid()))
	for _, test := range tests {
		obj := valid()
		test.change(obj)
		messages(t, d.Validate(ctx, obj), test.want...)
		messages(t, d.ValidateUpdate(ctx, obj, obj.DeepCopyObject().(T)), test.want...)
	}
}

func TestInvalidDeployments(t *testing.T) {
	checkInvalid(t, deployment, newDeployment, []invalid[*appsv1.Deployment]{
		{func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](-1) },
			[]string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"}},
		{func(d *appsv1.Deployment) { d.Spec.Selector = nil },
			[]string{"spec.selector: Required value", "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`"}},
		{func(d *appsv1.Deployment) { d.Spec.Selector = &metav1.LabelSelector{} },
			[]string{"spec.selector: Invalid value: {}: empty selector is invalid for deployment"}},
		{func(d *appsv1.Deployment) { d.Spec.Template.Labels = map[string]string{"app": "y"} },
			[]string{"spec.template.metadata.labels: Invalid value: {\"app\":\"y\"}: `selector` does not match template `labels`"}},
		{func(d *appsv1.Deployment) { d.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever },
			[]string{`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`}},
		{func(d *appsv1.Deployment) { d.Spec.Template.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) },
			[]string{"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"}},
		{func(d *appsv1.Deployment) { d.Spec.Strategy.Type = "Other" },
			[]string{`spec.strategy: Unsupported value: {"type":"Other"`}},
		{func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType },
			[]string{"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		{func(d *appsv1.Deployment) { d.Spec.Strategy.RollingUpdate = nil },
			[]string{"spec.strategy.rollingUpdate: Required value: this should be defaulted and never be nil"}},
		{func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(0))
			d.Spec.Strategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromString("0%"))
		}, []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"}},
		{func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromString("101%"))
		}, []string{`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`}},
		{func(d *appsv1.Deployment) { d.Spec.Strategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromString("much")) },
			[]string{`spec.strategy.rollingUpdate.maxSurge: Invalid value: "much": a valid percent string must be a numeric string followed by an ending '%'`}},
		{func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = -1 },
			[]string{"spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"}},
		{func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = ptr.To[int32](-1) },
			[]string{"spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0"}},
		{func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 600 },
			[]string{"spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"}},
	})
	other := newDeployment()
	other.Spec.Selector.MatchLabels["more"] = "y"
	other.Spec.Template.Labels["more"] = "y"
	messages(t, deployment.ValidateUpdate(ctx, other, newDeployment()), "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\",\"more\":\"y\"}}: field is immutable")
}

func TestInvalidDeploymentStatus(t *testing.T) {
	old := newDeployment()
	old.Status.CollisionCount = ptr.To[int32](2)
	d := newDeployment()
	d.Status = appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 2, ReadyReplicas: -1, AvailableReplicas: 1, CollisionCount: ptr.To[int32](1)}
	messages(t, deployment.Status.Validate(ctx, d, old),
		"status.readyReplicas: Invalid value: -1: must be greater than or equal to 0",
		"status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
		"status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
		"status.collisionCount: Invalid value: 1: cannot be decremented")
}

func TestInvalidReplicaSets(t *testing.T) {
	checkInvalid(t, replicaSet, newReplicaSet, []invalid[*appsv1.ReplicaSet]{
		{func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = ptr.To[int32](-2) },
			[]string{"spec.replicas: Invalid value: -2: must be greater than or equal to 0"}},
		{func(rs *appsv1.ReplicaSet) { rs.Spec.Selector = nil },
			[]string{"spec.selector: Required value", "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`"}},
		{func(rs *appsv1.ReplicaSet) { rs.Spec.Selector.MatchLabels["b"] = "no good" },
			[]string{`spec.selector.matchLabels: Invalid value: "no good": a valid label must be`, "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\",\"b\":\"no good\"}}: invalid label selector"}},
	})
	rs := newReplicaSet()
	rs.Status = appsv1.ReplicaSetStatus{Replicas: 1, FullyLabeledReplicas: 2}
	messages(t, replicaSet.Status.Validate(ctx, rs, rs), "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas")
}

func TestInvalidStatefulSets(t *testing.T) {
	checkInvalid(t, statefulSet, newStatefulSet, []invalid[*appsv1.StatefulSet]{
		{func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = "Other" },
			[]string{`spec.podManagementPolicy: Invalid value: "Other": must be 'OrderedReady' or 'Parallel'`}},
		{func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType },
			[]string{`spec.updateStrategy.rollingUpdate: Invalid value: {"partition":0}: only allowed for updateStrategy 'RollingUpdate'`}},
		{func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](-1) },
			[]string{"spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0"}},
		{func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(0))
		}, []string{"spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"}},
		{func(s *appsv1.StatefulSet) { s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled = "Burn" },
			[]string{`spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Burn": supported values: "Retain", "Delete"`}},
		{func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: -1} },
			[]string{"spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"}},
		{func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) },
			[]string{"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported"}},
	})
	s := newStatefulSet()
	s.Spec.ServiceName = "No Good"
	messages(t, statefulSet.Validate(ctx, s), `spec.serviceName: Invalid value: "No Good": a lowercase RFC 1123 label`)

	s = newStatefulSet()
	s.Spec.ServiceName = "other"
	messages(t, statefulSet.ValidateUpdate(ctx, s, newStatefulSet()), "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template'")
	s = newStatefulSet()
	s.Spec.Replicas, s.Spec.MinReadySeconds = ptr.To[int32](5), 3
	messages(t, statefulSet.ValidateUpdate(ctx, s, newStatefulSet()))

	// The volume of a claim template takes the place of the template's own.
	s = newStatefulSet()
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}}
	s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}}
	s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	messages(t, statefulSet.Validate(ctx, s))
}

func TestInvalidDaemonSets(t *testing.T) {
	checkInvalid(t, daemonSet, newDaemonSet, []invalid[*appsv1.DaemonSet]{
		{func(ds *appsv1.DaemonSet) {
			ds.Spec.Selector = &metav1.LabelSelector{}
		}, []string{"spec.selector: Invalid value: {}: empty selector is invalid for daemonset"}},
		{func(ds *appsv1.DaemonSet) { ds.Spec.Template.Labels = nil },
			[]string{"spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"}},
		{func(ds *appsv1.DaemonSet) { ds.Spec.UpdateStrategy.RollingUpdate = nil },
			[]string{"spec.updateStrategy.rollingUpdate: Required value"}},
		{func(ds *appsv1.DaemonSet) {
			ds.Spec.UpdateStrategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromString("10%"))
		}, []string{`spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: "10%": may not be set when maxUnavailable is non-zero`}},
		{func(ds *appsv1.DaemonSet) {
			ds.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(0))
		}, []string{"spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"}},
		{func(ds *appsv1.DaemonSet) { ds.Spec.UpdateStrategy.Type = "Other" },
			[]string{`spec.updateStrategy: Unsupported value: {"type":"Other"`}},
	})
}

func TestInvalidControllerRevisions(t *testing.T) {
	revision := func(n int64, data string) *appsv1.ControllerRevision {
		r := &appsv1.ControllerRevision{ObjectMeta: meta(), Revision: n}
		if data != "" {
			r.Data = runtime.RawExtension{Raw: []byte(data)}
		}
		return r
	}
	for _, test := range []struct {
		revision *appsv1.ControllerRevision
		want     []string
	}{
		{revision(1, `{"a":1}`), nil},
		{revision(-1, `{}`), []string{"revision: Invalid value: -1: must be greater than or equal to 0"}},
		{revision(1, ""), []string{"data: Required value: data is mandatory"}},
		{revision(1, "null"), []string{"data: Required value: data is mandatory"}},
		{revision(1, "[]"), []string{"data: Required value: data must be a valid JSON object"}},
		{revision(1, "{"), []string{`data: Invalid value: "<value omitted>": error parsing data:`}},
	} {
		messages(t, controllerRevision.Validate(ctx, test.revision), test.want...)
	}
	messages(t, controllerRevision.ValidateUpdate(ctx, revision(2, `{}`), revision(1, `{"a":1}`)), "data: Invalid value:")
	messages(t, controllerRevision.ValidateUpdate(ctx, revision(2, `{}`), revision(1, `{}`)))
}

func TestDefaults(t *testing.T) {
	d := newDeployment()
	if *d.Spec.Replicas != 1 || *d.Spec.RevisionHistoryLimit != 10 || *d.Spec.ProgressDeadlineSeconds != 600 ||
		d.Spec.Strategy.RollingUpdate.MaxSurge.String() != "25%" || d.Spec.Strategy.RollingUpdate.MaxUnavailable.String() != "25%" {
		t.Errorf("deployment defaults to %+v", d.Spec)
	}
	recreate := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}}}
	if deployment.Default(recreate); recreate.Spec.Strategy.RollingUpdate != nil {
		t.Error("Recreate got a rolling update")
	}
	s := newStatefulSet()
	if s.Spec.PodManagementPolicy != appsv1.OrderedReadyPodManagement || *s.Spec.UpdateStrategy.RollingUpdate.Partition != 0 ||
		s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted != appsv1.RetainPersistentVolumeClaimRetentionPolicyType {
		t.Errorf("stateful set defaults to %+v", s.Spec)
	}
	ds := newDaemonSet()
	if ds.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue() != 1 || ds.Spec.UpdateStrategy.RollingUpdate.MaxSurge.IntValue() != 0 {
		t.Errorf("daemon set defaults to %+v", ds.Spec.UpdateStrategy)
	}
	if rs := newReplicaSet(); *rs.Spec.Replicas != 1 {
		t.Errorf("replica set defaults to %d replicas", *rs.Spec.Replicas)
	}
}

func TestTemplateGeneration(t *testing.T) {
	old := newDaemonSet()
	old.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "junk"}
	if daemonSet.PrepareForCreate(ctx, old); templateGeneration(old) != 1 {
		t.Errorf("generation %d on create, want 1", templateGeneration(old))
	}
	same := old.DeepCopy()
	same.Annotations = nil
	if daemonSet.PrepareForUpdate(ctx, same, old); templateGeneration(same) != 1 {
		t.Errorf("generation %d after no change, want 1", templateGeneration(same))
	}
	changed := old.DeepCopy()
	changed.Spec.Template.Spec.Containers[0].Image = "j"
	if daemonSet.PrepareForUpdate(ctx, changed, old); templateGeneration(changed) != 2 {
		t.Errorf("generation %d after a change, want 2", templateGeneration(changed))
	}
}

func TestRowsFitColumns(t *testing.T) {
	for name, counts := range map[string][2]int{
		"Deployment":         {len(deployment.Columns), len(deployment.Row(newDeployment()))},
		"ReplicaSet":         {len(replicaSet.Columns), len(replicaSet.Row(newReplicaSet()))},
		"StatefulSet":        {len(statefulSet.Columns), len(statefulSet.Row(newStatefulSet()))},
		"DaemonSet":          {len(daemonSet.Columns), len(daemonSet.Row(newDaemonSet()))},
		"ControllerRevision": {len(controllerRevision.Columns), len(controllerRevision.Row(&appsv1.ControllerRevision{}))},
	} {
		if counts[0] != counts[1] {
			t.Errorf("%s has %d columns and %d cells", name, counts[0], counts[1])
		}
	}
	owned := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "d", Controller: ptr.To(true)}}}}
	if cell := controllerRevision.Row(owned)[1]; cell != "daemonset.apps/d" {
		t.Errorf("controller %q", cell)
	}
}
