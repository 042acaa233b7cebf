//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// newLabCommand says that labs are for Linux.
func newLabCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lab",
		Short: "Boot throw-away hosts on this machine (Linux only)",
		RunE: func(*cobra.Command, []string) error {
			return errors.New("a lab needs Linux: its hosts are namespaces of one kernel")
		},
	}
}
