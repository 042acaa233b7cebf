package footprint

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
)

// ownPages is how much of the process's memory is backed by files, in KB.
func ownPages(t *testing.T) (kilobytes int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "RssFile: %d", &kilobytes); err == nil {
			return kilobytes
		}
	}
	t.Skip("this kernel does not tell")
	return 0
}

func TestForgetCode(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux alone")
	}
	// Have all of the program in memory.
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	before := ownPages(t)
	ForgetCode()
	if after := ownPages(t); after >= before {
		t.Errorf("%d KB before, %d KB after", before, after)
	}
	if len(program) == 0 {
		t.Error("the program is empty") // and everything still works
	}
}
