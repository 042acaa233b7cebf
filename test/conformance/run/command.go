package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// shell runs a program to its end, in dir; its output is part of the error.
func shell(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	softly(cmd)
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("run %s: %w\n%s%s", filepath.Base(name), err, last(stdout.String()), last(stderr.String()))
	}
	return stdout.String(), nil
}

// softly lets a command clean up behind itself when its context ends.
func softly(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
}

// last is the end of an output, where the cause stands.
func last(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// commit names what the tests judge: the commit that clusterctl, and with it
// the control plane and the node agent it carries, was built from.
func commit(ctx context.Context, o options) (string, error) {
	out, err := shell(ctx, o.root, nil, o.clusterctl, "version")
	if err != nil {
		return "", fmt.Errorf("ask clusterctl for its version: %w", err)
	}
	words := strings.Fields(out)
	if len(words) < 2 {
		return "", fmt.Errorf("clusterctl's version is %q", last(out))
	}
	return words[1], nil
}
