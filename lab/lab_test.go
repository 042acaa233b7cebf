//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

func TestMain(m *testing.M) {
	if slices.Equal(os.Args[1:], HostInitArgs) {
		HostInit()
	}
	os.Exit(m.Run())
}

func TestAptMirror(t *testing.T) {
	const deb822 = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n\n" +
		"Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n"
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"one line", map[string]string{"sources.list": "deb [signed-by=/x] http://a.example/debian bookworm main contrib\n"}, "http://a.example/debian"},
		{"security alone is no mirror", map[string]string{"sources.list": "deb http://a.example/sec bookworm-security main\n"}, ""},
		{"deb822", map[string]string{"sources.list.d/debian.sources": deb822}, "http://mirror.example/debian"},
		{"disabled", map[string]string{"sources.list.d/debian.sources": "Enabled: no\n" + deb822}, ""},
		{"a later release's mirror", map[string]string{"sources.list": "deb http://a.example/debian trixie main\n"}, "http://a.example/debian"},
		{"not Debian", map[string]string{"sources.list": "deb http://a.example/ubuntu noble main\n"}, ""},
		{"commented out", map[string]string{"sources.list": "# deb http://a.example/debian bookworm main\n"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, content := range test.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := aptMirror(dir)
			if got != test.want || (err != nil) != (test.want == "") {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestCgroupHierarchies(t *testing.T) {
	const mountinfo = `30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
`
	want := []hierarchy{
		{"/sys/fs/cgroup/unified", "cgroup2", ""},
		{"/sys/fs/cgroup/systemd", "cgroup", "none,name=systemd"},
		{"/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"},
	}
	got := cgroupHierarchies(mountinfo)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var directories []string
	for _, h := range got {
		directories = append(directories, h.directory())
	}
	if want := []string{"unified", "systemd", "cpu,cpuacct"}; !slices.Equal(directories, want) {
		t.Errorf("directories in a host: got %v, want %v", directories, want)
	}
	if unified(got) {
		t.Error("a machine with version 1 hierarchies was taken for one with version 2 alone")
	}
}

func TestFreeSubnet(t *testing.T) {
	prefixes := func(text ...string) []netip.Prefix {
		var list []netip.Prefix
		for _, p := range text {
			list = append(list, netip.MustParsePrefix(p))
		}
		return list
	}
	tests := []struct {
		name string
		used []netip.Prefix
		want string
	}{
		{"nothing in use", nil, "10.210.0.0/24"},
		{"a lab beside it", prefixes("10.210.0.0/24"), "10.210.1.0/24"},
		{"a single address inside", prefixes("10.210.0.7/32"), "10.210.1.0/24"},
		{"a wide route", prefixes("10.208.0.0/13"), "10.216.0.0/24"},
		{"all of 10", prefixes("10.0.0.0/8"), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := freeSubnet(test.used)
			if test.want == "" {
				if err == nil {
					t.Errorf("got %v, want an error", got)
				}
				return
			}
			if err != nil || got.String() != test.want {
				t.Errorf("got %v, %v, want %s", got, err, test.want)
			}
		})
	}
}

func TestStoresChooseDifferentSubnets(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a switch needs root")
	}
	cache := t.TempDir()
	labs := make([]*Lab, 4)
	var planning errgroup.Group
	for i := range labs {
		store := &Store{Dir: t.TempDir(), CacheDir: cache}
		if err := os.Mkdir(filepath.Join(store.Dir, "demo"), 0o700); err != nil {
			t.Fatal(err)
		}
		planning.Go(func() (err error) {
			labs[i], err = store.plan(Spec{Name: "demo", ControlPlanes: 1}, "tree")
			return err
		})
	}
	t.Cleanup(func() {
		for _, lab := range labs {
			if lab != nil {
				if err := lab.removeSwitch(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	if err := planning.Wait(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, lab := range labs {
		if seen[lab.Subnet] {
			t.Errorf("two labs have %s", lab.Subnet)
		}
		seen[lab.Subnet] = true
	}
}

func TestSpecCheck(t *testing.T) {
	tests := []struct {
		name string
		spec Spec
		want string
	}{
		{"good", Spec{Name: "demo", ControlPlanes: 1}, ""},
		{"bad name", Spec{Name: "../x", ControlPlanes: 1}, "lower-case letters"},
		{"no host", Spec{Name: "demo"}, "a host at least"},
		{"negative", Spec{Name: "demo", ControlPlanes: 2, Workers: -1}, "negative"},
		{"too many", Spec{Name: "demo", Workers: 201}, "at most 200"},
		{"two links", Spec{Name: "demo", Workers: 2, Links: 2}, ""},
		{"three links", Spec{Name: "demo", Workers: 3, Links: 3}, "one link or two"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.spec.check()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestCreateWithoutRootSaysSo(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("runs as root")
	}
	store := &Store{Dir: t.TempDir(), CacheDir: t.TempDir()}
	if _, err := store.Create(t.Context(), Spec{Name: "demo", ControlPlanes: 1}); err == nil || !strings.Contains(err.Error(), "needs root") {
		t.Errorf("got %v, want an error that asks for root", err)
	}
}

// testStore is a store of its own for a test that boots hosts.
func testStore(t *testing.T) *Store {
	t.Helper()
	store := &Store{Dir: filepath.Join(t.TempDir(), "labs"), CacheDir: DefaultCacheDir}
	if os.Geteuid() != 0 {
		t.Skip("booting hosts needs root")
	}
	if !exists(filepath.Join(store.CacheDir, treeKey())) {
		t.Skip("the Debian tree is not cached: `clusterctl lab create` once caches it")
	}
	if err := store.Check(); err != nil {
		t.Skipf("this machine cannot run a lab: %v", err)
	}
	return store
}

// leftovers lists what a lab's deletion has left on the machine.
func leftovers(t *testing.T, store *Store, lab *Lab) []string {
	t.Helper()
	var found []string
	if exists(lab.dir) {
		found = append(found, lab.dir)
	}
	if _, err := netlink.LinkByName(lab.link()); err == nil {
		found = append(found, lab.link())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), store.Dir) {
		found = append(found, "a mount in "+store.Dir)
	}
	hierarchies, err := machineHierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hierarchies {
		if path := filepath.Join(h.Mount, lab.cgroup()); exists(path) {
			found = append(found, path)
		}
	}
	return found
}

func run(t *testing.T, lab *Lab, host *Host, command string) (string, error) {
	t.Helper()
	config, err := lab.clientConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", net.JoinHostPort(host.Address, "22"), config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	output, err := session.CombinedOutput(command)
	return strings.TrimSpace(string(output)), err
}

func TestLabLifeCycle(t *testing.T) {
	store := testStore(t)
	ctx := t.Context()
	spec := Spec{Name: "cycle", ControlPlanes: 1, Workers: 1}
	t.Cleanup(func() { _ = store.Delete(spec.Name) })
	lab, err := store.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	cp, worker := lab.Hosts[0], lab.Hosts[1]
	if out, err := run(t, lab, cp, "hostname; cat /proc/1/comm; echo kept >/root/kept; echo kept >/var/lib/kept; stat -f -c %T /var/lib"); err != nil || !strings.HasPrefix(out, "cp1\nsystemd\n") || strings.Contains(out, "overlay") {
		t.Errorf("inside the host: %q, %v", out, err)
	}
	if out, err := run(t, lab, cp, "unshare -Urpf --mount-proc cat /proc/self/comm"); err != nil || out != "cat" {
		t.Errorf("a user namespace inside the host: %q, %v", out, err)
	}
	ping := func() bool {
		_, err := run(t, lab, cp, "ping -c1 -W1 "+worker.Address)
		return err == nil
	}
	if !ping() {
		t.Error("hosts do not reach each other")
	}
	if _, err := store.Create(ctx, Spec{Name: "cycle", ControlPlanes: 3}); !errors.Is(err, ErrExists) {
		t.Errorf("create in another shape: got %v, want ErrExists", err)
	}

	if err := store.Cut("cycle", "cp1", "worker1"); err != nil {
		t.Fatal(err)
	}
	if ping() {
		t.Error("hosts reach each other over a cut path")
	}
	if err := store.Kill(ctx, "cycle", "worker1"); err != nil {
		t.Fatal(err)
	}
	if worker.State() != Stopped || cp.State() != Running {
		t.Errorf("after kill of worker1: cp1 is %s, worker1 %s", cp.State(), worker.State())
	}
	if err := store.Start(ctx, "cycle"); err != nil {
		t.Fatal(err)
	}
	if ping() {
		t.Error("a restart healed the cut")
	}
	if err := store.Heal("cycle", "", ""); err != nil {
		t.Fatal(err)
	}
	if !ping() {
		t.Error("hosts do not reach each other after heal")
	}

	if err := store.Stop(ctx, "cycle", "cp1"); err != nil {
		t.Fatal(err)
	}
	if cp.State() != Stopped {
		t.Error("cp1 runs after stop")
	}
	if _, err := store.Create(ctx, spec); err != nil {
		t.Fatalf("create of a lab that exists: %v", err)
	}
	if out, err := run(t, lab, cp, "cat /root/kept /var/lib/kept"); err != nil || out != "kept\nkept" {
		t.Errorf("after a restart the disk holds %q, %v", out, err)
	}

	if err := store.Delete("cycle"); err != nil {
		t.Fatal(err)
	}
	if found := leftovers(t, store, lab); len(found) > 0 {
		t.Errorf("delete left %v", found)
	}
	if err := store.Delete("cycle"); !errors.Is(err, ErrNoLab) {
		t.Errorf("second delete: got %v, want ErrNoLab", err)
	}
}

func TestTwoLinks(t *testing.T) {
	store := testStore(t)
	spec := Spec{Name: "links", Workers: 3, Links: 2}
	t.Cleanup(func() { _ = store.Delete(spec.Name) })
	lab, err := store.Create(t.Context(), spec) // which logs into hosts of both
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range lab.Hosts[1:] {
		address := netip.MustParseAddr(host.Address)
		ways := []netip.Addr{address}
		if hasIPv6() {
			ways = append(ways, secondAddress(address))
		}
		for _, to := range ways {
			out, err := run(t, lab, lab.Hosts[0], fmt.Sprintf("ping -c1 -W5 %[1]s >&2 && ip route get %[1]s", to))
			if routed := strings.Contains(out, " via "); err != nil || routed != (host.Name == "worker2") {
				t.Errorf("from worker1 to %s at %s: %v: %s", host.Name, to, err, out)
			}
		}
	}
	if err := store.Cut("links", "worker1", "worker3"); err != nil {
		t.Errorf("cut hosts of one link: %v", err)
	}
	if err := store.Cut("links", "worker1", "worker2"); err == nil || !strings.Contains(err.Error(), "different links") {
		t.Errorf("cut hosts of different links: got %v", err)
	}
	if _, err := store.Create(t.Context(), Spec{Name: "links", Workers: 3}); !errors.Is(err, ErrExists) {
		t.Errorf("create with one link: got %v, want ErrExists", err)
	}
	if err := store.Delete("links"); err != nil {
		t.Fatal(err)
	}
	if found := leftovers(t, store, lab); len(found) > 0 {
		t.Errorf("delete left %v", found)
	}
}

func TestInterruptedCreateCanBeDeletedAndCarriedOn(t *testing.T) {
	store := testStore(t)
	spec := Spec{Name: "broken", ControlPlanes: 1}
	t.Cleanup(func() { _ = store.Delete(spec.Name) })

	// Cut off once the hosts run but before anything was reported.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.Create(ctx, spec); err == nil {
		t.Fatal("a cancelled create reported success")
	}
	lab, err := store.Open("broken")
	if err != nil {
		t.Fatal(err)
	}
	// What a kill between two steps leaves: a disk without its mark.
	if err := store.Kill(t.Context(), "broken"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(lab.Hosts[0].Console()); err != nil {
		t.Fatal(err)
	}
	if lab, err = store.Create(t.Context(), spec); err != nil {
		t.Fatalf("carry an interrupted create on: %v", err)
	}
	// And a state file that was never written.
	if err := os.Remove(lab.stateFile()); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete("broken"); err != nil {
		t.Fatal(err)
	}
	if found := leftovers(t, store, lab); len(found) > 0 {
		t.Errorf("delete left %v", found)
	}
}
