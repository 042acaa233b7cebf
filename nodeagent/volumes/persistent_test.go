package volumes

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/hostconfig"
)

func claimOf(name, to string, change ...func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
	c := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: "claim"},
		Spec:       v1.PersistentVolumeClaimSpec{VolumeName: to},
		Status:     v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func volumeOf(name string, source v1.PersistentVolumeSource, change ...func(*v1.PersistentVolume)) *v1.PersistentVolume {
	v := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.PersistentVolumeSpec{PersistentVolumeSource: source, ClaimRef: &v1.ObjectReference{Namespace: "n", Name: "c", UID: "claim"}},
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func podOf(uid string, readOnly bool) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: types.UID("uid-" + uid)},
		Spec: v1.PodSpec{
			Containers: []v1.Container{{Name: "c", VolumeMounts: []v1.VolumeMount{{Name: "data"}}}},
			Volumes: []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{
				PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: readOnly}}}},
		},
	}
}

// asDevice has the pod use its volume as a device.
func asDevice(pod *v1.Pod) *v1.Pod {
	pod.Spec.Containers = []v1.Container{{Name: "c", VolumeDevices: []v1.VolumeDevice{{Name: "data"}}}}
	return pod
}

func managerWith(t *testing.T, objects ...runtime.Object) *Manager {
	t.Helper()
	root := t.TempDir()
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{v1.LabelHostname: "node"}}}
	return New(Config{
		PodsDir: filepath.Join(root, "pods"), LocalDir: filepath.Join(root, "volumes"), Client: fake.NewClientset(objects...),
		Node: func() *v1.Node { return node }, Logger: slog.New(slog.DiscardHandler),
	})
}

func TestPersistentVolumesThatCannotBe(t *testing.T) {
	dir := v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/"}}
	elsewhere := func(v *v1.PersistentVolume) {
		v.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{"other"}}}}}}}
	}
	block := func(v *v1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(v1.PersistentVolumeBlock) }
	for want, objects := range map[string][]runtime.Object{
		"volume data has volumeMode Block, but is specified in volumeMounts":        {claimOf("c", "v"), volumeOf("v", dir, block)},
		"volume data has volumeMode Filesystem, but is specified in volumeDevices":  {claimOf("c", "v"), volumeOf("v", dir)},
		`failed to fetch PVC from API server: persistentvolumeclaims "c" not found`: nil,
		"PVC n/c is not bound":                                            {claimOf("c", "v", func(c *v1.PersistentVolumeClaim) { c.Status.Phase = v1.ClaimPending })},
		"can't start pod because PVC is being deleted":                    {claimOf("c", "v", func(c *v1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) })},
		"failed to get PV v from API server":                              {claimOf("c", "v")},
		"pv.Spec.ClaimRef of v does not point to PVC n/c":                 {claimOf("c", "v"), volumeOf("v", dir, func(v *v1.PersistentVolume) { v.Spec.ClaimRef.UID = "older" })},
		`storage node affinity check failed for volume "v"`:               {claimOf("c", "v"), volumeOf("v", dir, elsewhere)},
		`path "/no/such" does not exist`:                                  {claimOf("c", "v"), volumeOf("v", v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: "/no/such"}})},
		"/dev/null is not a block device":                                 {claimOf("c", "v"), volumeOf("v", v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: "/dev/null"}}, block)},
		`persistent volume "v" is of a kind that the node agent does not`: {claimOf("c", "v"), volumeOf("v", v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{}})},
	} {
		t.Run(want, func(t *testing.T) {
			pod := podOf("1", false)
			if strings.Contains(want, "evice") {
				asDevice(pod)
			}
			_, err := managerWith(t, objects...).Prepare(t.Context(), pod)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLocalPathVolumeOutlivesItsPods(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	pv := volumeOf("pvc-1", v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{}}, func(v *v1.PersistentVolume) {
		v.Annotations = map[string]string{volume.AnnDynamicallyProvisioned: hostconfig.LocalPathProvisioner}
	})
	m := managerWith(t, claimOf("c", "pvc-1"))
	pv.Spec.Local.Path = filepath.Join(m.LocalDir, "pvc-1")
	if err := m.Client.(*fake.Clientset).Tracker().Add(pv); err != nil {
		t.Fatal(err)
	}
	group := podOf("1", false)
	group.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To(int64(4321)), FSGroupChangePolicy: ptr.To(v1.FSGroupChangeOnRootMismatch)}
	mounted, err := m.Prepare(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unmountBelow(m.PodsDir) })
	path := mounted.Sources["data"].Path
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil || stat.Gid != 4321 || stat.Mode&unix.S_ISGID == 0 || !keepsGroup(path, group) {
		t.Errorf("group %d, mode %o, error %v", stat.Gid, stat.Mode, err)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveLocal("pvc-1"); !errors.Is(err, ErrInUse) {
		t.Errorf("removed while it is mounted: %v", err)
	}
	// An agent that was restarted finds what the one before it mounted.
	again := New(m.Config)
	if mounted, err = again.Prepare(t.Context(), group); err != nil || mounted.Sources["data"].Path != path {
		t.Fatalf("after a restart: %v %v", mounted, err)
	}
	if err := again.Teardown(t.Context(), group.UID); err != nil {
		t.Fatal(err)
	}
	next := podOf("2", true)
	if mounted, err = again.Prepare(t.Context(), next); err != nil || !mounted.Sources["data"].ReadOnly {
		t.Fatalf("second pod: %v %v", mounted, err)
	}
	if data, err := os.ReadFile(filepath.Join(mounted.Sources["data"].Path, "file")); err != nil || string(data) != "x" {
		t.Errorf("the second pod reads %q, error %v", data, err)
	}
	if err := again.Teardown(t.Context(), next.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(pv.Spec.Local.Path, "file")); err != nil {
		t.Errorf("data went with the pod: %v", err)
	}
	if err := again.RemoveLocal("pvc-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pv.Spec.Local.Path); !os.IsNotExist(err) {
		t.Errorf("the removed volume is there: %v", err)
	}
	if err := again.RemoveLocal("pvc-1"); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if left, _ := os.ReadDir(m.LocalDir); len(left) == 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("left: %v", left)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", ".removing-x"} {
		if again.RemoveLocal(name) == nil {
			t.Errorf("removed %q", name)
		}
	}
}

func TestSweep(t *testing.T) {
	m := managerWith(t)
	for _, name := range []string{removing + "old/deep", "kept/deep"} {
		if err := os.MkdirAll(filepath.Join(m.LocalDir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.Sweep(t.Context())
	if left, _ := os.ReadDir(m.LocalDir); len(left) != 1 || left[0].Name() != "kept" {
		t.Errorf("left: %v", left)
	}
}

func TestBlockDevices(t *testing.T) {
	mounted := &Mounted{Sources: map[string]Source{"disk": {Device: "/dev/x", ReadOnly: true}, "dir": {Path: "/x"}}}
	c := &v1.Container{VolumeDevices: []v1.VolumeDevice{{Name: "disk", DevicePath: "/dev/data"}}}
	if devices, err := mounted.Devices(c); err != nil || devices["/dev/data"].Device != "/dev/x" {
		t.Errorf("devices %v, error %v", devices, err)
	}
	c.VolumeDevices[0].Name = "dir"
	if _, err := mounted.Devices(c); err == nil {
		t.Error("a directory is a device")
	}
}

func TestGroupsOfVolumes(t *testing.T) {
	mounted := &Mounted{Sources: map[string]Source{"a": {Group: "7"}, "b": {Group: "5"}, "c": {Group: "7"}, "d": {}, "e": {Group: "odd"}, "f": {Group: "9"}}}
	pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{SupplementalGroups: []int64{9}}}}
	if got, want := mounted.Groups(pod), []int64{5, 7}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
