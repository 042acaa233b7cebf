package main

import (
	"fmt"
	"os"

	"clusterctl/hostconfig"
)

// linkKubeletDir makes the place where published drivers look for a node's
// agent lead to stateDir. What somebody else has there is left alone.
func linkKubeletDir(stateDir string) error {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if to, err := os.Readlink(hostconfig.KubeletDir); err == nil && to == stateDir {
		return nil
	}
	if err := os.Symlink(stateDir, hostconfig.KubeletDir); err != nil {
		return fmt.Errorf("link to the node agent's state (drivers will not be found): %w", err)
	}
	return nil
}
