package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/util/templates"
)

// kubectlGroups says under which heading each of kubectl's verbs stands. Those
// left out are clusterctl's own (version, completion) or only make sense for
// kubectl itself (options, plugin, alpha, kuberc).
var kubectlGroups = []struct {
	heading string
	verbs   []string
}{
	{"Look:", []string{"get", "describe", "logs", "events", "top", "explain", "diff", "wait", "api-resources", "api-versions", "cluster-info"}},
	{"Change:", []string{"apply", "create", "edit", "delete", "patch", "replace", "label", "annotate", "set", "kustomize"}},
	{"Run:", []string{"run", "expose", "scale", "autoscale", "rollout", "exec", "attach", "cp", "debug", "port-forward", "proxy"}},
	{"Nodes and access:", []string{"cordon", "uncordon", "drain", "taint", "auth", "certificate", "config"}},
}

// newKubectlGroups returns kubectl's verbs as clusterctl's own. They take
// kubectl's flags and read the kubeconfig's current context as kubectl does.
func newKubectlGroups(arguments []string, streams genericiooptions.IOStreams) templates.CommandGroups {
	kubectl := cmd.NewKubectlCommand(cmd.KubectlOptions{
		Arguments: arguments,
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
			WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams),
		IOStreams: streams,
	})
	var groups templates.CommandGroups
	for _, group := range kubectlGroups {
		commands := make([]*cobra.Command, 0, len(group.verbs))
		for _, verb := range group.verbs {
			i := slices.IndexFunc(kubectl.Commands(), func(c *cobra.Command) bool { return c.Name() == verb })
			c := kubectl.Commands()[i] // a verb that kubectl does not have is a mistake in the table
			kubectl.RemoveCommand(c)
			c.PersistentFlags().AddFlagSet(kubectl.PersistentFlags())
			if c.PersistentPreRunE == nil {
				c.PersistentPreRunE, c.PersistentPostRunE = kubectl.PersistentPreRunE, kubectl.PersistentPostRunE
			}
			rename(c)
			commands = append(commands, c)
		}
		groups = append(groups, templates.CommandGroup{Message: group.heading, Commands: commands})
	}
	return groups
}

// rename lets examples say what a user of clusterctl has to type.
func rename(c *cobra.Command) {
	c.Example = strings.ReplaceAll(c.Example, "kubectl ", "clusterctl ")
	c.Long = strings.ReplaceAll(c.Long, "kubectl ", "clusterctl ")
	for _, sub := range c.Commands() {
		rename(sub)
	}
}
