package conformance

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// LinkStore is a store of links with the devices that they are of.
type LinkStore interface {
	registry.Store
	registry.LinkStore
}

// Links checks that the stores which open returns keep the promises of
// registry.LinkStore. Each call of open returns an empty store; open sees to its end.
func Links(t *testing.T, open func(*testing.T) LinkStore) {
	check := func(name string, f func(*testing.T, LinkStore)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	check("round trip", linksRoundTrip)
	check("bounds", linksBounds)
	check("one of many", linksUsedOnce)
	check("ends", linksEnd)
	check("a deleted device", linksOfDeleted)
}

var linkTime = time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)

func insertLink(t *testing.T, s LinkStore, device int64, hash string) registry.Link {
	t.Helper()
	l := registry.Link{
		Device: device, Hash: hash, Format: registry.FormatNVS, PartitionSize: 0x4000, CreatedBy: "Änn", Maker: `{"a":"b"}`,
		CreatedAt: linkTime, ExpiresAt: linkTime.Add(time.Hour),
	}
	var err error
	if l.ID, err = s.InsertLink(t.Context(), l, 10); err != nil {
		t.Fatal(err)
	}
	return l
}

func linksRoundTrip(t *testing.T, s LinkStore) {
	model := insertModel(t, s, newModel("relay"))
	one, two := insertDevice(t, s, newDevice(model, "aaaaaaaa")), insertDevice(t, s, newDevice(model, "bbbbbbbb"))
	a, b, c := insertLink(t, s, one, "h1"), insertLink(t, s, one, "h2"), insertLink(t, s, two, "h3")
	if a.ID == b.ID || b.ID == c.ID {
		t.Errorf("ids %d %d %d", a.ID, b.ID, c.ID)
	}
	links, err := s.Links(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	same(t, links, []registry.Link{c})
	got, err := s.LinkByHash(t.Context(), "h2")
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, b)
	if err := s.UseLink(t.Context(), b.ID, linkTime.Add(time.Minute), "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	b.UsedAt, b.UsedFrom = linkTime.Add(time.Minute), "192.0.2.1"
	if got, err = s.LinkByHash(t.Context(), "h2"); err != nil {
		t.Fatal(err)
	}
	same(t, got, b)

	wantKind(t, s.DeleteLink(t.Context(), two, a.ID), fleet.NotFound) // it is the other's
	if err := s.DeleteLink(t.Context(), one, a.ID); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.DeleteLink(t.Context(), one, a.ID), fleet.NotFound)
	_, err = s.LinkByHash(t.Context(), "h1")
	wantKind(t, err, fleet.NotFound)
	if again := insertLink(t, s, one, "h1"); again.ID <= c.ID {
		t.Errorf("the id %d was used before", again.ID)
	}
}

func linksBounds(t *testing.T, s LinkStore) {
	_, err := s.InsertLink(t.Context(), registry.Link{Device: 7, Hash: "h", CreatedAt: linkTime, ExpiresAt: linkTime.Add(time.Hour)}, 10)
	wantMessage(t, err, fleet.NotFound, "Device 7 was not found")
	model := insertModel(t, s, newModel("relay"))
	device := insertDevice(t, s, newDevice(model, "aaaaaaaa"))
	used := insertLink(t, s, device, "h0")
	insertLink(t, s, device, "h1")
	n := 2
	add := func(at time.Time) error {
		n++
		_, err := s.InsertLink(t.Context(), registry.Link{Device: device, Hash: fmt.Sprint("h", n), CreatedAt: at, ExpiresAt: at.Add(time.Hour)}, 2)
		return err
	}
	wantKind(t, add(linkTime), fleet.TooMany)
	if err := s.UseLink(t.Context(), used.ID, linkTime, ""); err != nil {
		t.Fatal(err)
	}
	if err := add(linkTime); err != nil {
		t.Error(err)
	}
	wantKind(t, add(linkTime), fleet.TooMany)
	if err := add(linkTime.Add(time.Hour)); err != nil { // when those are over
		t.Error(err)
	}
}

func linksUsedOnce(t *testing.T, s LinkStore) {
	model := insertModel(t, s, newModel("relay"))
	link := insertLink(t, s, insertDevice(t, s, newDevice(model, "aaaaaaaa")), "h")
	var won, lost atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			switch err := s.UseLink(t.Context(), link.ID, linkTime, "192.0.2.1"); {
			case err == nil:
				won.Add(1)
			case fleet.KindOf(err) == fleet.NotFound:
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 || lost.Load() != 7 {
		t.Errorf("%d used it, %d did not", won.Load(), lost.Load())
	}
}

func linksEnd(t *testing.T, s LinkStore) {
	model := insertModel(t, s, newModel("relay"))
	device := insertDevice(t, s, newDevice(model, "aaaaaaaa"))
	link := insertLink(t, s, device, "h")
	wantKind(t, s.UseLink(t.Context(), link.ID, link.ExpiresAt, ""), fleet.NotFound)
	wantKind(t, s.UseLink(t.Context(), 99, linkTime, ""), fleet.NotFound)
	for _, step := range []struct {
		until time.Time
		left  int
	}{{link.ExpiresAt.Add(-time.Microsecond), 1}, {link.ExpiresAt, 0}} {
		if err := s.DeleteOldLinks(t.Context(), step.until); err != nil {
			t.Fatal(err)
		}
		if links, err := s.Links(t.Context(), device); err != nil || len(links) != step.left {
			t.Errorf("%v: %v, %v", step.until, links, err)
		}
	}
}

func linksOfDeleted(t *testing.T, s LinkStore) {
	model := insertModel(t, s, newModel("relay"))
	device := insertDevice(t, s, newDevice(model, "aaaaaaaa"))
	link := insertLink(t, s, device, "h")
	if err := s.Tx(t.Context(), func(q registry.Queries) error { return q.DeleteDevice(t.Context(), device) }); err != nil {
		t.Fatal(err)
	}
	_, err := s.LinkByHash(t.Context(), "h")
	wantKind(t, err, fleet.NotFound)
	wantKind(t, s.UseLink(t.Context(), link.ID, linkTime, ""), fleet.NotFound)
}
