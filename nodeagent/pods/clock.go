package pods

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// followClock has the volumes of all pods looked after each time the host's clock
// is set, until ctx ends: tokens in them may have run out of a sudden, or not have
// begun. Waiting would not tell: timers do not know the time of day.
func (a *Agent) followClock(ctx context.Context) {
	err := clockSet(ctx, func() {
		a.Logger.Info("the clock was set")
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, w := range a.workers {
			w.contentsChanged()
		}
	})
	if err != nil {
		a.Logger.Warn("jumps of the clock go unnoticed", "error", err)
	}
}

// clockSet calls do each time that the clock of the host is set, until ctx ends
// (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
func clockSet(ctx context.Context, do func()) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("make timer: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "timer")
	defer timer.Close()
	defer context.AfterFunc(ctx, func() { timer.Close() })()
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt64}}
	for {
		if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
			return fmt.Errorf("set timer: %w", err)
		}
		_, err := timer.Read(make([]byte, 8))
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ECANCELED):
			do()
		case err != nil:
			return fmt.Errorf("wait for the clock to be set: %w", err)
		}
	}
}
