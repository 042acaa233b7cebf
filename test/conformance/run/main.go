package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	root, cache           string
	clusterctl            string
	csi                   string
	inventory, kubeconfig string
	lab                   string
	workers               int
	labels, focus, skip   string
	procs                 int
	timeout               time.Duration
	serial, keep          bool
	prepare, load, table  bool
	docs                  string
}

func main() {
	log.SetFlags(log.Ltime)
	var o options
	flag.StringVar(&o.root, "root", "../..", "the repository's root")
	flag.StringVar(&o.cache, "cache", "", "directory of programs, images and reports (default ROOT/.cache/conformance)")
	flag.StringVar(&o.clusterctl, "clusterctl", "", "program to bring the lab up and load images with (default ROOT/bin/clusterctl)")
	flag.StringVar(&o.csi, "csi", os.Getenv("CLUSTERCTL_CSI"), "directory of programs (hostpathplugin, csi-provisioner …) for tests of CSI drivers: each becomes the image of its name that the suite's manifests ask for")
	flag.StringVar(&o.inventory, "inventory", "", "inventory of a cluster that runs; empty: a lab named conf, deleted afterwards")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "administrator's kubeconfig of that cluster")
	flag.StringVar(&o.lab, "lab", "", "name of the lab that -inventory belongs to: the tests run in its network, where pods can be reached")
	flag.IntVar(&o.workers, "workers", 2, "workers of the cluster (of the lab: beside one control plane)")
	flag.StringVar(&o.labels, "labels", conformance, "ginkgo's label filter: which tests to choose from; what is not conformance is kept beside and never written into -docs")
	flag.StringVar(&o.focus, "focus", "", "regular expression: run only tests whose names match")
	flag.StringVar(&o.skip, "skip", "", "regular expression: leave out tests whose names match")
	flag.IntVar(&o.procs, "procs", 4, "tests at a time")
	flag.DurationVar(&o.timeout, "timeout", 2*time.Hour, "how long the parallel part and the serial part may take, each")
	flag.BoolVar(&o.serial, "serial", true, "run the tests that must be alone as well")
	flag.BoolVar(&o.keep, "keep", false, "leave the lab up; run again with -inventory, -kubeconfig and -lab as printed")
	flag.BoolVar(&o.prepare, "prepare", false, "build programs and images, then end")
	flag.BoolVar(&o.load, "load", true, "load the images; not needed where they were loaded before")
	flag.StringVar(&o.docs, "docs", "", "document whose table is written anew (docs/conformance.md)")
	flag.BoolVar(&o.table, "table", false, "run nothing: print what earlier runs came to, and write it into -docs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		stop()
		log.Fatal(err)
	}
}

// conformance is the label of the tests that the suite's name stands for.
const conformance = "Conformance"

// command is how a user has the same tests run.
func (o options) command() string {
	command := "make conformance"
	if o.labels != conformance {
		command += " LABELS='" + o.labels + "'"
	}
	if o.focus != "" {
		command += " FOCUS='" + o.focus + "'"
	}
	if o.skip != "" {
		command += " SKIP='" + o.skip + "'"
	}
	return fmt.Sprintf("%s PROCS=%d", command, o.procs)
}

func run(ctx context.Context, o options) (err error) {
	if o.root, err = filepath.Abs(o.root); err != nil {
		return fmt.Errorf("resolve root: %w", err)
	}
	if o.cache == "" {
		o.cache = filepath.Join(o.root, ".cache/conformance")
	}
	if o.clusterctl == "" {
		o.clusterctl = filepath.Join(o.root, "bin/clusterctl")
	}
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return fmt.Errorf("resolve cache: %w", err)
	}
	exceptions := filepath.Join(o.root, "test/conformance/exceptions.yaml")
	kept := "results.json"
	if o.labels != conformance {
		kept, o.docs = "beyond.json", "" // the document counts conformance tests
	}
	results, err := openResults(filepath.Join(o.cache, kept))
	if err != nil {
		return err
	}
	if o.table {
		print(os.Stdout, results.Tests)
		if o.docs == "" {
			return nil
		}
		return results.document(o.docs, exceptions)
	}
	if (o.inventory == "") != (o.kubeconfig == "") {
		return errors.New("-inventory and -kubeconfig belong together")
	}
	if runtime.GOOS != "linux" {
		return errors.New("images and labs are made on Linux only")
	}

	if err := buildPrograms(ctx, o); err != nil {
		return err
	}
	archives, err := makeImages(ctx, o)
	if err != nil || o.prepare {
		return err
	}
	c := &cluster{inventory: o.inventory, kubeconfig: o.kubeconfig, lab: o.lab}
	if o.inventory == "" {
		if c, err = bootLab(ctx, o); c != nil && !o.keep {
			defer func() { err = errors.Join(err, c.delete(o)) }()
		}
		if err != nil {
			return err
		}
	}
	if o.load {
		if err := c.load(ctx, o, archives); err != nil {
			return err
		}
	}
	if c.lab != "" {
		done, err := c.mirror(ctx, o, filepath.Join(o.cache, "images", pulled+".tar"))
		if err != nil {
			return err
		}
		defer func() {
			if err := done(); err != nil {
				log.Printf("the hosts still ask this machine for images: %v", err)
			}
		}()
	}
	reports := filepath.Join(o.cache, "reports", time.Now().UTC().Format("20060102T150405Z"))
	parts := []part{{name: "parallel", labels: "(" + o.labels + ") && !Serial", procs: o.procs}}
	if o.serial {
		parts = append(parts, part{name: "serial", labels: "(" + o.labels + ") && Serial", procs: 1})
	}
	version, err := commit(ctx, o)
	if err != nil {
		return err
	}
	now := make(map[string]result)
	for _, p := range parts {
		p.dir = filepath.Join(reports, p.name)
		runErr := c.test(ctx, o, p)
		specs, suite, err := readReport(filepath.Join(p.dir, reportFile))
		if err != nil {
			return errors.Join(runErr, err)
		}
		// Another run may have ended meanwhile.
		if results, err = openResults(results.path); err != nil {
			return err
		}
		results.keep(version, o.command(), specs, suite)
		maps.Copy(now, specs)
		if err := results.save(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
	}
	failed := print(os.Stdout, now)
	fmt.Printf("Reports: %s\n", reports)
	if o.docs != "" {
		if err := results.document(o.docs, exceptions); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("stopped: %w", ctx.Err())
	case failed > 0:
		return fmt.Errorf("%d tests failed", failed)
	case len(now) == 0:
		return errors.New("no test ran: nothing matches -focus and -skip")
	}
	return nil
}
