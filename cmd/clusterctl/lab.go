//go:build linux

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"clusterctl/lab"
)

// newLabCommand is `clusterctl lab`: throw-away hosts on this machine.
func newLabCommand() *cobra.Command {
	store := &lab.Store{}
	command := &cobra.Command{
		Use:   "lab",
		Short: "Boot throw-away hosts on this machine, and break them",
		Long: `Boot throw-away hosts on this machine: each with its own systemd, sshd,
address and disk, all on a bridge of their own, or on two with a router between
them (create --links 2). Needs root on Linux.

A whole trial:

  clusterctl lab create
  clusterctl up .lab/inventory.yaml
  clusterctl lab delete`,
		Args: cobra.NoArgs,
	}
	flags := command.PersistentFlags()
	flags.StringVar(&store.Dir, "dir", lab.DefaultDir, "directory of the labs; not on an overlay file system")
	flags.StringVar(&store.CacheDir, "cache-dir", lab.DefaultCacheDir, "directory of the cached Debian tree")
	command.PersistentPreRunE = func(command *cobra.Command, _ []string) error {
		store.Log = slog.New(slog.NewTextHandler(command.ErrOrStderr(), &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
				if attr.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return attr
			},
		}))
		var err error
		for _, dir := range []*string{&store.Dir, &store.CacheDir} {
			if *dir, err = filepath.Abs(*dir); err != nil {
				return fmt.Errorf("resolve directory: %w", err)
			}
		}
		return nil
	}
	command.AddCommand(
		newLabCreate(store), newLabList(store), newLabDelete(store),
		newLabHosts(store, "start", "Boot hosts with the disks they have",
			func(command *cobra.Command, name string, hosts []string) error {
				return store.Start(command.Context(), name, hosts...)
			}),
		newLabHosts(store, "stop", "Shut hosts down cleanly",
			func(command *cobra.Command, name string, hosts []string) error {
				return store.Stop(command.Context(), name, hosts...)
			}),
		newLabHosts(store, "kill", "End hosts at once, as a power cut would",
			func(command *cobra.Command, name string, hosts []string) error {
				return store.Kill(command.Context(), name, hosts...)
			}),
		newLabCut(store), newLabHeal(store),
		&cobra.Command{
			Use:    "init-host",
			Hidden: true,
			Args:   cobra.NoArgs,
			Run:    func(*cobra.Command, []string) { lab.HostInit() },
		},
	)
	return command
}

// labName adds the flag that says which lab is meant.
func labName(command *cobra.Command) *string {
	return command.Flags().String("name", "demo", "name of the lab")
}

func newLabCreate(store *lab.Store) *cobra.Command {
	command := &cobra.Command{
		Use:   "create",
		Short: "Make hosts, boot them and write their inventory",
		Args:  cobra.NoArgs,
	}
	name := labName(command)
	flags := command.Flags()
	controlPlanes := flags.Int("control-planes", 3, "number of control planes")
	workers := flags.Int("workers", 2, "number of workers")
	etcd := flags.Int("etcd", 0, "number of hosts for etcd alone; 0: a member on every control plane")
	links := flags.Int("links", 1, "1, or 2: hosts hang on two links in turn, with a router between them")
	inventory := flags.String("inventory", ".lab/inventory.yaml", "where to write the inventory")
	flags.StringVar(&store.Mirror, "mirror", "", "Debian mirror for the tree (default: the one apt is configured with)")
	command.RunE = func(command *cobra.Command, _ []string) error {
		start := time.Now()
		created, err := store.Create(command.Context(), lab.Spec{
			Name: *name, ControlPlanes: *controlPlanes, Workers: *workers, Etcd: *etcd, Links: *links,
		})
		if err != nil {
			return fmt.Errorf("create lab %s: %w", *name, err)
		}
		if err := created.WriteInventory(*inventory); err != nil {
			return err
		}
		out := command.OutOrStdout()
		fmt.Fprintf(out, "Lab %s: %d hosts answer after %.1f s. Inventory: %s\n",
			created.Name, len(created.Hosts), time.Since(start).Seconds(), *inventory)
		fmt.Fprintf(out, "Log in:  ssh -i %s -o UserKnownHostsFile=%s root@%s\n",
			created.KeyFile(), created.KnownHosts(), created.Hosts[0].Address)
		fmt.Fprintf(out, "Next:    clusterctl up %s\n", *inventory)
		return nil
	}
	return command
}

func newLabList(store *lab.Store) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show labs and their hosts",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			labs, err := store.List()
			if err != nil {
				return err
			}
			return printLabs(command.OutOrStdout(), labs)
		},
	}
}

func printLabs(out io.Writer, labs []*lab.Lab) error {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "LAB\tHOST\tADDRESS\tSTATE\tROLES")
	for _, l := range labs {
		if len(l.Hosts) == 0 {
			fmt.Fprintf(table, "%s\t-\t-\tunfinished\t-\n", l.Name)
		}
		for _, host := range l.Hosts {
			state := string(host.State())
			for _, cut := range l.Cuts {
				switch {
				case cut.A == host.Name && cut.B == "":
					state += ", cut"
				case cut.A == host.Name:
					state += ", cut from " + cut.B
				case cut.B == host.Name:
					state += ", cut from " + cut.A
				}
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", l.Name, host.Name, host.Address, state, strings.Join(host.Roles, ","))
		}
	}
	return table.Flush()
}

func newLabDelete(store *lab.Store) *cobra.Command {
	command := &cobra.Command{
		Use:   "delete",
		Short: "End a lab's hosts and leave nothing of it",
		Args:  cobra.NoArgs,
	}
	name := labName(command)
	all := command.Flags().Bool("all", false, "delete every lab")
	cache := command.Flags().Bool("cache", false, "delete the cached Debian tree as well")
	command.RunE = func(command *cobra.Command, _ []string) error {
		names := []string{*name}
		if *all {
			labs, err := store.List()
			if err != nil {
				return err
			}
			names = nil
			for _, l := range labs {
				names = append(names, l.Name)
			}
		}
		for _, name := range names {
			if err := store.Delete(name); err != nil {
				return fmt.Errorf("delete lab: %w", err)
			}
			fmt.Fprintf(command.OutOrStdout(), "Lab %s deleted.\n", name)
		}
		if *cache {
			return store.DeleteCache()
		}
		return nil
	}
	return command
}

// newLabHosts is a verb on the named hosts, or on all of a lab.
func newLabHosts(store *lab.Store, verb, short string, run func(*cobra.Command, string, []string) error) *cobra.Command {
	command := &cobra.Command{
		Use:   verb + " [HOST...]",
		Short: short,
	}
	name := labName(command)
	command.ValidArgsFunction = completeHosts(store, name)
	command.RunE = func(command *cobra.Command, hosts []string) error {
		return run(command, *name, hosts)
	}
	return command
}

func newLabCut(store *lab.Store) *cobra.Command {
	command := &cobra.Command{
		Use:   "cut HOST [HOST]",
		Short: "Take a host's link down, or only the path between two hosts",
		Args:  cobra.RangeArgs(1, 2),
	}
	name := labName(command)
	command.ValidArgsFunction = completeHosts(store, name)
	command.RunE = func(_ *cobra.Command, hosts []string) error {
		hosts = append(hosts, "")
		return store.Cut(*name, hosts[0], hosts[1])
	}
	return command
}

func newLabHeal(store *lab.Store) *cobra.Command {
	command := &cobra.Command{
		Use:   "heal [HOST [HOST]]",
		Short: "Undo a cut, or all of them",
		Args:  cobra.MaximumNArgs(2),
	}
	name := labName(command)
	command.ValidArgsFunction = completeHosts(store, name)
	command.RunE = func(_ *cobra.Command, hosts []string) error {
		hosts = append(hosts, "", "")
		return store.Heal(*name, hosts[0], hosts[1])
	}
	return command
}

func completeHosts(store *lab.Store, name *string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		l, err := store.Open(*name)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return l.Names(), cobra.ShellCompDirectiveNoFileComp
	}
}

// A host's init has to begin before anything else of this program does.
func init() {
	if len(os.Args) == 3 && os.Args[1] == lab.HostInitArgs[0] && os.Args[2] == lab.HostInitArgs[1] {
		lab.HostInit()
	}
}
