package usage

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestOwnUse(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux alone")
	}
	p := Of(os.Getpid())
	before, err := p.CPU()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		now, err := p.CPU()
		if err != nil {
			t.Fatal(err)
		}
		all, err := p.CPUWithChildren()
		if err != nil {
			t.Fatal(err)
		}
		if all < now {
			t.Fatalf("%s with children, %s without", all, now)
		}
		if now > before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("reading /proc for a minute took no CPU time")
		}
	}
	m, err := p.Memory()
	if err != nil {
		t.Fatal(err)
	}
	if m.Resident <= 0 || m.Anonymous <= 0 || m.Anonymous > m.Resident || m.Peak < m.Resident {
		t.Errorf("memory: %+v", m)
	}
	if _, err := Process(t.TempDir()).Memory(); err == nil {
		t.Error("the memory of no process was read")
	}
}
