package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bootstrap/ssh"
	"clusterctl/hostop"
)

// newHostsCommand is `clusterctl hosts`: what concerns machines, not nodes.
func newHostsCommand() *cobra.Command {
	c := &cobra.Command{Use: "hosts", Short: "Run a command, or read a journal, on the hosts of an inventory"}
	c.AddCommand(newHostsExecCommand(), newHostsJournalCommand())
	return c
}

func newHostsExecCommand() *cobra.Command {
	var only string
	c := &cobra.Command{
		Use:   "exec INVENTORY -- COMMAND",
		Short: "Run a shell command on every host",
		Example: `  clusterctl hosts exec inventory.yaml -- uptime
  clusterctl hosts exec inventory.yaml --host cp1,cp2 -- 'systemctl status clusterctl-*'`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			inv, err := inventory.Load(args[0])
			if err != nil {
				return err
			}
			return execOnHosts(c, inv, hostList(only), strings.Join(args[1:], " "))
		},
	}
	c.Flags().StringVar(&only, "host", "", "only these hosts, comma-separated")
	return c
}

// execOnHosts prints each host's output in one piece, in the inventory's order.
func execOnHosts(c *cobra.Command, inv *inventory.Inventory, only []string, command string) error {
	dialer, err := ssh.NewDialer(ssh.Options{Prompt: ssh.TerminalPrompt})
	if err != nil {
		return err
	}
	hosts := inv.Present()
	outputs := map[string][]byte{}
	var mu sync.Mutex
	err = eachHost(hosts, only, func(h inventory.Host) error {
		out, err := execOnHost(c.Context(), dialer, target(h), command)
		mu.Lock()
		defer mu.Unlock()
		outputs[h.Name] = out
		return err
	})
	for _, h := range hosts {
		out, ran := outputs[h.Name]
		if !ran {
			continue
		}
		fmt.Fprintf(c.OutOrStdout(), "--- %s\n%s", h.Name, out)
		if len(out) > 0 && !bytes.HasSuffix(out, []byte("\n")) {
			fmt.Fprintln(c.OutOrStdout())
		}
	}
	return errors.Join(err, dialer.Close())
}

func execOnHost(ctx context.Context, dialer *ssh.Dialer, t ssh.Target, command string) ([]byte, error) {
	client, err := dialer.Dial(ctx, t)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	probe, _, err := client.Run(ctx, ssh.RootProbe+`; echo "$root"`, nil)
	if err != nil {
		return nil, err
	}
	root, err := client.Root(ctx, ssh.RootAccess(strings.TrimSpace(string(probe))))
	if err != nil {
		return nil, err
	}
	stdout, stderr, err := root.Run(ctx, "sh -c "+ssh.Quote(command), nil)
	return append(stdout, stderr...), err
}

func newHostsJournalCommand() *cobra.Command {
	var only, unit string
	var lines int
	c := &cobra.Command{
		Use:     "journal INVENTORY",
		Short:   "Print the last lines of a unit's journal from every host",
		Example: `  clusterctl hosts journal inventory.yaml --unit clusterctl-nodeagent --lines 20`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			f, err := connect(c.Context(), args[0], hostList(only)...)
			if f != nil {
				defer func() { err = errors.Join(err, f.Close()) }()
			}
			if err != nil {
				return err
			}
			for _, h := range f.inventory.Present() {
				if f.hands[h.Name] == nil {
					continue
				}
				var text string
				if err := f.call(c.Context(), h.Name, hostop.MethodJournal, hostop.JournalParams{Unit: unit, Lines: lines}, &text); err != nil {
					return fmt.Errorf("%s: %w", h.Name, err)
				}
				fmt.Fprintf(c.OutOrStdout(), "--- %s\n%s\n", h.Name, strings.TrimRight(text, "\n"))
			}
			return nil
		},
	}
	c.Flags().StringVar(&only, "host", "", "only these hosts, comma-separated")
	c.Flags().StringVar(&unit, "unit", "clusterctl-controlplane", "clusterctl-etcd, -controlplane, -containerd or -nodeagent")
	c.Flags().IntVar(&lines, "lines", 50, "how many lines")
	return c
}
