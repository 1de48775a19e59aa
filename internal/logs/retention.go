package logs

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limit is how much of the history is kept; 0 does not limit.
type Limit struct {
	MaxAge   time.Duration
	MaxBytes int64 // in the store
}

// RetentionOptions configure a Retention; all are needed.
type RetentionOptions struct {
	Chunks Chunks
	All    Limit            // of everything
	Models map[string]Limit // of a device model, by its code
	// Devices returns the keys of the devices of a model.
	Devices func(model string) []string
	Log     *slog.Logger
}

// Retention deletes what is older or more than the operator wants to keep: whole
// chunks, the oldest first, few at a time, so that nobody waits for it.
type Retention struct {
	opts    RetentionOptions
	deleted *prometheus.CounterVec // lines, by why
	bytes   prometheus.Counter
	usage   *prometheus.GaugeVec // by what
	oldest  prometheus.Gauge
}

const (
	retentionTick   = 30 * time.Second
	retentionChunks = 256 // deleted in one transaction
	retentionGroup  = 5000
)

// NewRetention returns a Retention.
func NewRetention(o RetentionOptions, reg prometheus.Registerer) *Retention {
	r := &Retention{
		opts:    o,
		deleted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_history_lines_deleted_total", Help: "Log lines deleted from the history, by the limit that they were beyond."}, []string{"limit"}),
		bytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "iot_history_bytes_deleted_total", Help: "Bytes of chunks deleted from the history."}),
		usage:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "iot_history_size", Help: "What the history holds, as last looked at: chunks, lines and bytes."}, []string{"of"}),
		oldest:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "iot_history_oldest_seconds", Help: "Receive time of the oldest line in the history, in seconds since 1970."}),
	}
	reg.MustRegister(r.deleted, r.bytes, r.usage, r.oldest)
	return r
}

// Run keeps the limits until ctx ends.
func (r *Retention) Run(ctx context.Context) error {
	tick := time.NewTicker(retentionTick)
	defer tick.Stop()
	for {
		if err := r.Once(ctx); err != nil && ctx.Err() == nil {
			r.opts.Log.Warn("old log lines could not be deleted; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Once keeps every limit once.
func (r *Retention) Once(ctx context.Context) error {
	for model, limit := range r.opts.Models {
		if devices := r.opts.Devices(model); len(devices) > 0 {
			if err := r.keep(ctx, limit, devices, "model_"); err != nil {
				return err
			}
		}
	}
	if err := r.keep(ctx, r.opts.All, nil, ""); err != nil {
		return err
	}
	for more := true; more && ctx.Err() == nil; {
		var err error
		if more, err = r.opts.Chunks.Reclaim(ctx); err != nil {
			return err
		}
	}
	u, err := r.opts.Chunks.Usage(ctx, nil)
	if err != nil {
		return err
	}
	r.usage.WithLabelValues("chunks").Set(float64(u.Chunks))
	r.usage.WithLabelValues("lines").Set(float64(u.Lines))
	r.usage.WithLabelValues("bytes").Set(float64(u.Bytes))
	if u.Oldest.IsZero() {
		r.oldest.Set(0)
	} else {
		r.oldest.Set(float64(u.Oldest.UnixMicro()) / 1e6)
	}
	return nil
}

// keep keeps the limit of the devices, or of all if nil.
func (r *Retention) keep(ctx context.Context, limit Limit, devices []string, label string) error {
	if limit.MaxAge > 0 {
		before := time.Now().Add(-limit.MaxAge)
		err := r.delete(ctx, label+"age", func() (Usage, error) {
			return r.opts.Chunks.Expire(ctx, devices, before, retentionChunks)
		})
		if err != nil {
			return err
		}
	}
	if limit.MaxBytes <= 0 {
		return nil
	}
	u, err := r.opts.Chunks.Usage(ctx, devices)
	if err != nil {
		return err
	}
	excess := u.Bytes - limit.MaxBytes
	return r.delete(ctx, label+"bytes", func() (Usage, error) {
		if excess <= 0 {
			return Usage{}, nil
		}
		gone, err := r.opts.Chunks.Shrink(ctx, devices, excess, retentionChunks)
		excess -= gone.Bytes
		return gone, err
	})
}

// delete deletes a piece at a time until there is no more.
func (r *Retention) delete(ctx context.Context, label string, piece func() (Usage, error)) error {
	for ctx.Err() == nil {
		gone, err := piece()
		if err != nil || gone.Chunks == 0 {
			return err
		}
		r.deleted.WithLabelValues(label).Add(float64(gone.Lines))
		r.bytes.Add(float64(gone.Bytes))
	}
	return ctx.Err()
}
