package sqlstore_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/conformance"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
	"signalbox/internal/sqlstore"
)

// history is a journal and a history with a sealer between them.
type history struct {
	journal *nats.Journal
	chunks  *sqlstore.History
	sealer  *logs.Sealer
	store   *logs.Store
}

func openHistory(t *testing.T, dsn string, o logs.SealerOptions) *history {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	server, err := nats.StartServer(nats.ServerOptions{Dir: t.TempDir(), Sync: time.Minute, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	h := &history{}
	if h.journal, err = nats.OpenJournal(t.Context(), server, nats.JournalOptions{Log: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.journal.Close)
	if h.chunks, err = sqlstore.OpenHistory(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.chunks.Close(); err != nil {
			t.Error(err)
		}
	})
	h.sealer = logs.NewSealer(h.journal, h.chunks, o, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	h.store = logs.NewStore(h.journal, h.chunks, h.sealer, quiet)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.sealer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *history) write(t *testing.T, batches ...logs.Batch) []uint64 {
	seqs := make([]uint64, len(batches))
	done := make(chan error, len(batches))
	for i, b := range batches {
		h.journal.Append(b, func(seq uint64, err error) {
			seqs[i] = seq
			done <- err
		})
	}
	for range batches {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	return seqs
}

// settle waits until everything that is old enough is sealed.
func (h *history) settle(t *testing.T) {
	_, newest, err := h.journal.Bounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); h.sealer.Held() < newest; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("sealed up to %d of %d", h.sealer.Held(), newest)
		}
	}
}

func testHistory(t *testing.T, dsn func(*testing.T) string) {
	conformance.History(t, func(t *testing.T) conformance.HistoryUnderTest {
		h := openHistory(t, dsn(t), logs.SealerOptions{MaxLines: 40, MaxAge: time.Millisecond})
		return conformance.HistoryUnderTest{
			History: h.store, Epoch: h.journal.Epoch(),
			Write:  func(b ...logs.Batch) []uint64 { return h.write(t, b...) },
			Settle: func() { h.settle(t) },
		}
	})
}

func TestHistorySQLite(t *testing.T) {
	testHistory(t, func(t *testing.T) string { return filepath.Join(t.TempDir(), "history.db") })
}
