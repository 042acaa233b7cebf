package apilb

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// limitUnanswered makes the kernel end a connection whose peer has vanished
// without a word, instead of sending again for a quarter of an hour.
func limitUnanswered(_, _ string, raw syscall.RawConn) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unanswered.Milliseconds()))
	})
	if controlErr != nil {
		err = controlErr
	}
	if err != nil {
		return fmt.Errorf("limit unanswered data: %w", err)
	}
	return nil
}
