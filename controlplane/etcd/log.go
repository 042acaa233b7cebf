package etcd

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// core passes etcd's warnings and errors on to a logger, until it is stopped.
// What is below does not concern an operator, nor what a closing listener says.
type core struct {
	logger  *slog.Logger
	stopped *atomic.Bool
}

// noise is said at each start about a choice that is right here: clients are
// known by certificate.
var noise = map[string]bool{
	"simple token is not cryptographically signed": true,
}

func newCore(logger *slog.Logger) *core { return &core{logger: logger, stopped: new(atomic.Bool)} }

func (c *core) stop() { c.stopped.Store(true) }

func (c *core) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel && !c.stopped.Load()
}

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{logger: c.logger.With(attributes(fields)...), stopped: c.stopped}
}

func (c *core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) && !noise[entry.Message] {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c *core) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if entry.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.logger.Log(context.Background(), level, entry.Message, attributes(fields)...)
	return nil
}

// Sync does nothing: slog does not buffer.
func (c *core) Sync() error { return nil }

func attributes(fields []zapcore.Field) []any {
	encoder := zapcore.NewMapObjectEncoder()
	var result []any
	for _, field := range fields {
		field.AddTo(encoder)
	}
	for _, key := range slices.Sorted(maps.Keys(encoder.Fields)) {
		result = append(result, slog.Any(key, encoder.Fields[key]))
	}
	return result
}
