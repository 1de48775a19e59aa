package registry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

func sscan(run string, x, y, n, back *int) (int, error) {
	return fmt.Sscanf(run, "%d %dh%dv1h-%dz", x, y, n, back)
}

func TestLinks(t *testing.T) {
	db := openStore(t)
	s := newService(t, db)
	d := createDevice(t, s, createModel(t, s, "relay", nil).ID, `{}`)
	now := epoch
	links := registry.NewLinks(db, slog.New(slog.DiscardHandler), func() time.Time { return now })

	refused := func(n registry.NewLink, kind fleet.Kind) {
		t.Helper()
		if _, _, err := links.Create(t.Context(), n); fleet.KindOf(err) != kind || err == nil {
			t.Errorf("%+v: %v", n, err)
		}
	}
	refused(registry.NewLink{Device: d.ID, Format: "xml", Lifetime: time.Hour}, fleet.Invalid)
	refused(registry.NewLink{Device: d.ID, Format: "json", Lifetime: time.Minute - 1}, fleet.Invalid)
	refused(registry.NewLink{Device: d.ID, Format: "json", Lifetime: 7*24*time.Hour + 1}, fleet.Invalid)
	refused(registry.NewLink{Device: d.ID, Format: "nvs", PartitionSize: 0x3001, Lifetime: time.Hour}, fleet.Invalid)
	refused(registry.NewLink{Device: 99, Format: "json", Lifetime: time.Hour}, fleet.NotFound)

	token, link, err := links.Create(t.Context(), registry.NewLink{Device: d.ID, Format: "json", PartitionSize: 5, Lifetime: time.Hour, CreatedBy: "Ann", Maker: "{}"})
	if err != nil || len(token) < 40 || link.PartitionSize != 0 {
		t.Fatal(token, link, err)
	}
	kept, err := db.Links(t.Context(), d.ID)
	if err != nil || len(kept) != 1 || strings.Contains(fmt.Sprint(kept), token) {
		t.Fatalf("%+v, %v", kept, err)
	}
	if found, err := links.Find(t.Context(), token); err != nil || found != link {
		t.Errorf("%+v, %v", found, err)
	}
	for _, wrong := range []string{"", "x", token[1:], token + "x", link.Hash} {
		if _, err := links.Find(t.Context(), wrong); !errors.Is(err, registry.ErrNoLink) {
			t.Errorf("%q: %v", wrong, err)
		}
	}

	// Of many at once one gets it.
	var won sync.Map
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			switch err := links.Use(t.Context(), link.ID, "192.0.2.1"); {
			case err == nil:
				won.Store(i, true)
			case !errors.Is(err, registry.ErrNoLink):
				t.Error(err)
			}
		})
	}
	all.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d used it", n)
	}
	if _, err := links.Find(t.Context(), token); !errors.Is(err, registry.ErrNoLink) {
		t.Error(err)
	}

	// An hour is an hour.
	token, link, err = links.Create(t.Context(), registry.NewLink{Device: d.ID, Format: "qr", Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour - 1000)
	if _, err := links.Find(t.Context(), token); err != nil {
		t.Error(err)
	}
	now = now.Add(1000)
	if _, err := links.Find(t.Context(), token); !errors.Is(err, registry.ErrNoLink) {
		t.Error(err)
	}
	if err := links.Use(t.Context(), link.ID, ""); !errors.Is(err, registry.ErrNoLink) {
		t.Error(err)
	}
	if list, err := links.Of(t.Context(), d.ID); err != nil || len(list) != 2 || list[0].ID != link.ID || list[1].UsedFrom != "192.0.2.1" {
		t.Errorf("%+v, %v", list, err)
	}
	for range registry.MaxOpenLinks {
		if _, _, err := links.Create(t.Context(), registry.NewLink{Device: d.ID, Format: "qr", Lifetime: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	refused(registry.NewLink{Device: d.ID, Format: "json", Lifetime: time.Hour}, fleet.TooMany)
}

// purges counts what Run asks of a store.
type purges struct {
	registry.LinkStore
	mu    sync.Mutex
	until []time.Time
}

func (p *purges) DeleteOldLinks(_ context.Context, until time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = append(p.until, until)
	return nil
}

func TestLinksRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &purges{}
		links := registry.NewLinks(p, slog.New(slog.DiscardHandler), nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		begun := time.Now()
		go func() { done <- links.Run(ctx) }()
		time.Sleep(2*time.Hour + time.Minute)
		cancel()
		if err := <-done; err != nil || len(p.until) != 3 || !p.until[0].Equal(begun.Add(-24*time.Hour)) {
			t.Errorf("%v, %v", p.until, err)
		}
	})
}
