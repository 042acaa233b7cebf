package pods

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	internalapi "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMayRun(t *testing.T) {
	sysctl := func(names ...string) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{}
			for _, name := range names {
				p.Spec.SecurityContext.Sysctls = append(p.Spec.SecurityContext.Sysctls, v1.Sysctl{Name: name, Value: "1"})
			}
		}
	}
	confined := &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}
	cases := []struct {
		do              func(*v1.Pod)
		appArmor        bool
		reason, message string
	}{
		{func(*v1.Pod) {}, false, "", ""},
		{sysctl("kernel.shm_rmid_forced", "net.ipv4.tcp_rmem"), false, "", ""},
		{sysctl("net/ipv4/tcp_syncookies"), false, "", ""},
		{sysctl("kernel.msgmax"), false, "SysctlForbidden", `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{func(p *v1.Pod) { sysctl("net.ipv4.tcp_rmem")(p); p.Spec.HostNetwork = true }, false,
			"SysctlForbidden", `forbidden sysctl: sysctl "net.ipv4.tcp_rmem" not allowed with host net enabled`},
		{func(p *v1.Pod) { sysctl("kernel.shm_rmid_forced")(p); p.Spec.HostIPC = true }, false,
			"SysctlForbidden", `forbidden sysctl: sysctl "kernel.shm_rmid_forced" not allowed with host ipc enabled`},
		{func(p *v1.Pod) { p.Spec.Containers[1].SecurityContext = &v1.SecurityContext{AppArmorProfile: confined} }, false,
			"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		{func(p *v1.Pod) { p.Spec.SecurityContext = &v1.PodSecurityContext{AppArmorProfile: confined} }, true, "", ""},
		{func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}}
		}, false, "", ""},
	}
	for i, c := range cases {
		pod := testPod("Always")
		c.do(pod)
		if reason, message := mayRun(pod, c.appArmor); reason != c.reason || message != c.message {
			t.Errorf("%d: got %q %q, want %q %q", i, reason, message, c.reason, c.message)
		}
	}
}

func TestUserRangesAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	uids := []types.UID{"a", "b", "c"}
	for _, uid := range uids {
		if err := os.Mkdir(filepath.Join(dir, string(uid)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	open := func() *userRanges {
		return newUserRanges(func(uid types.UID) string { return filepath.Join(dir, string(uid)) }, func() []types.UID { return uids })
	}
	u := open()
	want := func(uid types.UID, first uint32) {
		t.Helper()
		if got, err := u.of(uid); err != nil || got != first {
			t.Errorf("%s: got %d %v, want %d", uid, got, err, first)
		}
	}
	want("a", 65536)
	want("b", 131072)
	want("a", 65536)
	u = open() // after a restart
	want("c", 196608)
	want("b", 131072)
	u.release("a")
	if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	want("d", 65536)
	if err := os.WriteFile(filepath.Join(dir, "c", "userns.json"), []byte(`{"first": 7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open().of("b"); err == nil {
		t.Error("users that cannot be told apart are given all the same")
	}
}

func TestUserNamespace(t *testing.T) {
	b := newBench(t)
	yes, no := true, false
	b.node = sizedNode("1")
	b.node.Status.RuntimeHandlers = []v1.NodeRuntimeHandler{{Name: "", Features: &v1.NodeRuntimeHandlerFeatures{UserNamespaces: &yes}}, {Name: "old"}}
	a := b.agent(t.Context(), b.cri)
	pod := testPod("Always")
	if users, err := a.userNamespace(t.Context(), pod); users != nil || err != nil {
		t.Errorf("a pod that does not ask gets %v %v", users, err)
	}
	pod.Spec.HostUsers = &no
	if err := os.MkdirAll(a.Volumes.PodDir(pod.UID), 0o700); err != nil {
		t.Fatal(err)
	}
	users, err := a.userNamespace(t.Context(), pod)
	if err != nil || users.Mode != criv1.NamespaceMode_POD || len(users.Uids) != 1 || users.Gids[0].HostId != 65536 || users.Uids[0].Length != 65536 {
		t.Errorf("got %v %v", users, err)
	}
	mounts := []*criv1.Mount{{HostPath: "/a"}, {Image: &criv1.ImageSpec{Image: "i"}}}
	mapUsers(mounts, users)
	if len(mounts[0].UidMappings) != 1 || mounts[1].UidMappings != nil {
		t.Errorf("mounts: %v", mounts)
	}
	pod.Spec.RuntimeClassName = classOf(t, b, "class", "old")
	if _, err := a.userNamespace(t.Context(), pod); err == nil {
		t.Error("a handler without user namespaces gets one")
	}
}

// classOf makes a runtime class with the handler.
func classOf(t *testing.T, b *bench, name, handler string) *string {
	t.Helper()
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}
	if _, err := b.client.NodeV1().RuntimeClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return &name
}

// handlers is a runtime that notes which handlers sandboxes are made by.
type handlers struct {
	internalapi.RuntimeService
	asked []string
}

func (h *handlers) RunPodSandbox(ctx context.Context, config *criv1.PodSandboxConfig, handler string) (string, error) {
	h.asked = append(h.asked, handler)
	return h.RuntimeService.RunPodSandbox(ctx, config, handler)
}

func TestARuntimeClassNamesItsHandler(t *testing.T) {
	b := newBench(t)
	cri := &handlers{RuntimeService: b.cri}
	a := b.agent(t.Context(), cri)
	run := func(class *string) error {
		pod := testPod("Always")
		pod.Spec.RuntimeClassName = class
		_, err := newWorker(a, pod, false).runSandbox(t.Context(), pod, 0)
		return err
	}
	none, lost := "", "lost"
	for _, class := range []*string{nil, &none, classOf(t, b, "class", "handler")} {
		if err := run(class); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(cri.asked, []string{"", "", "handler"}) {
		t.Errorf("handlers: %q", cri.asked)
	}
	if err := run(&lost); err == nil || len(cri.asked) != 3 {
		t.Errorf("a class that is not there: %v, %q", err, cri.asked)
	}
	recorder := a.Recorder.(*record.FakeRecorder)
	select {
	case event := <-recorder.Events:
		if want := `Warning FailedCreatePodSandBox Failed to create pod sandbox: runtimeclasses.node.k8s.io "lost" not found`; event != want {
			t.Errorf("event %q, want %q", event, want)
		}
	case <-time.After(time.Minute):
		t.Error("no event tells of the class that is not there")
	}
}
