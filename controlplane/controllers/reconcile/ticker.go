package reconcile

import (
	"context"
	"log/slog"
	"time"
)

// Ticker calls one function again and again, for work that no event announces.
type Ticker struct {
	name   string
	period time.Duration
	logger *slog.Logger
	work   func(ctx context.Context) error
}

// NewTicker makes a controller that calls work at once and then every period.
// An error is logged, and the next call comes as ever.
func NewTicker(env *Environment, name string, period time.Duration, work func(ctx context.Context) error) *Ticker {
	return &Ticker{name: name, period: period, logger: env.Logger.With("controller", name), work: work}
}

// Logger carries the controller's name.
func (t *Ticker) Logger() *slog.Logger { return t.logger }

// Run works until ctx ends.
func (t *Ticker) Run(ctx context.Context) error {
	ticks := time.NewTicker(t.period)
	defer ticks.Stop()
	for ctx.Err() == nil {
		start := time.Now()
		err := guard(ctx, t.logger, t.name, t.work)
		result := "ok"
		if err != nil && ctx.Err() == nil {
			result = "error"
			t.logger.Warn("periodic work", "error", err)
		}
		duration.WithLabelValues(t.name, result).Observe(time.Since(start).Seconds())
		select {
		case <-ctx.Done():
		case <-ticks.C:
		}
	}
	return nil
}

// All runs several controllers as one, and ends with the first that fails.
type All []Controller

// Run returns when all have returned.
func (a All) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	results := make(chan error, len(a))
	for _, c := range a {
		go func() { results <- c.Run(ctx) }()
	}
	var first error
	for range a {
		if err := <-results; err != nil && first == nil {
			first = err
			stop()
		}
	}
	return first
}
