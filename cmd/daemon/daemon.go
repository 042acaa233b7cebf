package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"clusterctl/hostconfig"
)

// Main runs a program's commands until they end or the program is asked to
// stop, and then ends the process.
func Main(name, short string, commands func(logger *slog.Logger) []*cobra.Command) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(logger)
	// Kubernetes' libraries log each request that fails, and more that is none
	// of an operator's business, at info; what goes wrong in them is above it.
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))

	root := &cobra.Command{Use: name, Short: short, SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(commands(logger)...)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Configured makes a command that reads a configuration of type C, from file
// where --config says nothing else.
func Configured[C any](use, short, file string, run func(ctx context.Context, config C) error) *cobra.Command {
	command := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			var config C
			if err := hostconfig.Load(file, &config); err != nil {
				return err
			}
			return run(command.Context(), config)
		},
	}
	command.Flags().StringVar(&file, "config", file, "configuration file")
	return command
}

// Version makes the command that prints clusterctl's version, and that of what
// the program says it is to Kubernetes.
func Version(speaks string) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print versions", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(command.OutOrStdout(), "clusterctl %s, %s\n", hostconfig.Version, speaks)
			return err
		},
	}
}
