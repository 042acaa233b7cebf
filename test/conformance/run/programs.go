package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// program is one that is built from this module's go.mod.
type program struct {
	name string
	pkg  string
	test bool // a test binary
}

var programs = []program{
	{name: "e2e.test", pkg: "k8s.io/kubernetes/test/e2e", test: true},
	{name: "ginkgo", pkg: "github.com/onsi/ginkgo/v2/ginkgo"},
	{name: "kubectl", pkg: "k8s.io/kubernetes/cmd/kubectl"},
	{name: "agnhost", pkg: "k8s.io/kubernetes/test/images/agnhost"},
	{name: "nnp", pkg: "k8s.io/kubernetes/test/images/nonewprivs"},
	{name: "regression-issue-74839", pkg: "k8s.io/kubernetes/test/images/regression-issue-74839"},
	{name: "sample-apiserver", pkg: "k8s.io/sample-apiserver"},
	{name: "etcd", pkg: "go.etcd.io/etcd/server/v3"},
}

// linker strips the programs and gives them the version that they report: tests
// parse kubectl's.
const (
	base   = "k8s.io/component-base/version."
	linker = "-s -w -X " + base + "gitVersion=v1.36.3 -X " + base + "gitMajor=1 -X " + base + "gitMinor=36 -X " + base + "gitTreeState=clean"
)

func (o options) program(name string) string { return filepath.Join(o.cache, "bin", name) }

// buildPrograms builds what is missing or was built from other versions.
func buildPrograms(ctx context.Context, o options) error {
	dir := filepath.Join(o.root, "test/conformance")
	sum, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return fmt.Errorf("read versions: %w", err)
	}
	stamp := fmt.Sprintf("%s %s %x\n", runtime.Version(), linker, sha256.Sum256(sum))
	for _, p := range programs {
		out := o.program(p.name)
		if made, err := os.ReadFile(out + ".stamp"); err == nil && string(made) == stamp {
			continue
		}
		log.Printf("building %s", p.name)
		started := time.Now()
		args := []string{"build", "-trimpath", "-ldflags", linker, "-o", out, p.pkg}
		if p.test {
			args = append([]string{"test", "-c"}, args[1:]...)
		}
		if _, err := shell(ctx, dir, []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false"}, "go", args...); err != nil {
			return fmt.Errorf("build %s: %w", p.name, err)
		}
		if err := os.WriteFile(out+".stamp", []byte(stamp), 0o644); err != nil {
			return fmt.Errorf("mark %s as built: %w", p.name, err)
		}
		log.Printf("built %s in %s", p.name, time.Since(started).Round(time.Second))
	}
	return nil
}
