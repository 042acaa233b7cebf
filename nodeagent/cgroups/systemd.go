package cgroups

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// systemdSlices are transient slices of the host's systemd.
type systemdSlices struct{}

const systemdTimeout = 10 * time.Second

func (systemdSlices) start(slice string, l Limits) error {
	properties := []dbus.Property{ // the first two cannot be changed later
		dbus.PropDescription("pods of clusterctl"),
		{Name: "DefaultDependencies", Value: godbus.MakeVariant(false)},
		{Name: "CPUAccounting", Value: godbus.MakeVariant(true)},
		{Name: "MemoryAccounting", Value: godbus.MakeVariant(true)},
		{Name: "TasksAccounting", Value: godbus.MakeVariant(true)},
	}
	if l.CPUShares > 0 {
		properties = append(properties, dbus.Property{Name: "CPUWeight", Value: godbus.MakeVariant(uint64(Weight(l.CPUShares)))})
	}
	if l.CPUQuota > 0 {
		perSecond := uint64(l.CPUQuota) * 1_000_000 / QuotaPeriod
		properties = append(properties, dbus.Property{Name: "CPUQuotaPerSecUSec", Value: godbus.MakeVariant(perSecond)})
	}
	if l.Memory > 0 {
		properties = append(properties, dbus.Property{Name: "MemoryMax", Value: godbus.MakeVariant(uint64(l.Memory))})
	}
	if l.PIDs > 0 {
		properties = append(properties, dbus.Property{Name: "TasksMax", Value: godbus.MakeVariant(uint64(l.PIDs))})
	}
	return withSystemd(func(ctx context.Context, c *dbus.Conn) error {
		done := make(chan string, 1)
		_, err := c.StartTransientUnitContext(ctx, slice, "replace", properties, done)
		if err != nil {
			if strings.Contains(err.Error(), "already") {
				if err := c.SetUnitPropertiesContext(ctx, slice, true, properties[2:]...); err != nil {
					return fmt.Errorf("change slice %s: %w", slice, err)
				}
				return nil
			}
			return fmt.Errorf("start slice %s: %w", slice, err)
		}
		return await(ctx, slice, done)
	})
}

func (systemdSlices) stop(slice string) error {
	return withSystemd(func(ctx context.Context, c *dbus.Conn) error {
		done := make(chan string, 1)
		if _, err := c.StopUnitContext(ctx, slice, "replace", done); err != nil {
			return fmt.Errorf("stop slice %s: %w", slice, err)
		}
		return await(ctx, slice, done)
	})
}

func withSystemd(do func(context.Context, *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), systemdTimeout)
	defer cancel()
	c, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("connect to systemd: %w", err)
	}
	defer c.Close()
	return do(ctx, c)
}

func await(ctx context.Context, slice string, done <-chan string) error {
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("slice %s: systemd says %s", slice, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for slice %s: %w", slice, ctx.Err())
	}
}

// sliceName is the systemd name of a group: a slice's place in the tree is
// spelled out in its name, so dashes inside a part become underscores.
func sliceName(path []string) string {
	parts := make([]string, len(path))
	for i, p := range path {
		parts[i] = strings.ReplaceAll(p, "-", "_")
	}
	return strings.Join(parts, "-") + ".slice"
}

// slicePath is where systemd puts that slice.
func slicePath(path []string) string {
	var full strings.Builder
	for i := range path {
		full.WriteString("/" + sliceName(path[:i+1]))
	}
	return full.String()
}
