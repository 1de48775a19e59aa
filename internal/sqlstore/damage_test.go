package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/logs"
)

// Lines whose bytes were damaged on the disk are told as a gap by everything
// that reads them, what stands around them is read, and they can be deleted.
func TestDamagedChunk(t *testing.T) {
	const first, second, other = "aaaaaaaa", "bbbbbbbb", "cccccccc"
	for name, damage := range map[string]string{
		"a bit":              "UPDATE log_data SET data = CAST(substr(data, 1, 40) || x'ff00ff' || substr(data, 44) AS BLOB) WHERE chunk = ?",
		"the end":            "UPDATE log_data SET data = substr(data, 1, length(data) / 2) WHERE chunk = ?",
		"everything":         "UPDATE log_data SET data = x'' WHERE chunk = ?",
		"the row":            "DELETE FROM log_data WHERE chunk = ?",
		"another one's text": "UPDATE log_data SET data = (SELECT data FROM log_data WHERE chunk <> ?1 ORDER BY chunk LIMIT 1) WHERE chunk = ?1",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "history.db")
			h := openHistory(t, path, logs.SealerOptions{MaxLines: 10, MaxAge: time.Millisecond})
			ctx := t.Context()
			start := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
			for i := range 4 {
				h.say(t, 10, start.Add(time.Duration(i)*time.Minute), first, second)
			}
			hurt := h.hurt(t, path, damage, first)
			want := logs.Lost{
				Device: first, Epoch: h.journal.Epoch(), EpochNumber: 1, From: hurt.First - 1, To: hurt.Last,
				Least: hurt.Least, Most: hurt.Most, Lines: 10, Reason: logs.LostDamaged,
			}

			// A page in either direction, pages one after another, and a search.
			for _, q := range []logs.Query{
				{Limit: 1000}, {Limit: 1000, Backward: true}, {Limit: 1000, Devices: []string{first}}, {Limit: 1000, Filter: logs.Filter{Pattern: "line"}},
			} {
				r, err := h.store.Read(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				lines := 70
				if q.Devices != nil {
					lines = 30
				}
				if len(r.Lines) != lines || r.More {
					t.Errorf("%+v: %d lines, want %d", q, len(r.Lines), lines)
				}
				if diff := cmp.Diff([]logs.Lost{want}, r.Lost); diff != "" {
					t.Errorf("%+v: %s", q, diff)
				}
			}
			var lines, gaps int
			for q, more := (logs.Query{Devices: []string{first}, Limit: 7}), true; more; {
				r, err := h.store.Read(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range r.Lost {
					if l != want {
						t.Errorf("a page lost %+v", l)
					}
				}
				lines, gaps = lines+len(r.Lines), gaps+len(r.Lost)
				q.After, more = r.Reached, r.More
			}
			if lines != 30 || gaps == 0 {
				t.Errorf("pages give %d lines and %d gaps", lines, gaps)
			}
			// What does not come near it is not told.
			for _, q := range []logs.Query{{Devices: []string{second}, Limit: 1000}, {Limit: 5}, {Limit: 5, Backward: true}, {Limit: 100, Start: start.Add(3 * time.Minute)}} {
				if r, err := h.store.Read(ctx, q); err != nil || len(r.Lost) != 0 {
					t.Errorf("%+v: %+v, %v", q, r.Lost, err)
				}
			}

			// A reader that comes back.
			if err := h.journal.Trim(ctx, 81); err != nil {
				t.Fatal(err)
			}
			var seen []string
			if _, err := h.store.Replay(ctx, []string{first, second}, 0, func(p logs.Page) error {
				for _, l := range p.Lost {
					if l != want {
						t.Errorf("a reader lost %+v", l)
					}
					seen = append(seen, "gap")
				}
				for _, rec := range p.Records {
					if rec.Device == first {
						seen = append(seen, fmt.Sprint(rec.Seq))
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			var inOrder []string
			for seq := 1; seq <= 80; seq += 2 {
				switch seq := uint64(seq); {
				case seq < hurt.First || seq > hurt.Last:
					inOrder = append(inOrder, fmt.Sprint(seq))
				case seq == hurt.First:
					inOrder = append(inOrder, "gap")
				}
			}
			if diff := cmp.Diff(inOrder, seen); diff != "" {
				t.Errorf("a reader: %s", diff)
			}

			// One is counted once, and hinders nobody who writes.
			if n := damaged(t, h.metrics); n != 1 {
				t.Errorf("%v damaged chunks were counted", n)
			}
			h.say(t, 1, start, other)
			h.hurt(t, path, damage, other)
			h.say(t, 1, start, other) // would go on with that chunk
			if r := h.read(t, other); len(r.Lines) != 1 || len(r.Lost) != 1 || r.Lost[0].Reason != logs.LostDamaged {
				t.Errorf("a small chunk: %d lines and %+v", len(r.Lines), r.Lost)
			}

			r := logs.NewRetention(logs.RetentionOptions{Chunks: h.chunks, All: logs.Limit{MaxAge: time.Minute}, Log: slog.New(slog.DiscardHandler)}, prometheus.NewRegistry())
			if err := r.Once(ctx); err != nil {
				t.Fatal(err)
			}
			if got := h.read(t, first); len(got.Lines) != 0 || len(got.Lost) != 1 || got.Lost[0].Reason != logs.LostRetention || got.Lost[0].Lines != 40 {
				t.Errorf("after its time: %d lines and %+v", len(got.Lines), got.Lost)
			}
		})
	}
}

// hurt damages the device's second chunk, or its only one, and returns it.
func (h *history) hurt(t *testing.T, path, damage, device string) (c logs.ChunkInfo) {
	t.Helper()
	if err := h.chunks.View(t.Context(), func(v logs.ChunkView) error {
		chunks, err := v.List(t.Context(), logs.ChunkQuery{Devices: []string{device}}, 2)
		if len(chunks) > 0 {
			c = chunks[len(chunks)-1].ChunkInfo
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	result, err := db.ExecContext(context.Background(), damage, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := result.RowsAffected(); n != 1 || err != nil {
		t.Fatalf("%d rows were damaged, %v", n, err)
	}
	return c
}

func damaged(t *testing.T, metrics *prometheus.Registry) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "iot_history_chunks_damaged_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("no such metric")
	return 0
}
