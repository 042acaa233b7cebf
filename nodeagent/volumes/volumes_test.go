package volumes

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestWriteAtomically(t *testing.T) {
	dir := t.TempDir()
	write := func(contents map[string]file, want bool) {
		t.Helper()
		if changed, err := writeAtomically(dir, contents); err != nil || changed != want {
			t.Fatalf("changed %v, error %v; want changed %v", changed, err, want)
		}
	}
	write(map[string]file{"a": {data: []byte("1"), mode: 0o644}, "d/b": {data: []byte("2"), mode: 0o400}}, true)
	first, _ := os.Readlink(filepath.Join(dir, dataLink))
	write(map[string]file{"a": {data: []byte("1"), mode: 0o644}, "d/b": {data: []byte("2"), mode: 0o400}}, false)
	if again, _ := os.Readlink(filepath.Join(dir, dataLink)); again != first {
		t.Error("unchanged contents were switched")
	}
	open, err := os.Open(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	write(map[string]file{"a": {data: []byte("3"), mode: 0o600}}, true)
	if got, _ := os.ReadFile(filepath.Join(dir, "a")); string(got) != "3" {
		t.Errorf("a: got %q", got)
	}
	if info, _ := os.Stat(filepath.Join(dir, "a")); info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a: got %o", info.Mode().Perm())
	}
	if _, err := os.Lstat(filepath.Join(dir, "d")); !os.IsNotExist(err) {
		t.Errorf("d is still there: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 { // ..data, its directory, a
		t.Errorf("left in the directory: %v", entries)
	}
	for _, bad := range []string{"../x", "/x", "a/../../x", "..data", ""} {
		if _, err := writeAtomically(dir, map[string]file{bad: {}}); err == nil {
			t.Errorf("path %q was written", bad)
		}
	}
}

func TestOpenBeneath(t *testing.T) {
	base := t.TempDir()
	if err := os.Chmod(base, 0o777); err != nil { // past the umask
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(base, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(base, "in")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "real"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for sub, ok := range map[string]bool{"in": true, "new/dir": true, "out": false, "out/passwd": false, "../x": false} {
		fd, err := openBeneath(base, sub)
		if (err == nil) != ok {
			t.Errorf("%s: error %v, want success %v", sub, err, ok)
		}
		if err == nil {
			_ = unix.Close(fd)
		}
	}
	// Whoever may write to the volume may write there.
	info, err := os.Stat(filepath.Join(base, "new/dir"))
	if volume, baseErr := os.Stat(base); err != nil || baseErr != nil || !info.IsDir() || info.Mode() != volume.Mode() {
		t.Errorf("missing directory was not made: %v", err)
	}
}

func TestCheckHostPath(t *testing.T) {
	dir := t.TempDir()
	cases := []struct {
		kind v1.HostPathType
		path string
		ok   bool
	}{
		{v1.HostPathUnset, "/none", true},
		{v1.HostPathDirectory, dir, true},
		{v1.HostPathDirectory, dir + "/none", false},
		{v1.HostPathFile, dir, false},
		{v1.HostPathDirectoryOrCreate, dir + "/new", true},
		{v1.HostPathFileOrCreate, dir + "/file", true},
		{v1.HostPathFile, dir + "/file", true},
		{v1.HostPathSocket, dir + "/file", false},
		{v1.HostPathCharDev, "/dev/null", true},
		{v1.HostPathBlockDev, "/dev/null", false},
	}
	for _, c := range cases {
		err := checkHostPath(&v1.HostPathVolumeSource{Path: c.path, Type: &c.kind})
		if (err == nil) != c.ok {
			t.Errorf("%s at %s: got %v, want success %v", c.kind, c.path, err, c.ok)
		}
	}
}

type objects map[string]*v1.ConfigMap

func (o objects) ConfigMap(_ context.Context, _ types.UID, _, name string) (*v1.ConfigMap, error) {
	if cm := o[name]; cm != nil {
		return cm, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}

func (o objects) Secret(_ context.Context, _ types.UID, _, name string) (*v1.Secret, error) {
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}

func uses(volumes ...string) v1.Container {
	c := v1.Container{}
	for _, name := range volumes {
		c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: name})
	}
	return c
}

func TestPrepareAndTeardown(t *testing.T) {
	yes := true
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"},
		Spec: v1.PodSpec{InitContainers: []v1.Container{uses("config")}, Containers: []v1.Container{uses("empty", "maybe")}, Volumes: []v1.Volume{
			{Name: "unused", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
				LocalObjectReference: v1.LocalObjectReference{Name: "a"},
				Items:                []v1.KeyToPath{{Key: "k", Path: "deep/file"}}}}},
			{Name: "empty", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			{Name: "maybe", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
				LocalObjectReference: v1.LocalObjectReference{Name: "none"}, Optional: &yes}}},
		}},
	}
	m := New(Config{PodsDir: t.TempDir(), Objects: objects{"a": {Data: map[string]string{"k": "v"}}}})
	mounted, err := m.Prepare(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(mounted.Sources["config"].Path, "deep/file")); err != nil || string(got) != "v" {
		t.Errorf("config: got %q %v", got, err)
	}
	if info, err := os.Stat(mounted.Sources["empty"].Path); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("empty: got %v %v", info, err)
	}
	if path := m.Directory(pod, &pod.Spec.Volumes[0]); exists(path) {
		t.Errorf("%s is there, and nobody uses it", path)
	}
	pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{VolumeMounts: []v1.VolumeMount{{Name: "unused"}}}}}
	if !mounted.Lacks(pod) {
		t.Error("an ephemeral container does without its volume")
	}
	if mounted, err = m.Prepare(t.Context(), pod); err != nil || mounted.Lacks(pod) {
		t.Errorf("with an ephemeral container: %v, error %v", mounted, err)
	}
	want := map[string]int{"kubernetes.io/configmap": 2, "kubernetes.io/empty-dir": 2}
	if wanted, inPlace := m.Count(); !maps.Equal(wanted, want) || !maps.Equal(inPlace, want) {
		t.Errorf("%v, in place %v", wanted, inPlace)
	}
	if err := m.Teardown(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if wanted, inPlace := m.Count(); len(wanted)+len(inPlace) != 0 {
		t.Errorf("counted afterwards: %v, in place %v", wanted, inPlace)
	}
	if left := m.Pods(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	pod.Spec.Volumes[3].ConfigMap.Optional = nil
	if _, err := m.Prepare(t.Context(), pod); err == nil {
		t.Error("a missing ConfigMap was no fault")
	}
	if wanted, inPlace := m.Count(); wanted["kubernetes.io/configmap"] != 2 || inPlace["kubernetes.io/configmap"] != 1 {
		t.Errorf("%v, in place %v", wanted, inPlace)
	}
}
