package sqlstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	metrics *prometheus.Registry
}

func openHistory(t *testing.T, dsn string, o logs.SealerOptions) *history {
	t.Helper()
	h := openUnsealed(t, dsn, 0, o)
	h.seal(t)
	return h
}

// openUnsealed does not start the sealer; journalBytes bounds the journal.
func openUnsealed(t *testing.T, dsn string, journalBytes int64, o logs.SealerOptions) *history {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	server, err := nats.StartServer(nats.ServerOptions{Dir: t.TempDir(), Sync: time.Minute, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	h := &history{metrics: prometheus.NewRegistry()}
	if h.journal, err = nats.OpenJournal(t.Context(), server, nats.JournalOptions{MaxBytes: journalBytes, Log: quiet}); err != nil {
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
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	h.sealer = logs.NewSealer(h.journal, h.chunks, o, h.metrics, log)
	h.store = logs.NewStore(h.journal, h.chunks, h.sealer, h.metrics, log)
	return h
}

// seal runs the sealer until the test ends.
func (h *history) seal(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.sealer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func (h *history) write(t *testing.T, batches ...logs.Batch) []uint64 {
	t.Helper()
	return conformance.Write(t, h.journal, batches...)
}

// settle waits until everything that is old enough is sealed.
func (h *history) settle(t *testing.T) {
	_, newest, err := h.journal.Bounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.store.Read(t.Context(), logs.Query{Devices: []string{"nobody"}, Limit: 1}); err != nil { // hurries the sealer
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

// say writes n batches of one line for each device and waits until they are sealed.
func (h *history) say(t *testing.T, n int, at time.Time, devices ...string) {
	t.Helper()
	for i := range n {
		for _, d := range devices {
			entries := logs.NewDecoder("entity_id").Decode(nil, fmt.Appendf(nil, `{"message":"line %d of %s"}`, i, d), at, func(logs.Reason) {})
			h.write(t, logs.Batch{Device: d, Body: logs.EncodeBody(at, entries)})
		}
	}
	h.settle(t)
}

func (h *history) read(t *testing.T, devices ...string) logs.Result {
	t.Helper()
	r, err := h.store.Read(t.Context(), logs.Query{Devices: devices, Backward: true, Limit: logs.MaxQuery})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testRetention(t *testing.T, dsn string) {
	h := openHistory(t, dsn, logs.SealerOptions{MaxLines: 10, MaxAge: time.Millisecond})
	ctx := t.Context()
	now := time.Now()
	for day := 10; day > 0; day-- {
		h.say(t, 10, now.Add(-time.Duration(day)*24*time.Hour), "aaaaaaaa", "bbbbbbbb")
	}
	whole, err := h.chunks.Usage(ctx, nil)
	if err != nil || whole.Lines != 200 {
		t.Fatalf("%+v, %v", whole, err)
	}
	// By age: whole chunks, a few at a time, and what is gone is one gap.
	r := logs.NewRetention(logs.RetentionOptions{
		Chunks: h.chunks, All: logs.Limit{MaxAge: 7*24*time.Hour - time.Hour},
		Models: map[string]logs.Limit{"strict": {MaxAge: 2*24*time.Hour + time.Hour}}, Log: slog.New(slog.DiscardHandler),
		Devices: func(model string) []string { return []string{"bbbbbbbb"} },
	}, prometheus.NewRegistry())
	if err := r.Once(ctx); err != nil {
		t.Fatal(err)
	}
	f := func(device string, lines, lost int) {
		t.Helper()
		got := h.read(t, device)
		if len(got.Lines) != lines || got.More {
			t.Errorf("%s: %d lines are left, want %d", device, len(got.Lines), lines)
		}
		if len(got.Lost) != 1 {
			t.Fatalf("%s: %d gaps: %+v", device, len(got.Lost), got.Lost)
		}
		g := got.Lost[0]
		if g.Reason != logs.LostRetention || g.Lines != lost || g.Device != device || len(got.Lines) > 0 && g.To >= got.Lines[0].Cursor.Seq || g.Least.After(g.Most) {
			t.Errorf("%s: gap %+v, want %d lines before %v", device, g, lost, got.Lines[0].Cursor)
		}
	}
	f("aaaaaaaa", 60, 40)
	f("bbbbbbbb", 20, 80)

	// A reader that comes from the time before is told the same.
	var lost []logs.Lost
	records := 0
	if err := h.journal.Trim(ctx, 201); err != nil {
		t.Fatal(err)
	}
	if _, err := h.store.Replay(ctx, []string{"aaaaaaaa"}, 0, func(p logs.Page) error {
		if len(p.Lost) > 0 && records > 0 {
			t.Error("a gap comes after the lines behind it")
		}
		lost, records = append(lost, p.Lost...), records+len(p.Records)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(lost) != 1 || lost[0].Lines != 40 || records != 60 {
		t.Errorf("replayed %d records and %+v", records, lost)
	}

	// By size.
	u, err := h.chunks.Usage(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	r = logs.NewRetention(logs.RetentionOptions{Chunks: h.chunks, All: logs.Limit{MaxBytes: u.Bytes / 2}, Log: slog.New(slog.DiscardHandler)}, prometheus.NewRegistry())
	if err := r.Once(ctx); err != nil {
		t.Fatal(err)
	}
	left, err := h.chunks.Usage(ctx, nil)
	if err != nil || left.Bytes > u.Bytes/2 || left.Bytes < u.Bytes/4 {
		t.Errorf("%d bytes are left of %d, %v", left.Bytes, u.Bytes, err)
	}
	if got := h.read(t, "aaaaaaaa"); len(got.Lost) != 1 || got.Lost[0].Lines+len(got.Lines) != 100 {
		t.Errorf("%d lines and %+v", len(got.Lines), got.Lost)
	}

	// A device that is deleted leaves nothing, not even a gap.
	if err := h.chunks.Forget(ctx, "aaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	if got := h.read(t, "aaaaaaaa"); len(got.Lines)+len(got.Lost) != 0 {
		t.Errorf("a deleted device: %+v", got)
	}
	if got := h.read(t, "bbbbbbbb"); len(got.Lost) != 1 || got.Lost[0].Lines+len(got.Lines) != 100 {
		t.Errorf("its neighbour: %d lines and %+v", len(got.Lines), got.Lost)
	}
}

func TestRetentionSQLite(t *testing.T) {
	testRetention(t, filepath.Join(t.TempDir(), "history.db"))
}

// Space is given back to the file system.
func TestReclaim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	h := openHistory(t, path, logs.SealerOptions{MaxAge: time.Millisecond})
	for i := range 20 {
		text := make([]byte, 0, 1<<18)
		for len(text) < 1<<18 {
			text = fmt.Appendf(text, "%x", rand.Uint64()) // does not compress well
		}
		entries := []logs.Entry{}
		for part := range slices.Chunk(text, 32<<10) {
			entries = append(entries, logs.NewDecoder("entity_id").Decode(nil, fmt.Appendf(nil, `{"message":%q}`, part), time.Now(), func(logs.Reason) {})...)
		}
		h.write(t, logs.Batch{Device: fmt.Sprintf("dev%05d", i), Body: logs.EncodeBody(time.Now(), entries)})
	}
	h.settle(t)
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	u, err := h.chunks.Usage(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := logs.NewRetention(logs.RetentionOptions{Chunks: h.chunks, All: logs.Limit{MaxBytes: 1 << 20}, Log: slog.New(slog.DiscardHandler)}, prometheus.NewRegistry())
	if err := r.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.chunks.Close(); err != nil { // the log of changes goes into the file
		t.Fatal(err)
	}
	t.Logf("%d KiB before, %d KiB after", u.Bytes>>10, size()>>10)
	if u.Bytes < 2<<20 || size() > 3<<19 {
		t.Errorf("the file has %d bytes, of %d before", size(), u.Bytes)
	}
}

// What the journal had to give up before it was sealed is a gap, not an empty
// past, in a query as for a reader that comes back.
func TestJournalLimit(t *testing.T) {
	h := openUnsealed(t, filepath.Join(t.TempDir(), "history.db"), 64<<10, logs.SealerOptions{MaxAge: time.Millisecond})
	for i := range 1000 {
		entries := logs.NewDecoder("entity_id").Decode(nil, fmt.Appendf(nil, `{"message":"%0400d"}`, i), time.Now(), func(logs.Reason) {})
		h.write(t, logs.Batch{Device: "aaaaaaaa", Body: logs.EncodeBody(time.Now(), entries)})
	}
	oldest, newest, err := h.journal.Bounds(t.Context())
	if err != nil || oldest < 500 || newest != 1000 {
		t.Fatalf("the journal holds %d to %d, %v", oldest, newest, err)
	}
	h.seal(t)
	h.settle(t)
	got := h.read(t, "aaaaaaaa")
	if len(got.Lines) != int(newest-oldest+1) || len(got.Lost) != 1 || got.Lost[0].Reason != logs.LostJournal || got.Lost[0].From != 0 || got.Lost[0].To != oldest-1 {
		t.Errorf("%d lines and %+v", len(got.Lines), got.Lost)
	}
	if err := h.journal.Trim(t.Context(), newest+1); err != nil {
		t.Fatal(err)
	}
	var lost []logs.Lost
	records := 0
	upTo, err := h.store.Replay(t.Context(), []string{"aaaaaaaa"}, 10, func(p logs.Page) error {
		lost, records = append(lost, p.Lost...), records+len(p.Records)
		return nil
	})
	if err != nil || upTo != newest || records != len(got.Lines) || len(lost) != 1 || lost[0].To != oldest-1 {
		t.Errorf("replayed %d records up to %d, lost %+v, %v", records, upTo, lost, err)
	}
}
