package sqlstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/sqlstore"
)

// imported makes chunks of lines with the sequences from first to last, of the
// devices in turn.
func (h *history) imported(t *testing.T, b *logs.ChunkBuilder, epoch string, first, last int, devices ...string) []logs.Chunk {
	t.Helper()
	at := time.Date(2026, 7, 4, 8, 0, 0, 0, time.UTC)
	for seq := first; seq <= last; seq++ {
		entries := logs.NewDecoder("entity_id").Decode(nil, fmt.Appendf(nil, `{"message":"imported %d"}`, seq), at, func(logs.Reason) {})
		l, ok := entries[0].Line(logs.LineCursor{Cursor: logs.Cursor{Epoch: epoch, Seq: uint64(seq)}}, devices[seq%len(devices)], at)
		if !ok {
			t.Fatal("no line")
		}
		b.Add(&l)
	}
	chunks, err := b.Chunks(t.Context(), h.chunks)
	if err != nil {
		t.Fatal(err)
	}
	return chunks
}

func testImports(t *testing.T, dsn string) {
	h := openHistory(t, dsn, logs.SealerOptions{MaxLines: 10, MaxAge: time.Millisecond})
	ctx := t.Context()
	h.say(t, 20, time.Now(), "aaaaaaaa", "bbbbbbbb")
	// Two imports, the second of which stands before the first.
	type line struct {
		epoch string
		seq   uint64
	}
	want := map[string][]line{}
	for _, epoch := range []string{"importsecond", "importfirst"} {
		if _, ok, err := h.chunks.FindImport(ctx, epoch); ok || err != nil {
			t.Fatal(ok, err)
		}
		i, err := h.chunks.OpenImport(ctx, epoch, epoch)
		if err != nil || i != (sqlstore.Import{Source: epoch, Epoch: epoch}) {
			t.Fatalf("%+v, %v", i, err)
		}
		b := logs.NewChunkBuilder(epoch)
		last := 0
		// Small pieces are joined, also behind full ones.
		for _, n := range []int{7, 1, 2500, 10, 3} {
			now := i
			now.Mark, now.Seq = fmt.Sprint(last+n), uint64(last+n)
			chunks := h.imported(t, b, epoch, last+1, last+n, "aaaaaaaa", "bbbbbbbb")
			if err := h.chunks.StoreImport(ctx, i, now, chunks); err != nil {
				t.Fatal(err)
			}
			// Once is all, whoever tries again.
			if err := h.chunks.StoreImport(ctx, i, now, chunks); fleet.KindOf(err) != fleet.InvalidOperation {
				t.Errorf("a second time: %v", err)
			}
			last += n
			if i, err = h.chunks.OpenImport(ctx, epoch, "another"); err != nil || i != now {
				t.Fatalf("%+v, %v, want %+v", i, err, now)
			}
		}
		for d, device := range []string{"aaaaaaaa", "bbbbbbbb"} {
			var lines []line
			for seq := 1; seq <= last; seq++ {
				if seq%2 == d {
					lines = append(lines, line{epoch, uint64(seq)})
				}
			}
			want[device] = append(lines, want[device]...)
		}
	}
	epochs, err := h.chunks.Epochs(ctx)
	if err != nil || epochs["importfirst"] != -1 || epochs["importsecond"] != 0 || epochs[h.journal.Epoch()] != 1 {
		t.Errorf("%v, %v", epochs, err)
	}
	// Pages, both ways, over all of them.
	for _, device := range []string{"aaaaaaaa", "bbbbbbbb"} {
		for _, limit := range []int{97, 1000, logs.MaxQuery} {
			for _, backward := range []bool{false, true} {
				var got []logs.Line
				for q := (logs.Query{Devices: []string{device}, Limit: limit, Backward: backward}); ; {
					r, err := h.store.Read(ctx, q)
					if err != nil {
						t.Fatal(err)
					}
					if backward {
						got = append(r.Lines, got...)
						q.Before = r.Reached
					} else {
						got = append(got, r.Lines...)
						q.After = r.Reached
						if n, err := h.store.Count(ctx, q); err != nil || r.More && n < 1 {
							t.Errorf("after %v are %d, %v", q.After, n, err)
						}
					}
					if !r.More {
						break
					}
				}
				if len(got) != len(want[device])+20 {
					t.Fatalf("%s by %d, backward %v: %d lines", device, limit, backward, len(got))
				}
				for i, w := range want[device] {
					if l := got[i]; l.Cursor.Epoch != w.epoch || l.Cursor.Seq != w.seq || string(l.Message) != fmt.Sprint("imported ", w.seq) {
						t.Fatalf("%s by %d, backward %v: line %d is %v %s, want %v", device, limit, backward, i, l.Cursor, l.Message, w)
					}
				}
			}
		}
	}
	// What is small is not in many chunks.
	u, err := h.chunks.Usage(ctx, nil)
	if err != nil || u.Chunks > 2*(2+2*5) {
		t.Errorf("%+v, %v", u, err)
	}
	// A place in the oldest epoch bounds the others too.
	if n, err := h.store.Count(ctx, logs.Query{After: logs.LineCursor{Cursor: logs.Cursor{Epoch: "importfirst", Seq: 2521}, Line: logs.WholeBatch}}); err != nil || n > 2521+40+600 || n < 2521+40 {
		t.Errorf("%d lines after the first import, %v", n, err)
	}
}

func TestImportsSQLite(t *testing.T) { testImports(t, filepath.Join(t.TempDir(), "history.db")) }

// In an empty history an import does not take the place of the first journal.
func TestImportFirst(t *testing.T) {
	h, err := sqlstore.OpenHistory(t.Context(), filepath.Join(t.TempDir(), "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.OpenImport(t.Context(), "source", "import"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Sealed(context.Background(), "journal"); err != nil {
		t.Fatal(err)
	}
	if epochs, err := h.Epochs(t.Context()); err != nil || epochs["import"] != 0 || epochs["journal"] != 1 {
		t.Errorf("%v, %v", epochs, err)
	}
}
