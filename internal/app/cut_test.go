package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/logs"
	"signalbox/internal/nats"
	"signalbox/internal/sqlstore"
)

// life is one process: a journal, and a history that seals at once.
type life struct {
	t       *testing.T
	server  *nats.Server
	journal *nats.Journal
	chunks  *sqlstore.History
	sealer  *logs.Sealer
	store   *logs.Store
	ended   func()
}

func begin(t *testing.T, dir, mark string, age time.Duration) *life {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	l := &life{t: t}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	l.server, err = nats.StartServer(nats.ServerOptions{Dir: filepath.Join(dir, "nats"), Sync: time.Minute, Log: log})
	check(err)
	l.journal, err = nats.OpenJournal(t.Context(), l.server, nats.JournalOptions{Mark: mark, Log: log})
	check(err)
	l.chunks, err = sqlstore.OpenHistory(t.Context(), filepath.Join(dir, "history.db"))
	check(err)
	l.sealer = logs.NewSealer(l.journal, l.chunks, logs.SealerOptions{MaxAge: age}, prometheus.NewRegistry(), log)
	check(l.sealer.Align(t.Context()))
	l.store = logs.NewStore(l.journal, l.chunks, l.sealer, prometheus.NewRegistry(), log)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = l.sealer.Run(ctx) })
	l.ended = sync.OnceFunc(func() {
		cancel()
		group.Wait()
		l.journal.Close()
		l.server.Close()
		if err := l.chunks.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.ended)
	return l
}

// say appends n lines of the device, each a batch, and returns the last sequence.
func (l *life) say(device, text string, n int) (last uint64) {
	l.t.Helper()
	at := time.Now()
	for i := range n {
		entries := logs.NewDecoder("entity_id").Decode(nil, fmt.Appendf(nil, `{"message":"%s %d"}`, text, i), at, func(logs.Reason) {})
		done := make(chan error, 1)
		l.journal.Append(logs.Batch{Device: device, Body: logs.EncodeBody(at, entries)}, func(seq uint64, err error) { last = seq; done <- err })
		if err := <-done; err != nil {
			l.t.Fatal(err)
		}
	}
	return last
}

func (l *life) settle(upTo uint64) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); l.sealer.Held() < upTo; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("sealed up to %d of %d", l.sealer.Held(), upTo)
		}
	}
}

// replayed is what a reader gets that has everything up to after.
func (l *life) replayed(after uint64) (texts []string, lost []logs.Lost) {
	l.t.Helper()
	for _, from := range []func(context.Context, []string, uint64, func(logs.Page) error) (uint64, error){l.journal.Replay, l.store.Replay} {
		texts, lost = nil, nil
		if _, err := from(l.t.Context(), []string{"aaaaaaaa"}, after, func(p logs.Page) error {
			for _, g := range p.Lost {
				lost = append(lost, g)
				texts = append(texts, "gap")
			}
			for i := range p.Records {
				p.Records[i].Lines("e", func(line *logs.Line) { texts = append(texts, string(line.Message)) })
			}
			return nil
		}); err != nil {
			l.t.Fatal(err)
		}
	}
	return texts, lost
}

// After the end of the journal's files is lost, no sequence means two records:
// neither a reader nor the history takes a new line for one that it has.
func TestJournalLosesItsEnd(t *testing.T) {
	for name, test := range map[string]struct {
		mark bool          // the file beside the journal is there
		age  time.Duration // after which the history takes a line
	}{
		"the mark knows":    {true, time.Hour},
		"the history knows": {false, time.Millisecond},
		"both know":         {true, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mark := ""
			if test.mark {
				mark = filepath.Join(dir, "journal.json")
			}
			one := begin(t, dir, mark, test.age)
			kept := one.say("aaaaaaaa", "kept", 20)
			if test.age < time.Second {
				one.settle(kept)
			}
			one.ended()
			saved := filepath.Join(t.TempDir(), "nats")
			if err := os.CopyFS(saved, os.DirFS(filepath.Join(dir, "nats"))); err != nil {
				t.Fatal(err)
			}

			two := begin(t, dir, mark, test.age)
			epoch := two.journal.Epoch()
			cut := two.say("aaaaaaaa", "cut", 30)
			if test.age < time.Second {
				two.settle(cut)
			}
			two.ended()
			if err := os.RemoveAll(filepath.Join(dir, "nats")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(saved, filepath.Join(dir, "nats")); err != nil {
				t.Fatal(err)
			}

			three := begin(t, dir, mark, test.age)
			if three.journal.Epoch() != epoch {
				t.Fatal("the epoch changed")
			}
			first := three.say("aaaaaaaa", "new", 1)
			last := three.say("aaaaaaaa", "new", 49)
			if first != cut+1 {
				t.Errorf("the first new sequence is %d; %d was given out before", first, cut)
			}
			gap := logs.Lost{Epoch: epoch, From: kept, To: cut, Reason: logs.LostReset}
			for _, after := range []uint64{0, kept, kept + 10, cut, cut + 5} { // a reader of each kind
				texts, lost := three.replayed(after)
				var want []string
				for i := after; i < kept; i++ {
					want = append(want, fmt.Sprintf("kept %d", i))
				}
				if after < cut {
					want = append(want, "gap")
					if len(lost) != 1 || lost[0] != gap {
						t.Errorf("after %d: %+v, want %+v", after, lost, gap)
					}
				}
				for i := max(after, cut) - cut; i < 50; i++ {
					n := int(i) - 1
					if i == 0 {
						n = 0
					} else if n >= 49 {
						continue
					}
					want = append(want, fmt.Sprintf("new %d", n))
				}
				if !slices.Equal(texts, want) {
					t.Errorf("after %d a reader gets %q\nwant %q", after, texts, want)
				}
			}
			if test.age < time.Second {
				three.settle(last)
			}
			r, err := three.store.Read(t.Context(), logs.Query{Devices: []string{"aaaaaaaa"}, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			lines := 70
			if test.age < time.Second {
				lines = 100 // what it had already
			}
			if len(r.Lines) != lines {
				t.Errorf("the history has %d lines, want %d", len(r.Lines), lines)
			}
			for i := 1; i < len(r.Lines); i++ {
				if r.Lines[i].Cursor == r.Lines[i-1].Cursor {
					t.Errorf("%v is there twice", r.Lines[i].Cursor)
				}
			}
			three.ended()

			// Nothing is lost by a stop and a start.
			four := begin(t, dir, mark, test.age)
			if next := four.say("aaaaaaaa", "later", 1); next != last+1 {
				t.Errorf("the next sequence is %d, want %d", next, last+1)
			}
		})
	}
}
