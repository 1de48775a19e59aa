package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/presence"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

// presenceAnswer is that of both routes.
type presenceAnswer struct {
	Now     string
	Devices []devicePresence
	devicePresence
	ClockOff *int64 `json:"clock_off_ms"`
	History  []struct {
		At     time.Time
		Online bool
		Reason *string
	}
}

type devicePresence struct {
	ID         int64      `json:"device_id"`
	Online     bool       `json:"online"`
	Sessions   int        `json:"sessions"`
	LastSeenAt *time.Time `json:"last_seen_at"`
	LastSource *string    `json:"last_source"`
	Since      *time.Time `json:"since"`
	Drops      int        `json:"drops_24h"`
}

// tracked gives a server a tracker, that of a process which runs until the test ends.
func tracked(t *testing.T, o *web.Options) *presence.Tracker {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "presence.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	// The store of a site is its own, so that the devices are made here as well.
	_, err = registry.New(t.Context(), db, o.Log)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Tx(t.Context(), func(q registry.Queries) error {
		model, err := q.InsertModel(t.Context(), fleet.Model{Code: "relay", Name: "Relay", CreatedAt: epoch, UpdatedAt: epoch})
		for n := 1; n <= 3 && err == nil; n++ {
			_, err = q.InsertDevice(t.Context(), fleet.Device{
				Key: fmt.Sprintf("key%05d", n), Model: fleet.Model{ID: model}, Config: "{}", Rotation: fleet.RotationOK, CreatedAt: epoch, UpdatedAt: epoch,
			})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := presence.New(t.Context(), presence.Options{Store: db, Directory: o.Registry.Directory(), Log: o.Log, Sole: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = tracker.Run(ctx) // it has no errors
	}()
	t.Cleanup(func() { stop(); <-ended })
	o.Presence = tracker
	return tracker
}

func TestPresence(t *testing.T) {
	var tracker *presence.Tracker
	s := newSite(t, func(o *web.Options) { tracker = tracked(t, o) })
	if _, err := s.registry.CreateModel(t.Context(), registry.NewModel{Code: "relay", Name: "Relay"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.registry.CreateDevice(t.Context(), 1, "{}"); err != nil {
			t.Fatal(err)
		}
	}
	get := func(path string) (a presenceAnswer) {
		t.Helper()
		res := s.do("GET", path, "")
		if res.Code != 200 {
			t.Fatalf("%s: %d %s", path, res.Code, res.Body)
		}
		if err := json.Unmarshal(res.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	tracker.Connected(1, "iotdevice-relay-key00001")
	tracker.Connected(2, "iotdevice-relay-key00002")
	tracker.Disconnected(2, presence.End{Reason: "session closed"})
	tracker.Minted("iotdevice-relay-key00002", time.Now().Add(-1500*time.Millisecond))

	a := get("/api/presence")
	if len(a.Devices) != 3 {
		t.Fatalf("%+v", a)
	}
	one, two, three := a.Devices[0], a.Devices[1], a.Devices[2]
	if !one.Online || one.Sessions != 1 || one.LastSeenAt == nil || *one.LastSource != "session" || one.Since == nil || one.Drops != 0 {
		t.Errorf("%+v", one)
	}
	if two.Online || two.Sessions != 0 || two.LastSeenAt == nil || *two.LastSource != "token" || two.Since == nil || two.Drops != 1 {
		t.Errorf("%+v", two)
	}
	if three != (devicePresence{ID: 3}) {
		t.Errorf("%+v", three)
	}
	never, ok := decode(t, s.do("GET", "/api/devices/3/presence", "").Body.String()).(map[string]any)
	if !ok {
		t.Fatal("no object")
	}
	delete(never, "now")
	want := decode(t, `{"device_id": 3, "online": false, "sessions": 0, "last_seen_at": null, "last_source": null, "since": null, "drops_24h": 0, "clock_off_ms": null, "history": []}`)
	if diff := cmp.Diff(want, any(never)); diff != "" {
		t.Error(diff)
	}

	// The history is stored a moment later.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		a = get("/api/devices/2/presence?hours=720")
		if len(a.History) == 2 || time.Now().After(deadline) {
			break
		}
	}
	if len(a.History) != 2 || a.History[0].Online || *a.History[0].Reason != "session closed" || !a.History[1].Online || a.History[0].At.Before(a.History[1].At) {
		t.Errorf("%+v", a.History)
	}
	if a.ID != 2 || a.ClockOff == nil || *a.ClockOff > -1400 || *a.ClockOff < -20_000 {
		t.Errorf("%+v", a)
	}
	for _, hours := range []string{"0", "721", "-1", "x", "1.5"} {
		if res := s.do("GET", "/api/devices/2/presence?hours="+hours, ""); res.Code != 400 {
			t.Errorf("hours=%s: %d %s", hours, res.Code, res.Body)
		}
	}
	if res := s.do("GET", "/api/devices/9/presence", ""); res.Code != 404 {
		t.Errorf("%d %s", res.Code, res.Body)
	}
}

// A device that shows a good token was heard of. One that only says which it is
// may be anybody.
func TestPresenceOfToken(t *testing.T) {
	var tracker *presence.Tracker
	open := true
	s := newSite(t, func(o *web.Options) {
		tracker = tracked(t, o)
		o.Devices.Open = func() bool { return open }
		o.Devices.Verify = func(_ context.Context, token string) (fleet.DeviceClaims, error) {
			if token != "good" {
				return fleet.DeviceClaims{}, access.Deny(access.Signature, nil)
			}
			return fleet.DeviceClaims{ClientID: "iotdevice-relay-key00001", Expires: time.Now().Add(time.Hour)}, nil
		}
	})
	if _, err := s.registry.CreateModel(t.Context(), registry.NewModel{Code: "relay", Name: "Relay"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.registry.CreateDevice(t.Context(), 1, "{}"); err != nil {
		t.Fatal(err)
	}
	f := func(query, token string, status int, source presence.Source) {
		t.Helper()
		headers := []string{}
		if token != "" {
			headers = append(headers, "Authorization", "Bearer "+token)
		}
		res := s.do("GET", "/api/iot/config"+query, "", headers...)
		if got := tracker.Of(1)[0]; res.Code != status || got.Source != source {
			t.Errorf("%s %s: %d, %+v", query, token, res.Code, got)
		}
	}
	f("?device_key=key00001", "", 200, "")
	f("", "bad", 401, "")
	f("", "good", 200, presence.FromToken)
}
