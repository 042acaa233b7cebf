package footprint

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetCode lets go of the pages of the program itself. Most were of use to
// what is over (start-up first of all); the kernel has them at hand, and maps
// those again that are needed.
func ForgetCode() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return // not on this system
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		// start-end permissions offset device inode path
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5] != program || strings.Contains(fields[1], "w") {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end); err == nil {
			// It is as well if the kernel would rather keep them.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
		}
	}
}
