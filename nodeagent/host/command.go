package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// Command is `nodeagent host …`. A reset calls undo after the units are
// stopped: each removes what a package of the node agent made in the kernel.
func Command(undo ...func(*slog.Logger) error) *cobra.Command {
	command := &cobra.Command{
		Use:   "host",
		Short: "Do clusterctl's work on this host",
		Long: `Do clusterctl's work on this host.

These commands are what clusterctl runs over SSH. They are of use by hand to see
what clusterctl sees, and to remove it from a host that it cannot reach.`,
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	hand := func() *Hand {
		return New(Options{Version: hostconfig.Version, Logger: logger, Undo: undo})
	}
	command.AddCommand(
		serveCommand(hand),
		factsCommand(hand),
		opsCommand(hand, "check", "Say how this host differs from operations read on standard input (JSON), and change nothing", func(h *Hand, ctx context.Context, ops hostop.Ops, emit func(hostop.Event)) error {
			return h.checkAll(ctx, ops, emit)
		}),
		opsCommand(hand, "apply", "Apply operations read on standard input (JSON)", func(h *Hand, ctx context.Context, ops hostop.Ops, emit func(hostop.Event)) error {
			return h.applyAll(ctx, ops, emit)
		}),
		resetCommand(hand),
	)
	return command
}

func serveCommand(hand func() *Hand) *cobra.Command {
	return &cobra.Command{
		Use:          "serve",
		Short:        "Answer clusterctl's requests on standard input and output",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// When the connection breaks the work under way is brought to a
			// safe point, instead of ending in the middle by a signal.
			signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			syscall.Umask(0o022)
			removeOldHands()
			return hand().Serve(ctx, os.Stdin, os.Stdout)
		},
	}
}

// removeOldHands removes uploaded copies once the installed binary serves: a
// copy on /run takes memory.
func removeOldHands() {
	self, err := os.Executable()
	if err != nil || !strings.HasPrefix(self, hostconfig.LibDir+"/") {
		return
	}
	entries, err := os.ReadDir(hostconfig.RunDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "hand-") {
			_ = os.RemoveAll(hostconfig.RunDir + "/" + e.Name()) // it costs room only
		}
	}
}

func factsCommand(hand func() *Hand) *cobra.Command {
	return &cobra.Command{
		Use:          "facts",
		Short:        "Print what this host says of itself, as JSON",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			facts, err := hand().Facts(cmd.Context())
			if err != nil {
				return err
			}
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(facts)
		},
	}
}

func opsCommand(hand func() *Hand, use, short string, run func(*Hand, context.Context, hostop.Ops, func(hostop.Event)) error) *cobra.Command {
	return &cobra.Command{
		Use:          use,
		Short:        short,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxRequest))
			if err != nil {
				return fmt.Errorf("read operations: %w", err)
			}
			var ops hostop.Ops
			if err := json.Unmarshal(raw, &ops); err != nil {
				return err
			}
			return run(hand(), cmd.Context(), ops, func(e hostop.Event) {
				fmt.Fprintln(cmd.OutOrStdout(), line(ops, e))
			})
		},
	}
}

// line is an event for people.
func line(ops hostop.Ops, e hostop.Event) string {
	s := string(e.State)
	if e.Op >= 0 && e.Op < len(ops) {
		s += "  " + ops[e.Op].Describe()
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Error != "" {
		s += ": " + e.Error
	}
	return s
}

func resetCommand(hand func() *Hand) *cobra.Command {
	var yes bool
	command := &cobra.Command{
		Use:          "reset",
		Short:        "Remove everything of clusterctl from this host, its data included",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return errors.New("this destroys the node and, on an etcd member, its data; repeat with --yes")
			}
			h := hand()
			defer h.Close()
			if err := h.takeLock("nodeagent host reset"); err != nil {
				return err
			}
			return h.Reset(cmd.Context(), func(what string) { fmt.Fprintln(cmd.OutOrStdout(), what) })
		},
	}
	command.Flags().BoolVar(&yes, "yes", false, "really do it")
	return command
}
