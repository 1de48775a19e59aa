package app

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/config"
	"signalbox/internal/nats"
	"signalbox/internal/presence"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
)

// What the rotation of credentials is told of a device is what was seen of it.
func TestContacts(t *testing.T) {
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log := slog.New(slog.DiscardHandler)
	devices, err := registry.New(t.Context(), db, log)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{cfg: config.Config{PresenceWindow: config.Duration(time.Minute), PresenceHistory: config.Duration(time.Hour)}, log: log, metrics: prometheus.NewRegistry(), reminders: newReminders(log)}
	tracker, err := a.openPresence(t.Context(), db, devices)
	if err != nil {
		t.Fatal(err)
	}
	a.presence = tracker
	hear := a.session
	hear(nats.Session{Number: 1, ClientID: "somebody", Open: true})
	model, err := devices.CreateModel(t.Context(), registry.NewModel{Code: "relay", Name: "Relay"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := devices.CreateDevice(t.Context(), model.ID, "{}")
	if err != nil {
		t.Fatal(err)
	}
	of := contacts(tracker)
	if c := of(d.ID); c.Online || !c.LastSeen.IsZero() {
		t.Errorf("at first: %+v", c)
	}
	for end := range ends {
		hear(nats.Session{Number: 10 + uint64(end), ClientID: d.ClientID(), Open: true})
		if c := of(d.ID); !c.Online || c.LastSeen.IsZero() {
			t.Errorf("connected: %+v", c)
		}
		hear(nats.Session{Number: 10 + uint64(end), ClientID: d.ClientID(), End: end})
		if c := of(d.ID); c.Online != (end == nats.Expired) {
			t.Errorf("after end %d: %+v", end, c)
		}
		hear(nats.Session{Number: 100 + uint64(end), ClientID: d.ClientID(), Open: true})
		hear(nats.Session{Number: 100 + uint64(end), ClientID: d.ClientID(), End: nats.Closed})
	}
	for end := nats.Closed; end <= nats.Unseen; end++ {
		if ends[end].Reason == "" {
			t.Errorf("end %d has no words", end)
		}
	}
	tracker.Minted(d.ClientID(), time.Now().Add(time.Minute))
	if c := of(d.ID); c.Drops == 0 || !c.ClockSaid || c.ClockOff < 50*time.Second {
		t.Errorf("%+v", c)
	}
	if err := devices.DeleteDevice(context.WithoutCancel(t.Context()), d.ID); err != nil {
		t.Fatal(err)
	}
	if s := tracker.Of(d.ID)[0]; s != (presence.Status{Device: d.ID}) {
		t.Errorf("deleted: %+v", s)
	}
}
