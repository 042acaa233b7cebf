package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"clusterctl/bootstrap/execute"
	"clusterctl/bootstrap/execute/report"
	"clusterctl/bootstrap/pki"
	"clusterctl/bootstrap/plan"
	"clusterctl/bootstrap/preflight"
	"clusterctl/bundle/payload"
	"clusterctl/ui/progress"
)

func newUpCommand() *cobra.Command {
	var kubeconfig, output string
	var ignore []string
	c := &cobra.Command{
		Use:   "up INVENTORY",
		Short: "Make the hosts of an inventory the cluster that it describes",
		Long: `Make the hosts of an inventory the cluster that it describes.

What is there already is left alone: a second run finds nothing to do and says so.
A run that was interrupted, in whatever way, is carried on by the next one. The
administrator's credentials are merged into the kubeconfig.`,
		Example: `  clusterctl up inventory.yaml
  clusterctl up inventory.yaml --kubeconfig ./kubeconfig --output json
  clusterctl up inventory.yaml --ignore memory,swap`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return up(c, args[0], kubeconfig, output, ignore)
		},
	}
	c.Flags().StringVar(&kubeconfig, "kubeconfig", "", "file to write credentials to (default: $KUBECONFIG, then ~/.kube/config)")
	addPlanFlags(c, &output, &ignore)
	return c
}

func newPlanCommand() *cobra.Command {
	var output string
	var ignore []string
	c := &cobra.Command{
		Use:   "plan INVENTORY",
		Short: "Print the steps that `up` would take, and change nothing",
		Example: `  clusterctl plan inventory.yaml
  clusterctl plan inventory.yaml --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if err := checkOutput(output); err != nil {
				return err
			}
			s, err := prepare(c.Context(), args[0], ignore, c.ErrOrStderr(), false)
			if s != nil {
				defer func() { err = errors.Join(err, s.fleet.Close()) }()
			}
			if err != nil {
				return err
			}
			if output == "json" {
				encoder := json.NewEncoder(c.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(s.plan)
			}
			if len(s.plan.Steps) == 0 {
				_, err := fmt.Fprintln(c.OutOrStdout(), s.nothing())
				return err
			}
			return s.plan.Print(c.OutOrStdout())
		},
	}
	addPlanFlags(c, &output, &ignore)
	return c
}

func addPlanFlags(c *cobra.Command, output *string, ignore *[]string) {
	c.Flags().StringVarP(output, "output", "o", "text", "text or json")
	c.Flags().StringSliceVar(ignore, "ignore", nil, "preflight findings to ignore, of: "+strings.Join(preflight.Names(), ", "))
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("--output %q is not known; write text or json", output)
	}
	return nil
}

// session is a cluster observed and planned.
type session struct {
	fleet       *fleet
	hands       execute.Hands
	plan        *plan.Plan // what is left to do
	authorities pki.Bundle
	encryption  []byte // for control planes that have no keys yet
}

func (s *session) nothing() string {
	return fmt.Sprintf("nothing to do: cluster %s is as %s describes it", s.fleet.inventory.Cluster.Name, s.fleet.inventory.File)
}

// prepare observes, judges and plans; it changes nothing. With lock the hosts
// are held against other runs from before they are observed until the fleet is
// closed. The session is not nil once there is a fleet to close.
func prepare(ctx context.Context, path string, ignore []string, messages io.Writer, lock bool) (*session, error) {
	for _, name := range ignore {
		if !slices.Contains(preflight.Names(), name) {
			return nil, fmt.Errorf("--ignore %s: no finding has that name; they are %s", name, strings.Join(preflight.Names(), ", "))
		}
	}
	f, err := connect(ctx, path)
	if f == nil {
		return nil, err
	}
	s := &session{fleet: f, hands: execute.Hands{}}
	if err != nil {
		return s, err
	}
	if err := f.reach(ctx, f.inventory.Leaving()); err != nil {
		fmt.Fprintf(messages, "%v\nAbsent hosts that cannot be reached leave the cluster all the same; what is on them is cleared by an `up` that reaches them.\n", err)
	}
	for name, r := range f.hands {
		s.hands[name] = r
	}
	if lock {
		if err := lockHosts(ctx, s.hands, messages); err != nil {
			return s, err
		}
	}
	seen, err := execute.Observe(ctx, s.hands)
	if err != nil {
		return s, err
	}
	unreachable, err := execute.Reach(ctx, preflight.Matrix(f.inventory), s.hands)
	if err != nil {
		return s, err
	}
	findings := preflight.Judge(preflight.Input{
		Inventory: f.inventory, Facts: seen.Facts, Gathered: seen.Gathered,
		Unreachable: unreachable, Archs: payload.Architectures(), Ignore: ignore,
	})
	for _, finding := range findings {
		fmt.Fprintln(messages, finding)
	}
	if preflight.Fatal(findings) {
		return s, errors.New("the hosts are not ready, nothing was changed; mend what is listed above, or ignore it with --ignore NAME")
	}
	var manifests []payload.Manifest
	for _, arch := range payload.Architectures() {
		m, err := payload.Load(arch)
		if err != nil {
			return s, err
		}
		manifests = append(manifests, m)
	}
	whole, err := plan.Build(f.inventory, seen.Facts, manifests...)
	if err != nil {
		return s, err
	}
	if s.authorities, _, err = execute.Authorities(ctx, f.inventory, seen.Facts, s.hands, time.Now()); err != nil {
		return s, err
	}
	if s.encryption, err = execute.Encryption(ctx, f.inventory, seen.Facts, s.hands); err != nil {
		return s, err
	}
	states, err := execute.Check(ctx, whole, s.hands)
	if err != nil {
		return s, err
	}
	s.plan = whole.Prune(states)
	return s, nil
}

// lockPatience is how long to wait for another run's lock. One that was killed
// lets go once its hosts have finished the operation that they were at.
const lockPatience = 15 * time.Second

// lockHosts takes the run lock of every host.
func lockHosts(ctx context.Context, hands execute.Hands, messages io.Writer) error {
	for deadline, told := time.Now().Add(lockPatience), false; ; told = true {
		err := execute.Lock(ctx, hands, holder())
		if err == nil || time.Now().After(deadline) {
			return err
		}
		if !told {
			fmt.Fprintf(messages, "waiting up to %s for another run to let go: %v\n", lockPatience, err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// holder tells a second run who is first.
func holder() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed workstation"
	}
	return fmt.Sprintf("%s@%s, process %d", name, host, os.Getpid())
}

func up(c *cobra.Command, path, kubeconfig, output string, ignore []string) (err error) {
	started := time.Now()
	s, err := prepare(c.Context(), path, ignore, c.ErrOrStderr(), true)
	if s != nil {
		defer func() { err = errors.Join(err, s.fleet.Close()) }()
	}
	if err != nil {
		return err
	}
	if len(s.plan.Steps) == 0 {
		if output == "text" {
			fmt.Fprintf(c.OutOrStdout(), "%s (%s)\n", s.nothing(), time.Since(started).Round(10*time.Millisecond))
		}
	} else if err := s.run(c, output); err != nil {
		return err
	}
	config, err := s.fleet.adminConfig(c.Context())
	if err != nil {
		return err
	}
	written, changed, err := mergeKubeconfig(kubeconfig, config)
	if err != nil {
		return err
	}
	if changed {
		fmt.Fprintf(c.ErrOrStderr(), "context %s written to %s\n", config.CurrentContext, written)
	}
	return nil
}

// run carries the plan out, with a live view where there is a terminal.
func (s *session) run(c *cobra.Command, output string) error {
	options := execute.Options{Authorities: s.authorities, Encryption: s.encryption, Payload: payload.Open}
	switch {
	case output == "json":
		options.Events = report.JSON(c.OutOrStdout())
	case term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb":
		return progress.Run(c.Context(), s.plan, func(ctx context.Context, events execute.Sink) error {
			options.Events = events
			_, err := execute.Run(ctx, s.plan, s.hands, options)
			return err
		})
	default:
		options.Events = report.Lines(c.OutOrStdout())
	}
	_, err := execute.Run(c.Context(), s.plan, s.hands, options)
	return err
}
