package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bundle/payload"
	"clusterctl/hostconfig"
)

// build is what `clusterctl version` tells.
type build struct {
	Version    string             `json:"version"`
	Kubernetes string             `json:"kubernetes"`
	Go         string             `json:"go"`
	Platform   string             `json:"platform"`
	Payloads   []payload.Manifest `json:"payloads"`
}

func newVersionCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of clusterctl and of everything it carries",
		Example: `  clusterctl version
  clusterctl version --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b := build{
				Version: hostconfig.Version, Kubernetes: version.Get().GitVersion,
				Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
			}
			for _, arch := range payload.Architectures() {
				m, err := payload.Load(arch)
				if err != nil {
					return err
				}
				b.Payloads = append(b.Payloads, m)
			}
			if output == "json" {
				encoder := json.NewEncoder(c.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(b)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "clusterctl\t%s\t%s %s\n", b.Version, b.Platform, b.Go)
			fmt.Fprintf(w, "Kubernetes API\t%s\n", b.Kubernetes)
			for _, m := range b.Payloads {
				fmt.Fprintf(w, "\npayload linux/%s\tVERSION\tSIZE\n", m.Arch)
				for _, e := range m.Entries {
					fmt.Fprintf(w, "%s\t%s\t%.1f MB\n", e.Name, e.Version, float64(e.Size)/1e6)
				}
			}
			if len(b.Payloads) == 0 {
				fmt.Fprintln(w, "\nno payload: this build cannot install hosts (run `make build`)")
			}
			return w.Flush()
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// newSchemaCommand prints the JSON schema of inventories, for editors.
func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON schema of inventories, for editors",
		Example: `  clusterctl schema > inventory.schema.json`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			schema, err := inventory.Schema()
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(schema)
			return err
		},
	}
}
