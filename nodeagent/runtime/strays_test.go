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
	if got := lostShims(proc, "/run/tasks"); !slices.Equal(got, []int{11}) {
		t.Errorf("got %v, want 11 alone", got)
	}
}

func TestLostProcessIsEnded(t *testing.T) {
	tasks, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
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
	if got := lostShims("/proc", tasks); !slices.Equal(got, []int{gone.Process.Pid}) {
		t.Fatalf("got %v, want %d alone", got, gone.Process.Pid)
	}
	end(kept.Process.Pid, tasks)
	end(gone.Process.Pid, tasks)
	if err := gone.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the lost process ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(kept.Process.Pid), "exe")); err != nil {
		t.Errorf("another process was ended: %v", err)
	}
}
