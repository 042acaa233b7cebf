package runtime

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

func TestLostShims(t *testing.T) {
	proc := t.TempDir()
	for pid, dir := range map[string]string{
		"10":  "/run/tasks/k8s.io/a",
		"11":  "/run/tasks/k8s.io/b (deleted)",
		"12":  "/run/other/c (deleted)",
		"13":  "/run/tasks-of-others/d (deleted)",
		"sys": "/run/tasks/e (deleted)",
	} {
		if err := os.Mkdir(filepath.Join(proc, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir, filepath.Join(proc, pid, "cwd")); err != nil {
			t.Fatal(err)
		}
	}
	if got := (&Strays{Tasks: "/run/tasks"}).shims(proc); !slices.Equal(got, []int{11}) {
		t.Errorf("got %v, want 11 alone", got)
	}
}

func TestLostProcessIsEnded(t *testing.T) {
	tasks, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	strays := &Strays{Tasks: tasks}
	run := func(name string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("sleep", "600")
		if cmd.Dir = filepath.Join(tasks, name); os.Mkdir(cmd.Dir, 0o700) != nil {
			t.Fatal("cannot make the directory")
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
		return cmd
	}
	kept, gone := run("kept"), run("gone")
	if err := os.Remove(gone.Dir); err != nil {
		t.Fatal(err)
	}
	if got := strays.shims("/proc"); !slices.Equal(got, []int{gone.Process.Pid}) {
		t.Fatalf("got %v, want %d alone", got, gone.Process.Pid)
	}
	strays.endShim(kept.Process.Pid)
	strays.endShim(gone.Process.Pid)
	if err := gone.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the lost process ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(kept.Process.Pid), "exe")); err != nil {
		t.Errorf("another process was ended: %v", err)
	}
}

func TestLostStatesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s := &Strays{Tasks: filepath.Join(dir, "tasks"), Root: filepath.Join(dir, "runc"), Runc: filepath.Join(dir, "program")}
	for _, id := range []string{"kept", "gone"} {
		if err := os.MkdirAll(filepath.Join(s.Root, "k8s.io", id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Root, "k8s.io", id, "state.json"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(s.Tasks, "k8s.io", "kept"), 0o700); err != nil {
		t.Fatal(err)
	}
	lost := s.states()
	if want := []string{filepath.Join(s.Root, "k8s.io", "gone")}; !slices.Equal(lost, want) {
		t.Fatalf("got %v, want %v", lost, want)
	}
	program := "#!/bin/sh\ntest \"$1 $3 $4\" = '--root delete --force' && rm -r \"$2/$5\""
	if err := os.WriteFile(s.Runc, []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.remove(t.Context(), lost[0]); err != nil {
		t.Error(err)
	}
	if left := s.states(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := s.remove(t.Context(), lost[0]); err == nil {
		t.Error("a failure of runc is not told of")
	}
}
