package netnstest

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
)

// Within runs f on a thread inside a network namespace. What f opens stays
// there. It may be used by many goroutines at a time.
func Within(ns netns.NsHandle, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with us
		err := netns.Set(ns)
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// New makes a network namespace, which its caller closes. Root may.
func New() (netns.NsHandle, error) {
	ns, result := netns.None(), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with us
		var err error
		ns, err = netns.New()
		result <- err
	}()
	if err := <-result; err != nil {
		return netns.None(), fmt.Errorf("make a network namespace (root may): %w", err)
	}
	return ns, nil
}

// Namespace makes a network namespace that is there until the test ends. Where
// none can be made the test is skipped.
func Namespace(t testing.TB) netns.NsHandle {
	t.Helper()
	ns, err := New()
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}
