package pods

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
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
	if users, err := a.userNamespace(pod); users != nil || err != nil {
		t.Errorf("a pod that does not ask gets %v %v", users, err)
	}
	pod.Spec.HostUsers = &no
	if err := os.MkdirAll(a.Volumes.PodDir(pod.UID), 0o700); err != nil {
		t.Fatal(err)
	}
	users, err := a.userNamespace(pod)
	if err != nil || users.Mode != criv1.NamespaceMode_POD || len(users.Uids) != 1 || users.Gids[0].HostId != 65536 || users.Uids[0].Length != 65536 {
		t.Errorf("got %v %v", users, err)
	}
	mounts := []*criv1.Mount{{HostPath: "/a"}, {Image: &criv1.ImageSpec{Image: "i"}}}
	mapUsers(mounts, users)
	if len(mounts[0].UidMappings) != 1 || mounts[1].UidMappings != nil {
		t.Errorf("mounts: %v", mounts)
	}
	old := "old"
	pod.Spec.RuntimeClassName = &old
	if _, err := a.userNamespace(pod); err == nil {
		t.Error("a handler without user namespaces gets one")
	}
}
