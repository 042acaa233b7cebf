package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// TestIngressNodes: they alone serve and have the rights; without any, the
// rights are taken back.
func TestIngressNodes(t *testing.T) {
	on := strings.Replace(stacked, "cluster: {", "cluster: {ingress: {hosts: [w2], labels: {disk: ssd}, defaultClass: true, maxBody: 1Ki}, ", 1)
	for _, test := range []struct {
		text  string
		nodes []string
	}{{on, []string{"w1", "w2"}}, {stacked, nil}} {
		inv := parse(t, test.text)
		serving := map[string]*hostconfig.Ingress{}
		manifests := ""
		for _, step := range build(t, inv, fresh(inv)).Steps {
			for _, op := range step.Ops {
				switch op := op.(type) {
				case *hostop.File:
					var config hostconfig.NodeAgent
					if op.Path != hostconfig.NodeConf {
						continue
					}
					if err := yaml.UnmarshalStrict(op.Content, &config); err != nil {
						t.Fatal(err)
					}
					if config.Ingress != nil {
						serving[config.NodeName] = config.Ingress
					}
				case *hostop.Manifests:
					if op.Name == "ingress" {
						manifests = string(op.YAML)
					}
				}
			}
		}
		want := map[string]*hostconfig.Ingress{}
		for _, name := range test.nodes {
			want[name] = &hostconfig.Ingress{Nodes: test.nodes, MaxBodyBytes: 1024}
		}
		if diff := cmp.Diff(want, serving); diff != "" {
			t.Error(diff)
		}
		if test.nodes == nil {
			if !strings.Contains(manifests, "subjects: []") || strings.Contains(manifests, "IngressClass\n") {
				t.Errorf("rights without nodes:\n%s", manifests)
			}
			continue
		}
		for _, text := range []string{"name: system:node:w1\n", "name: system:node:w2\n", `is-default-class: "true"`, "controller: " + hostconfig.IngressController} {
			if !strings.Contains(manifests, text) {
				t.Errorf("no %s in:\n%s", text, manifests)
			}
		}
		if strings.Contains(manifests, "system:node:cp") {
			t.Errorf("control planes have the rights:\n%s", manifests)
		}
	}
}
