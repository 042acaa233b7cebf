package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"clusterctl/hostop"
)

// Options configures a Hand. The zero value serves the machine it runs on.
type Options struct {
	Root    string       // directory that stands for /; empty: /
	Init    Init         // empty: found on the machine
	Version string       // of clusterctl, told in the greeting
	Logger  *slog.Logger // nil: none

	// Undo removes what packages of the node agent made in the kernel (links,
	// rules, sysctls). A reset calls each after the units are stopped.
	Undo []func(*slog.Logger) error
}

// Hand carries out operations on one host, one at a time. Its methods are not
// safe for concurrent use.
type Hand struct {
	root    string
	init    Init
	version string
	log     *slog.Logger
	undo    []func(*slog.Logger) error

	listeners []interface{ Close() error } // of the last listen request
	lock      *os.File                     // the run lock, once taken
}

// New makes a Hand.
func New(o Options) *Hand {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Hand{root: o.Root, init: o.Init, version: o.Version, log: o.Logger, undo: o.Undo}
	if h.init == nil {
		h.init = findInit(h.root)
	}
	return h
}

// path is where path lies under the root.
func (h *Hand) path(path string) string {
	if h.root == "" {
		return path
	}
	return filepath.Join(h.root, path)
}

// Close gives up what requests left open: listeners and the run lock.
func (h *Hand) Close() {
	h.closeListeners()
	if h.lock != nil {
		h.lock.Close()
		h.lock = nil
	}
}

// Check reports how the host differs from op; empty means not at all. It
// changes nothing.
func (h *Hand) Check(ctx context.Context, op hostop.Op) (differs string, err error) {
	switch o := op.(type) {
	case *hostop.Directory:
		return h.checkDirectory(o)
	case *hostop.File:
		return h.checkFile(o)
	case *hostop.Link:
		return h.checkLink(o)
	case *hostop.Absent:
		return h.checkAbsent(o)
	case *hostop.Blob:
		return h.checkBlob(o)
	case *hostop.Image:
		return h.checkImage(ctx, o)
	case *hostop.Authorities:
		return h.checkAuthorities(o)
	case *hostop.Encryption:
		return h.checkEncryption(o)
	case *hostop.Certificate:
		return h.checkCertificate(o)
	case *hostop.TrustAnchor:
		return h.checkTrustAnchor(o)
	case *hostop.Unit:
		return h.checkUnit(ctx, o)
	case *hostop.Service:
		return h.checkService(ctx, o)
	case *hostop.EtcdMember:
		return h.checkEtcdMember(ctx, o)
	case *hostop.Ready:
		return h.checkReady(ctx, o)
	case *hostop.NodeReady:
		return h.checkNodeReady(ctx, o)
	case *hostop.Manifests:
		return h.checkManifests(ctx, o)
	case *hostop.NodeDrained:
		return h.checkNodeDrained(ctx, o)
	case *hostop.NodeGone:
		return h.checkNodeGone(ctx, o)
	case *hostop.EtcdMemberGone:
		return h.checkEtcdMemberGone(ctx, o)
	case *hostop.Cleared:
		return h.checkCleared()
	}
	return "", fmt.Errorf("operation %T is not known to this hand", op)
}

// Apply makes op so and reports whether anything had to change. Progress is
// called with what is being waited for.
func (h *Hand) Apply(ctx context.Context, op hostop.Op, progress func(string)) (changed bool, err error) {
	differs, err := h.Check(ctx, op)
	if err != nil {
		return false, err
	}
	if differs == "" {
		return false, nil
	}
	progress(differs)
	if err := h.record(op); err != nil {
		return false, err
	}
	switch o := op.(type) {
	case *hostop.Directory:
		err = h.applyDirectory(o)
	case *hostop.File:
		err = h.applyFile(o)
	case *hostop.Link:
		err = h.applyLink(o)
	case *hostop.Absent:
		err = h.applyAbsent(o)
	case *hostop.Blob:
		err = h.applyBlob(o)
	case *hostop.Image:
		err = h.applyImage(ctx, o)
	case *hostop.Authorities:
		err = h.applyAuthorities(o)
	case *hostop.Encryption:
		err = h.applyEncryption(o)
	case *hostop.Certificate:
		err = h.applyCertificate(o)
	case *hostop.TrustAnchor:
		err = h.applyTrustAnchor(o)
	case *hostop.Unit:
		err = h.applyUnit(ctx, o)
	case *hostop.Service:
		err = h.applyService(ctx, o)
	case *hostop.EtcdMember:
		err = h.applyEtcdMember(ctx, o, progress)
	case *hostop.Ready:
		err = h.applyReady(ctx, o, progress)
	case *hostop.NodeReady:
		err = h.applyNodeReady(ctx, o, progress)
	case *hostop.Manifests:
		err = h.applyManifests(ctx, o, progress)
	case *hostop.NodeDrained:
		err = h.applyNodeDrained(ctx, o, progress)
	case *hostop.NodeGone:
		err = h.applyNodeGone(ctx, o)
	case *hostop.EtcdMemberGone:
		err = h.applyEtcdMemberGone(ctx, o, progress)
	case *hostop.Cleared:
		return true, h.Reset(ctx, progress)
	}
	return err == nil, err
}

// until calls check every interval, telling progress what it says, until it
// says nothing more. A check's error counts as what is being waited for. After
// the limit the last word becomes the error, but not that of a check which the
// limit cut short: that there was no more time says nothing.
func until(ctx context.Context, limit, interval time.Duration, progress func(string), check func(context.Context) (string, error)) error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	deadline, _ := bounded.Deadline()
	last, told := "nothing was tried", ""
	for answers := 0; ; answers++ {
		differs, err := check(bounded)
		cut := answers > 0 && !time.Now().Before(deadline)
		var final *finalError
		switch {
		case errors.As(err, &final):
			return final.error
		case err == nil && differs == "":
			return nil
		case cut:
		case err != nil && bounded.Err() == nil:
			last = err.Error()
		case err == nil:
			last = differs
		}
		if last != told && bounded.Err() == nil {
			progress(last)
			told = last
		}
		timer := time.NewTimer(interval)
		select {
		case <-timer.C:
		case <-bounded.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return fmt.Errorf("stopped while waiting (%s): %w", last, ctx.Err())
			}
			return fmt.Errorf("not so within %s: %s", limit, last)
		}
	}
}

// finalError ends an until: waiting longer would not help.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// oneLine makes a message fit an event.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
