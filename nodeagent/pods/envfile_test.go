package pods

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/volumes"
)

func TestReadVariable(t *testing.T) {
	for _, c := range []struct{ name, file, key, value, fault string }{
		{name: "one of several", file: "A='1'\nB='2'\n", key: "B", value: "2"},
		{name: "the first counts", file: "A='1'\nA='2'\n", key: "A", value: "1"},
		{name: "none", file: "A='1'", key: "B"},
		{name: "an empty file", key: "B"},
		{name: "blanks, comments and carriage returns", file: "# A='0'\r\n\r\n \t# B\r\n\t A='1' # one\r\n", key: "A", value: "1"},
		{name: "nothing is expanded", file: `A='$B ${C} \n "#" =x'`, key: "A", value: `$B ${C} \n "#" =x`},
		{name: "white space stays", file: "A='  x\t'", key: "A", value: "  x\t"},
		{name: "several lines", file: "A='x\n\n# y\nB=' # end\nB='2'", key: "A", value: "x\n\n# y\nB="},
		{name: "behind several lines", file: "A='x\ny'\nB='2'", key: "B", value: "2"},
		{name: "a gap is an empty value", file: "A= '1'\nA='2'", key: "A"},
		{name: "of another", file: "A= '1'\nB='2'", key: "B", value: "2"},
		{name: "a fault behind the key", file: "A='1'\nnonsense", key: "A", value: "1"},
		{name: "no assignment", file: "A='1'\nnonsense", key: "B", fault: "at line 2: missing '='"},
		{name: "no name", file: "='1'", key: "A", fault: "at line 1: empty variable name"},
		{name: "a gap before the sign", file: "A ='1'", key: "A", fault: "whitespace before '='"},
		{name: "no quotes", file: "A=1", key: "A", fault: "enclosed in single quotes"},
		{name: "nothing", file: "A=", key: "A", fault: "enclosed in single quotes"},
		{name: "other quotes", file: `A="1"`, key: "A", fault: "enclosed in single quotes"},
		{name: "two in a row", file: "A='1''2'", key: "A", fault: "unexpected content"},
		{name: "no end", file: "\nA='1\n2\n", key: "A", fault: "starting at line 2: unclosed"},
		{name: "an end too late", file: "A='1\nB='2'", key: "B", fault: "at line 2: unexpected content"},
		{name: "a line too long", file: "A='" + strings.Repeat("x", 1<<17) + "'", key: "B", fault: "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			value, err := readVariable(strings.NewReader(c.file), c.key)
			if value != c.value || (err != nil) != (c.fault != "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("got %q, %v, want %q, %q", value, err, c.value, c.fault)
			}
		})
	}
}

func TestEnvironmentFromAFile(t *testing.T) {
	base := t.TempDir()
	volume := filepath.Join(base, "volume")
	for name, content := range map[string]string{"volume/dir/a.env": "A='1'\nEMPTY=''\n", "volume/bad.env": "A=1", "outside.env": "A='secret'"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(base, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(base, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside.env", filepath.Join(volume, "leads-out.env")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dir/a.env", filepath.Join(volume, "leads-in.env")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(volume, "pipe.env"), 0o600); err != nil {
		t.Fatal(err)
	}
	yes := true
	a := &Agent{Config: Config{Logger: slog.New(slog.DiscardHandler)}}
	mounted := &volumes.Mounted{Sources: map[string]volumes.Source{"v": {Path: volume}, "block": {Device: "/dev/x"}}}
	const unreadable = "couldn't parse env file"
	for _, c := range []struct {
		ref   v1.FileKeySelector
		value string
		ok    bool
		fault string
	}{
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "dir/a.env", Key: "A"}, value: "1", ok: true},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "leads-in.env", Key: "A"}, value: "1", ok: true},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "dir/a.env", Key: "B"},
			fault: `environment variable key "B" not found in file "` + volume + `/dir/a.env"`},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "dir/a.env", Key: "EMPTY"},
			fault: `environment variable key "EMPTY" not found in file "` + volume + `/dir/a.env"`},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "dir/a.env", Key: "B", Optional: &yes}},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "none.env", Key: "A", Optional: &yes}, fault: unreadable},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "bad.env", Key: "A", Optional: &yes}, fault: unreadable},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "leads-out.env", Key: "A"}, fault: unreadable},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "pipe.env", Key: "A"}, fault: unreadable},
		{ref: v1.FileKeySelector{VolumeName: "v", Path: "dir", Key: "A"}, fault: unreadable},
		{ref: v1.FileKeySelector{VolumeName: "w", Path: "a.env", Key: "A"}, fault: `cannot find the volume "w" referenced by FileKeyRef`},
		{ref: v1.FileKeySelector{VolumeName: "block", Path: "a.env", Key: "A"}, fault: `cannot find the volume "block" referenced by FileKeyRef`},
	} {
		t.Run(c.ref.VolumeName+" "+c.ref.Path+" "+c.ref.Key, func(t *testing.T) {
			value, ok, err := a.envFile(&v1.Pod{}, &c.ref, mounted)
			if value != c.value || ok != c.ok || (err != nil) != (c.fault != "") || err != nil && err.Error() != c.fault {
				t.Errorf("got %q, %v, %v, want %q, %v, %q", value, ok, err, c.value, c.ok, c.fault)
			}
		})
	}
}
