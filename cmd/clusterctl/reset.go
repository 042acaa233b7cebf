package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostop"
)

func newResetCommand() *cobra.Command {
	var only string
	var yes bool
	c := &cobra.Command{
		Use:   "reset INVENTORY",
		Short: "Leave the hosts as they were before `up`: the cluster and its data are gone",
		Example: `  clusterctl reset inventory.yaml
  clusterctl reset inventory.yaml --host worker3 --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			inv, err := inventory.Load(args[0])
			if err != nil {
				return err
			}
			hosts := hostList(only)
			if !yes {
				if err := confirm(c, inv, hosts); err != nil {
					return err
				}
			}
			f, err := connectTo(c.Context(), inv, hosts...)
			if f != nil {
				defer func() { err = errors.Join(err, f.Close()) }()
			}
			if err != nil {
				return err
			}
			var mu sync.Mutex
			return eachHost(inv.Present(), hosts, func(h inventory.Host) error {
				_, err := f.hands[h.Name].Call(c.Context(), hostop.Request{Method: hostop.MethodReset}, nil, func(e hostop.Event) {
					mu.Lock()
					defer mu.Unlock()
					fmt.Fprintf(c.ErrOrStderr(), "%s: %s %s\n", h.Name, e.Detail, e.Error)
				})
				return err
			})
		},
	}
	c.Flags().StringVar(&only, "host", "", "only these hosts, comma-separated")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// confirm wants the cluster's name typed, since nothing brings the data back.
func confirm(c *cobra.Command, inv *inventory.Inventory, hosts []string) error {
	what := fmt.Sprintf("all %d hosts of cluster %s", len(inv.Present()), inv.Cluster.Name)
	if len(hosts) > 0 {
		what = strings.Join(hosts, ", ") + " of cluster " + inv.Cluster.Name
	}
	fmt.Fprintf(c.ErrOrStderr(), "This removes everything of clusterctl from %s, data included.\nType the cluster's name to go on: ", what)
	answer, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != inv.Cluster.Name {
		return errors.New("nothing was changed; say --yes to go on without a question")
	}
	return nil
}
