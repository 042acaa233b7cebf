package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"
)

// newRootCommand builds the whole command tree; arguments are the process's.
func newRootCommand(arguments []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "clusterctl",
		Short: "One file that makes hosts a Kubernetes cluster and runs it",
		Long: `clusterctl turns hosts that answer on SSH into a highly available cluster that
speaks the Kubernetes API, and is then the terminal it is run from.

Examples:
  # A cluster of throw-away hosts on this machine (Linux, root)
  clusterctl lab create --control-planes 3 --workers 2 --inventory .lab/inventory.yaml
  clusterctl up .lab/inventory.yaml

  # What would change, then the change
  clusterctl plan inventory.yaml
  clusterctl up inventory.yaml

  # Look around
  clusterctl status inventory.yaml
  clusterctl get pods -A
  clusterctl ui`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
	}
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	groups := templates.CommandGroups{
		{Message: "Cluster:", Commands: []*cobra.Command{
			newUpCommand(), newPlanCommand(), newStatusCommand(), newKubeconfigCommand(), newImageCommand(), newHostsCommand(), newCertsCommand(), newResetCommand(),
		}},
		{Message: "Terminal:", Commands: []*cobra.Command{newUICommand()}},
		{Message: "Try it out:", Commands: []*cobra.Command{newLabCommand()}},
	}
	groups = append(groups, newKubectlGroups(arguments, streams)...)
	groups = append(groups, templates.CommandGroup{Message: "About clusterctl:", Commands: []*cobra.Command{newVersionCommand(), newSchemaCommand()}})
	groups.Add(root)
	templates.ActsAsRootCommand(root, nil, groups...)
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	return root
}
