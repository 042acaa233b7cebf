package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostop"
)

func newImageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Bring container images to the nodes"}
	c.AddCommand(&cobra.Command{
		Use:   "load INVENTORY ARCHIVE...",
		Short: "Import image archives (OCI or docker save) on every node",
		Example: `  clusterctl image load inventory.yaml app.tar
  docker save app:1 -o app.tar && clusterctl image load inventory.yaml app.tar`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) (err error) {
			f, err := connect(c.Context(), args[0])
			if f != nil {
				defer func() { err = errors.Join(err, f.Close()) }()
			}
			if err != nil {
				return err
			}
			for _, archive := range args[1:] {
				err := eachHost(f.inventory.Nodes(), nil, func(h inventory.Host) error {
					file, err := os.Open(archive)
					if err != nil {
						return fmt.Errorf("open archive: %w", err)
					}
					defer file.Close()
					info, err := file.Stat()
					if err != nil {
						return fmt.Errorf("measure archive: %w", err)
					}
					var names []string
					if err := f.stream(c.Context(), h.Name, hostop.MethodImportImage, file, info.Size(), &names); err != nil {
						return fmt.Errorf("import %s: %w", archive, err)
					}
					fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", h.Name, strings.Join(names, ", "))
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		},
	})
	return c
}
