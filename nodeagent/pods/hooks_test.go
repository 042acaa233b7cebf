package pods

import (
	"strings"
	"testing"
)

func TestPlainLog(t *testing.T) {
	const stamp = "2026-01-02T03:04:05.000000006Z "
	for name, c := range map[string]struct{ log, want string }{
		"nothing":                 {"", ""},
		"whole lines":             {stamp + "stdout F one\n" + stamp + "stderr F two\n", "one\ntwo\n"},
		"an end without newline":  {stamp + "stdout F one\n" + stamp + "stdout P DONE\n", "one\nDONE"},
		"a line in parts":         {stamp + "stdout P long\n" + stamp + "stdout P er\n" + stamp + "stdout F est\n", "longerest\n"},
		"further tags":            {stamp + "stdout P:x DONE\n", "DONE"},
		"a line that was cut off": {"00006Z\n" + stamp + "stdout F two\n", "two\n"},
		"most lines":              {strings.Repeat(stamp+"stdout F x\n", messageLogLines+5), strings.Repeat("x\n", messageLogLines)},
	} {
		if got := plainLog(c.log); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
