package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"clusterctl/hostconfig"
)

func main() {
	kubeProxy := flag.String("kube-proxy", "", "stock kube-proxy; empty: ours only")
	sizes := flag.String("services", "1000,5000,10000", "numbers of services")
	changes := flag.Int("changes", 20, "changes of an endpoint, of each proxy and size")
	only := flag.String("only", "", "regular expression of the names of the proxies to measure; empty: all")
	mode := flag.String("serve", "", "be our service proxy in that mode (this program runs itself)")
	server := flag.String("server", "", "with -serve: URL of the API server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *mode != "" {
		err = serve(ctx, *mode, *server)
	} else {
		err = run(ctx, *kubeProxy, *sizes, *changes, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-proxy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeProxy, sizes string, changes int, only string) error {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("read -only: %w", err)
	}
	contestants := []contestant{ours(hostconfig.ProxyNftables), ours(hostconfig.ProxyIptables)}
	if kubeProxy != "" {
		contestants = append(contestants, stock(kubeProxy, hostconfig.ProxyNftables), stock(kubeProxy, hostconfig.ProxyIptables))
	}
	contestants = slices.DeleteFunc(contestants, func(c contestant) bool { return !chosen.MatchString(c.name) })
	header(os.Stdout)
	for size := range strings.SplitSeq(sizes, ",") {
		services, err := strconv.Atoi(size)
		if err != nil || services < max(changes, 50) || services > 60000 {
			return fmt.Errorf("%q is no number of services from %d to 60000", size, max(changes, 50))
		}
		for _, c := range contestants {
			r, err := measure(ctx, c, services, changes)
			if err != nil {
				return fmt.Errorf("measure %s with %d services: %w", c.name, services, err)
			}
			row(os.Stdout, services, c.name, r)
		}
	}
	return nil
}
