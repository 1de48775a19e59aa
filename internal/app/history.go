package app

import (
	"context"
	"math"
	"time"

	"signalbox/internal/elastic"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
)

// copied is what ELASTICSEARCH_URL stands for; empty without.
type copied struct {
	client *elastic.Client
	sink   *logs.SinkRunner
	dead   *logs.Undelivered
}

// openHistory returns where readers find what was before now, the history to be
// queried, nil if there is none, and what keeps both in order.
func (a *app) openHistory(ctx context.Context, journal *nats.Journal, devices *registry.Service, copied copied) (logs.Replayer, logs.History, []unit, error) {
	cfg := a.cfg
	switch cfg.LogsHistory {
	case "off":
		return journal, nil, nil, nil
	case "elasticsearch":
		history := elastic.NewHistory(elastic.HistoryOptions{
			Client: copied.client, Journal: journal, Settled: copied.sink.Settled, Lost: copied.sink.Lost, Devices: devices.Directory(), Log: a.log,
		})
		a.held = append(a.held, history.Held)
		return journal, history, []unit{{"history", history.Run}}, nil
	}
	chunks, err := sqlstore.OpenHistory(ctx, cfg.HistoryDatabase())
	if err != nil {
		return nil, nil, nil, err
	}
	a.onClose(chunks.Close)
	sealer := logs.NewSealer(journal, chunks, logs.SealerOptions{MaxAge: time.Duration(cfg.HistorySealAge)}, a.metrics, a.log)
	if err := sealer.Align(ctx); err != nil {
		return nil, nil, nil, err
	}
	store := logs.NewStore(journal, chunks, sealer, a.metrics, a.log)
	models := map[string]logs.Limit{}
	for model, l := range cfg.HistoryRetention {
		models[model] = logs.Limit{MaxAge: time.Duration(l.MaxAge), MaxBytes: int64(l.MaxBytes)}
	}
	directory := devices.Directory()
	retention := logs.NewRetention(logs.RetentionOptions{
		Chunks: chunks, All: logs.Limit{MaxAge: time.Duration(cfg.HistoryMaxAge), MaxBytes: int64(cfg.HistoryMaxBytes)}, Models: models,
		Devices: directory.KeysOfModel, Log: a.log,
	}, a.metrics)
	forget := make(chan string, 1024) // keys of deleted devices
	devices.Observe(func(_ context.Context, ch registry.Change) {
		if ch.Kind == registry.Deleted {
			select {
			case forget <- ch.Before.Key:
			default: // then it ends with its age
			}
		}
	})
	a.held = append(a.held, sealer.Held)
	return store, store, []unit{
		{"history", sealer.Run},
		{"retention", retention.Run},
		{"deleted devices", func(ctx context.Context) error { a.forget(ctx, chunks, forget); return nil }},
	}, nil
}

// keepJournal keeps the journal within its limits, as far as every copy of it
// is complete.
func (a *app) keepJournal(ctx context.Context, journal *nats.Journal) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			held := uint64(math.MaxUint64 - 1)
			for _, f := range a.held {
				held = min(held, f())
			}
			if err := journal.Keep(ctx, int64(a.cfg.JournalMaxBytes), time.Duration(a.cfg.JournalMaxAge), held); err != nil && ctx.Err() == nil {
				a.log.Warn("the journal could not be kept within its limits; trying again", "err", err)
			}
		}
	}
}

// forget deletes the history of deleted devices.
func (a *app) forget(ctx context.Context, chunks logs.Chunks, keys <-chan string) {
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-keys:
			if err := chunks.Forget(ctx, key); err != nil && ctx.Err() == nil {
				a.log.Warn("the history of a deleted device could not be deleted and ends with its age", "device", key, "err", err)
			}
		}
	}
}
