package usage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc, the same on every Linux.
const tick = time.Second / 100

// Process is a process's directory in a /proc.
type Process string

// Of is a process of this machine.
func Of(pid int) Process { return Process(fmt.Sprintf("/proc/%d", pid)) }

// CPU is what the process itself has used so far.
func (p Process) CPU() (time.Duration, error) { return p.cpu(2) }

// CPUWithChildren is that, and what those have used that it has waited for.
func (p Process) CPUWithChildren() (time.Duration, error) { return p.cpu(4) }

// cpu adds up fields: utime, stime, and the same of children.
func (p Process) cpu(n int) (time.Duration, error) {
	content, err := os.ReadFile(filepath.Join(string(p), "stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The fields after the name, which ends with the last parenthesis.
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	var sum time.Duration
	for _, field := range fields[11 : 11+n] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse CPU time: %w", err)
		}
		sum += time.Duration(ticks) * tick
	}
	return sum, nil
}

// Memory is in bytes.
type Memory struct{ Resident, Anonymous, Peak int64 }

// Memory is what the process holds now, and held at most.
func (p Process) Memory() (Memory, error) {
	var m Memory
	content, err := os.ReadFile(filepath.Join(string(p), "status"))
	if err != nil {
		return m, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		target := map[string]*int64{"VmRSS:": &m.Resident, "RssAnon:": &m.Anonymous, "VmHWM:": &m.Peak}[fields[0]]
		if target == nil {
			continue
		}
		kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("parse memory: %w", err)
		}
		*target = kilobytes << 10
	}
	return m, nil
}
