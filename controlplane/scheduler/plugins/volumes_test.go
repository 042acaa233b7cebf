package plugins

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

func testNode(name, zone string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}
	if zone != "" {
		n.Labels[v1.LabelTopologyZone] = zone
	}
	return n
}

func testClaim(name, class string, change ...func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
	c := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("claim-" + name), ResourceVersion: "1"},
		Spec: v1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func bound(to string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		c.Spec.VolumeName = to
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnBindCompleted, "yes")
	}
}

func testVolume(name, class, node string, change ...func(*v1.PersistentVolume)) *v1.PersistentVolume {
	v := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("volume-" + name), ResourceVersion: "1"},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: class, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
		},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable},
	}
	if node != "" {
		v.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{node}}}}}}}
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func testClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func testPod(name, node string, volumes ...v1.VolumeSource) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{NodeName: node}}
	for i, source := range volumes {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: fmt.Sprint("v", i), VolumeSource: source})
	}
	return p
}

func claimed(name string) v1.VolumeSource {
	return v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

func pictureOf(objects ...any) *picture.Picture {
	p := picture.New()
	for _, object := range objects {
		switch o := object.(type) {
		case *v1.Node:
			p.SetNode(o)
		case *v1.Pod:
			p.SetPod(o)
		case *v1.PersistentVolumeClaim:
			p.Storage().SetClaim(o)
		case *v1.PersistentVolume:
			p.Storage().SetVolume(o)
		case *storagev1.StorageClass:
			p.Storage().SetClass(o)
		case *storagev1.CSINode:
			p.Storage().SetCSINode(o)
		case *storagev1.CSIDriver:
			p.Storage().SetDriver(o)
		case *storagev1.CSIStorageCapacity:
			p.Storage().SetCapacity(o)
		case *storagev1.VolumeAttachment:
			p.Storage().SetAttachment(o)
		default:
			panic(fmt.Sprintf("what is a %T", object))
		}
	}
	return p
}

// judge says for each of nodes a and b: "" or the reason why not.
func judge(plugin framework.FilterPlugin, pod *v1.Pod, cluster *picture.Picture) (verdicts [2]string) {
	filter := plugin.PreFilter(picture.NewPod(pod), cluster)
	if filter == nil {
		return verdicts
	}
	for i, name := range []string{"a", "b"} {
		if refusal := filter(cluster.Node(name)); refusal != nil {
			verdicts[i] = strings.Join(refusal.Reasons, ", ")
		}
	}
	return verdicts
}

func TestVolumeFilters(t *testing.T) {
	late := testClass("late", "example.com/csi", storagev1.VolumeBindingWaitForFirstConsumer)
	static := testClass("static", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer)
	now := testClass("now", "example.com/csi", storagev1.VolumeBindingImmediate)
	zonal := testClass("late", "example.com/csi", storagev1.VolumeBindingWaitForFirstConsumer)
	zonal.AllowedTopologies = []v1.TopologySelectorTerm{{MatchLabelExpressions: []v1.TopologySelectorLabelRequirement{{Key: v1.LabelTopologyZone, Values: []string{"two"}}}}}
	ephemeral := v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}
	csi := func(v *v1.PersistentVolume) {
		v.Spec.CSI = &v1.CSIPersistentVolumeSource{Driver: "example.com/csi", VolumeHandle: v.Name}
	}
	limit := func(count int32) *storagev1.CSINode {
		return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
			Name: "example.com/csi", Allocatable: &storagev1.VolumeNodeResources{Count: &count}}}}}
	}
	capacity := func(size string) *storagev1.CSIStorageCapacity {
		return &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Name: "c"}, StorageClassName: "late", Capacity: ptr.To(resource.MustParse(size)),
			NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{v1.LabelHostname: "b"}}}
	}
	telling := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "example.com/csi"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(true)}}
	once := func(c *v1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
	}
	zone := func(value string) func(*v1.PersistentVolume) {
		return func(v *v1.PersistentVolume) { v.Labels = map[string]string{v1.LabelFailureDomainBetaZone: value} }
	}
	disk := func(readOnly bool) v1.VolumeSource {
		return v1.VolumeSource{ISCSI: &v1.ISCSIVolumeSource{IQN: "x", ReadOnly: readOnly}}
	}
	const (
		elsewhere = "node(s) didn't match PersistentVolume's node affinity"
		nothing   = "node(s) didn't find available persistent volumes to bind"
		full      = "node(s) did not have enough free storage"
		inUse     = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
		tooMany   = "node(s) exceed max volume count"
		diskTaken = "node(s) had no available disk"
		wrongZone = "node(s) had no available volume zone"
	)
	both := func(reason string) [2]string { return [2]string{reason, reason} }
	binding := NewVolumeBinding(nil)
	for name, test := range map[string]struct {
		plugin  framework.FilterPlugin
		pod     *v1.Pod
		objects []any
		want    [2]string
	}{
		"no volumes":             {binding, testPod("p", ""), nil, both("")},
		"no such claim":          {binding, testPod("p", "", claimed("c")), nil, both(`persistentvolumeclaim "c" not found`)},
		"ephemeral not made yet": {binding, testPod("p", "", ephemeral), nil, both(`waiting for ephemeral volume controller to create the persistentvolumeclaim "p-v0"`)},
		"ephemeral is another's": {binding, testPod("p", "", ephemeral), []any{testClaim("p-v0", "late"), late}, both("PVC ns/p-v0 was not created for pod ns/p (pod is not owner)")},
		"claim goes":             {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late", func(c *v1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) })}, both(`persistentvolumeclaim "c" is being deleted`)},
		"claim is lost":          {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late", bound("v"), func(c *v1.PersistentVolumeClaim) { c.Status.Phase = v1.ClaimLost })}, both(`persistentvolumeclaim "c" bound to non-existent persistentvolume "v"`)},
		"unbound immediate":      {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "now"), now}, both("pod has unbound immediate PersistentVolumeClaims")},
		"bound elsewhere":        {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late", bound("v")), testVolume("v", "late", "b")}, [2]string{elsewhere, ""}},
		"bound to nothing":       {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late", bound("v"))}, both("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")},
		"a volume on one node":   {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "static"), static, testVolume("v", "static", "a")}, [2]string{"", nothing}},
		"two claims, one volume": {binding, testPod("p", "", claimed("c"), claimed("d")), []any{testClaim("c", "static"), testClaim("d", "static"), static, testVolume("v", "static", "a")}, both(nothing)},
		"a volume can be made":   {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late"), late}, both("")},
		"made for another node": {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late", func(c *v1.PersistentVolumeClaim) {
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnSelectedNode, "a")
		}), late}, [2]string{"", nothing}},
		"made in one zone":       {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late"), zonal}, [2]string{nothing, ""}},
		"room on one node":       {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late"), late, telling, capacity("2Gi")}, [2]string{full, ""}},
		"room on no node":        {binding, testPod("p", "", claimed("c")), []any{testClaim("c", "late"), late, telling, capacity("1Mi")}, both(full)},
		"claim of one pod":       {VolumeRestrictions{}, testPod("p", "", claimed("c")), []any{testClaim("c", "late", once), testPod("other", "a", claimed("c"))}, both(inUse)},
		"claim of one node":      {VolumeRestrictions{}, testPod("p", "", claimed("c")), []any{testClaim("c", "late"), testPod("other", "a", claimed("c"))}, both("")},
		"disk in use":            {VolumeRestrictions{}, testPod("p", "", disk(false)), []any{testPod("other", "a", disk(true))}, [2]string{diskTaken, ""}},
		"disk read by both":      {VolumeRestrictions{}, testPod("p", "", disk(true)), []any{testPod("other", "a", disk(true))}, both("")},
		"limit reached":          {NodeVolumeLimits{}, testPod("p", "", claimed("c")), []any{limit(1), testClaim("c", "x", bound("v")), testVolume("v", "x", "", csi), testClaim("d", "x", bound("w")), testVolume("w", "x", "", csi), testPod("other", "a", claimed("d"))}, [2]string{tooMany, ""}},
		"limit not reached":      {NodeVolumeLimits{}, testPod("p", "", claimed("c")), []any{limit(2), testClaim("c", "x", bound("v")), testVolume("v", "x", "", csi), testClaim("d", "x", bound("w")), testVolume("w", "x", "", csi), testPod("other", "a", claimed("d"))}, both("")},
		"limit, the same volume": {NodeVolumeLimits{}, testPod("p", "", claimed("c")), []any{limit(1), testClaim("c", "x", bound("v")), testVolume("v", "x", "", csi), testPod("other", "a", claimed("c"))}, both("")},
		"limit, to be made":      {NodeVolumeLimits{}, testPod("p", "", claimed("c")), []any{limit(0), testClaim("c", "late"), late}, [2]string{tooMany, ""}},
		"limit, attached still":  {NodeVolumeLimits{}, testPod("p", "", claimed("c")), []any{limit(1), testClaim("c", "x", bound("v")), testVolume("v", "x", "", csi), testVolume("w", "x", "", csi), &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "a", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("w")}}}}, [2]string{tooMany, ""}},
		"zone":                   {VolumeZone{}, testPod("p", "", claimed("c")), []any{testClaim("c", "x", bound("v")), testVolume("v", "x", "", zone("two"))}, [2]string{wrongZone, ""}},
		"several zones":          {VolumeZone{}, testPod("p", "", claimed("c")), []any{testClaim("c", "x", bound("v")), testVolume("v", "x", "", zone("one__two"))}, both("")},
		"zone of an unbound":     {VolumeZone{}, testPod("p", "", claimed("c")), []any{testClaim("c", "late"), late}, both("")},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := pictureOf(append(test.objects, testNode("a", "one"), testNode("b", "two"))...)
			if got := judge(test.plugin, test.pod, cluster); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// What one pod reserves the next does not find, until it is given back or the
// API shows a newer state.
func TestVolumeReservation(t *testing.T) {
	static := testClass("static", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer)
	late := testClass("late", "example.com/csi", storagev1.VolumeBindingWaitForFirstConsumer)
	cluster := pictureOf(testNode("a", ""), testNode("b", ""), static, late, testVolume("v", "static", "a"),
		testClaim("one", "static"), testClaim("two", "static"), testClaim("made", "late"))
	binding := NewVolumeBinding(nil)
	one, two, made := testPod("1", "", claimed("one")), testPod("2", "", claimed("two")), testPod("3", "", claimed("made"))
	reserve := func(pod *v1.Pod) error {
		return binding.Reserve(picture.NewPod(pod), cluster, cluster.Node("a"))
	}
	if err := reserve(one); err != nil || !binding.Needed(one) {
		t.Fatalf("reserve: %v, needed %v", err, binding.Needed(one))
	}
	if got := judge(binding, two, cluster); got[0] == "" {
		t.Error("the volume is there for a second pod")
	}
	if reserve(two) == nil {
		t.Error("the volume was reserved twice")
	}
	binding.Unreserve(one, cluster, "a")
	if got := judge(binding, two, cluster); got[0] != "" || binding.Needed(one) {
		t.Errorf("given back, but %q", got)
	}
	if err := reserve(made); err != nil {
		t.Fatal(err)
	}
	if got := judge(binding, made, cluster); got[0] != "" || got[1] == "" {
		t.Errorf("to be made on node a: %q", got)
	}
	// The provisioner gave up on the node: the API shows a newer claim without it.
	again := testClaim("made", "late")
	again.ResourceVersion = "2"
	cluster.Storage().SetClaim(again)
	if got := judge(binding, made, cluster); got != [2]string{} {
		t.Errorf("to be made anywhere: %q", got)
	}
}

func TestVolumeHints(t *testing.T) {
	pod := testPod("p", "", claimed("mine"))
	mine := framework.Event{Kind: framework.ClaimChanged, Claim: testClaim("mine", "x")}
	others := framework.Event{Kind: framework.ClaimChanged, Claim: testClaim("others", "x")}
	user := framework.Event{Kind: framework.PodRemoved, Pod: testPod("q", "a", claimed("mine"))}
	plain := framework.Event{Kind: framework.PodRemoved, Pod: testPod("q", "a")}
	for _, plugin := range []framework.FilterPlugin{NewVolumeBinding(nil), VolumeZone{}, VolumeRestrictions{}, NodeVolumeLimits{}} {
		if !plugin.Helps(mine, pod) || plugin.Helps(others, pod) {
			t.Errorf("%s does not tell claims apart", plugin.Name())
		}
		if plugin.Events()&framework.PodRemoved != 0 && (!plugin.Helps(user, pod) || plugin.Helps(plain, pod)) {
			t.Errorf("%s does not tell pods apart", plugin.Name())
		}
	}
}
