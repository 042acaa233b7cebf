package pods

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Setting the clock to what it shows is a jump like any other. Machines that
// discipline theirs may mind, so somebody has to ask for it.
func TestClockSet(t *testing.T) {
	if os.Getenv("CLUSTERCTL_CLOCK") == "" {
		t.Skip("sets the clock of the machine: run it with CLUSTERCTL_CLOCK=1")
	}
	ctx, cancel := context.WithCancel(t.Context())
	called, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- clockSet(ctx, func() { called <- struct{}{} }) }()
	for range 3 {
		for again := true; again; { // until it listens
			now := unix.NsecToTimespec(time.Now().UnixNano())
			if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
				t.Fatal(err)
			}
			select {
			case <-called:
				again = false
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
