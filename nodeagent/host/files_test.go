package host

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

func TestFilesConverge(t *testing.T) {
	const dir = hostconfig.EtcDir
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, root string)
		op      hostop.Op
		differs string // what the first check says
		verify  func(t *testing.T, root string)
	}{
		{
			name: "directory", op: &hostop.Directory{Path: dir + "/pki", Mode: 0o700}, differs: "absent",
			verify: func(t *testing.T, root string) { wantMode(t, root+dir+"/pki", fs.ModeDir|0o700) },
		},
		{
			name: "directory with another mode", op: &hostop.Directory{Path: dir, Mode: 0o700}, differs: "mode 0755, not 0700",
			prepare: func(t *testing.T, root string) { mkdir(t, root+dir) },
			verify:  func(t *testing.T, root string) { wantMode(t, root+dir, fs.ModeDir|0o700) },
		},
		{
			name: "file", op: &hostop.File{Path: dir + "/a.yaml", Mode: 0o600, Content: []byte("x")}, differs: "absent",
			verify: func(t *testing.T, root string) {
				wantMode(t, root+dir+"/a.yaml", 0o600)
				wantContent(t, root+dir+"/a.yaml", "x")
			},
		},
		{
			name: "file with other content", op: &hostop.File{Path: dir + "/a.yaml", Mode: 0o644, Content: []byte("new")}, differs: "other content",
			prepare: func(t *testing.T, root string) { write(t, root+dir+"/a.yaml", "old", 0o644) },
			verify:  func(t *testing.T, root string) { wantContent(t, root+dir+"/a.yaml", "new") },
		},
		{
			name: "file with looser mode", op: &hostop.File{Path: dir + "/a.yaml", Mode: 0o600, Content: []byte("x")}, differs: "mode 0644",
			prepare: func(t *testing.T, root string) { write(t, root+dir+"/a.yaml", "x", 0o644) },
			verify:  func(t *testing.T, root string) { wantMode(t, root+dir+"/a.yaml", 0o600) },
		},
		{
			name: "file where a link is", op: &hostop.File{Path: dir + "/a.yaml", Mode: 0o600, Content: []byte("x")}, differs: "not a regular file",
			prepare: func(t *testing.T, root string) {
				write(t, root+dir+"/target", "keep", 0o600)
				if err := os.Symlink("target", root+dir+"/a.yaml"); err != nil {
					t.Fatal(err)
				}
			},
			verify: func(t *testing.T, root string) {
				wantContent(t, root+dir+"/a.yaml", "x")
				wantContent(t, root+dir+"/target", "keep")
			},
		},
		{
			name: "file over what a killed run left", op: &hostop.File{Path: dir + "/a.yaml", Mode: 0o600, Content: []byte("x")}, differs: "absent",
			prepare: func(t *testing.T, root string) { write(t, root+dir+"/.a.yaml.clusterctl-new", "half", 0o666) },
			verify: func(t *testing.T, root string) {
				wantContent(t, root+dir+"/a.yaml", "x")
				wantAbsent(t, root+dir+"/.a.yaml.clusterctl-new")
			},
		},
		{
			name: "link", op: &hostop.Link{Path: hostconfig.BinDir, Target: "v2"}, differs: "points at v1",
			prepare: func(t *testing.T, root string) {
				mkdir(t, root+hostconfig.LibDir)
				if err := os.Symlink("v1", root+hostconfig.BinDir); err != nil {
					t.Fatal(err)
				}
			},
			verify: func(t *testing.T, root string) {
				if got, _ := os.Readlink(root + hostconfig.BinDir); got != "v2" {
					t.Errorf("link points at %q", got)
				}
			},
		},
		{
			name: "absent tree", op: &hostop.Absent{Path: dir + "/cni"}, differs: "is there",
			prepare: func(t *testing.T, root string) { write(t, root+dir+"/cni/a/b", "x", 0o600) },
			verify:  func(t *testing.T, root string) { wantAbsent(t, root+dir+"/cni") },
		},
		{
			name: "trust anchor", op: &hostop.TrustAnchor{Path: dir + "/pki/cluster-ca.crt", Cert: []byte("pem")}, differs: "absent",
			verify: func(t *testing.T, root string) { wantMode(t, root+dir+"/pki/cluster-ca.crt", 0o644) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			if c.prepare != nil {
				c.prepare(t, root)
			}
			h := New(Options{Root: root, Init: newFakeInit()})
			before := snapshot(t, root)
			differs, err := h.Check(t.Context(), c.op)
			if err != nil || !strings.Contains(differs, c.differs) || differs == "" {
				t.Fatalf("first check: %q, %v; want %q", differs, err, c.differs)
			}
			if after := snapshot(t, root); after != before {
				t.Fatalf("the check changed something:\n%s\n%s", before, after)
			}
			if changed, err := h.Apply(t.Context(), c.op, ignore); err != nil || !changed {
				t.Fatalf("apply: changed %v, %v", changed, err)
			}
			c.verify(t, root)
			before = snapshot(t, root)
			if changed, err := h.Apply(t.Context(), c.op, ignore); err != nil || changed {
				t.Fatalf("second apply: changed %v, %v", changed, err)
			}
			if after := snapshot(t, root); after != before {
				t.Errorf("the second apply touched something:\n%s\n%s", before, after)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/etc/clusterctl/file", "x", 0o600)
	mkdir(t, root+"/usr/local/lib/clusterctl/current")
	mkdir(t, root+"/usr")
	h := New(Options{Root: root, Init: newFakeInit()})
	for _, c := range []struct {
		op   hostop.Op
		want string
	}{
		{&hostop.Absent{Path: "/"}, ""},
		{&hostop.Absent{Path: "/usr"}, "refuse to remove"},
		{&hostop.Absent{Path: "/usr/.."}, ""},
		{&hostop.Directory{Path: "/etc/clusterctl/file", Mode: 0o700}, "something else is there"},
		{&hostop.Link{Path: hostconfig.BinDir, Target: "v1"}, "a directory is there"},
		{&hostop.Authorities{PKIDir: hostconfig.PKIDir}, "not sent along"},
		{&hostop.Authorities{PKIDir: hostconfig.PKIDir, Bundle: map[string][]byte{"../x": nil}}, "is not a file name"},
		{&hostop.Certificate{PKIDir: hostconfig.PKIDir, Pair: "etcd"}, "not sent along"},
		{&hostop.Blob{Path: "/usr/local/lib/clusterctl/v1/x", Digest: "sha256:../../etc/passwd"}, "is not a digest"},
		{&hostop.Blob{Path: "/usr/local/lib/clusterctl/v1/x", Digest: "sha256:" + strings.Repeat("a", 64)}, "was not sent"},
	} {
		_, err := h.Apply(t.Context(), c.op, ignore)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.op.Describe(), err, c.want)
		}
	}
	wantContent(t, root+"/etc/clusterctl/file", "x")
}

func TestOriginalsComeBack(t *testing.T) {
	root := t.TempDir()
	const path, fresh = "/etc/sysctl.d/99-theirs.conf", "/etc/modules-load.d/clusterctl.conf"
	write(t, root+path, "theirs", 0o640)
	h := New(Options{Root: root, Init: newFakeInit()})
	for _, content := range []string{"first", "second"} {
		for _, p := range []string{path, fresh} {
			if _, err := h.Apply(t.Context(), &hostop.File{Path: p, Mode: 0o644, Content: []byte(content)}, ignore); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantContent(t, root+path, "second")
	for range 2 { // a second reset finds nothing to do
		if err := h.Reset(context.Background(), ignore); err != nil {
			t.Fatal(err)
		}
		wantContent(t, root+path, "theirs")
		wantMode(t, root+path, 0o640)
		wantAbsent(t, root+fresh)
		wantAbsent(t, root+hostconfig.VarDir)
	}
}

func ignore(string) {}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func wantMode(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != mode {
		t.Errorf("%s has mode %v, want %v", path, info.Mode(), mode)
	}
}

func wantContent(t *testing.T, path, content string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != content {
		t.Errorf("%s holds %q, want %q", path, raw, content)
	}
}

func wantAbsent(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); err == nil {
		t.Errorf("%s is there", path)
	}
}

// snapshot lists a tree with modes and times, so that any touch shows.
func snapshot(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		b.WriteString(path + " " + info.Mode().String() + " " + info.ModTime().String() + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
