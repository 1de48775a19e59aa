// Package conformance holds one test suite for each interface that has several
// implementations. Every implementation passes the same one.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// Registry checks that the stores which open returns keep the promises of
// registry.Store. Each call of open returns an empty store; open sees to its end.
func Registry(t *testing.T, open func(*testing.T) registry.Store) {
	check := func(name string, f func(*testing.T, registry.Store)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	check("empty", registryEmpty)
	check("model round trip", registryModel)
	check("models by code", registryModelOrder)
	check("device round trip", registryDevice)
	check("devices by key, filtered", registryDeviceList)
	check("missing rows", registryMissing)
	check("second of one name", registryExists)
	check("ids are not reused", registryIDs)
	check("model with devices stays", registryModelInUse)
	check("failed transaction leaves nothing", registryRollback)
	check("cancelled transaction leaves nothing", registryCancel)
	check("uncommitted is not seen", registryIsolation)
	check("transactions are serial", registrySerial)
	check("delete races insert", registryDeleteRace)
	check("text is kept as it is", registryText)
	check("revoked devices", registryRevoked)
	check("stale clients", registryStale)
	check("removals", registryRemovals)
}

var epoch = time.Date(2026, 2, 3, 4, 5, 6, 789012000, time.UTC)

func registryEmpty(t *testing.T, s registry.Store) {
	models, err := s.Models(t.Context())
	if err != nil || models == nil || len(models) != 0 {
		t.Errorf("models: %v, %v", models, err)
	}
	devices, err := s.Devices(t.Context(), registry.DeviceFilter{})
	if err != nil || devices == nil || len(devices) != 0 {
		t.Errorf("devices: %v, %v", devices, err)
	}
}

func registryModel(t *testing.T, s registry.Store) {
	want := fleet.Model{Code: "relay", Name: "Relay", FirmwareVersion: new("1.2"), ConfigSchema: new("{}"), CreatedAt: epoch, UpdatedAt: epoch}
	want.ID = insertModel(t, s, want)
	sameModel(t, s, want)

	want.Name, want.FirmwareVersion, want.ConfigSchema, want.UpdatedAt = "Relais", nil, nil, epoch.Add(time.Microsecond)
	tx(t, s, func(q registry.Queries) error { return q.UpdateModel(t.Context(), want) })
	sameModel(t, s, want)

	insertDevice(t, s, newDevice(want.ID, "aaaaaaaa"))
	insertDevice(t, s, newDevice(want.ID, "bbbbbbbb"))
	want.DeviceCount = 2
	sameModel(t, s, want)
}

func registryModelOrder(t *testing.T, s registry.Store) {
	for _, code := range []string{"b", "a_2", "a2", "a", "_", "1"} {
		insertModel(t, s, newModel(code))
	}
	models, err := s.Models(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, m := range models {
		codes = append(codes, m.Code)
	}
	if diff := cmp.Diff([]string{"1", "_", "a", "a2", "a_2", "b"}, codes); diff != "" {
		t.Error(diff)
	}
}

func registryDevice(t *testing.T, s registry.Store) {
	model := newModel("relay")
	model.FirmwareVersion = new("1.2")
	model.ID = insertModel(t, s, model)
	ofDevice := fleet.Model{ID: model.ID, Code: model.Code, Name: model.Name, FirmwareVersion: model.FirmwareVersion}

	// Everything set, then everything that can be is not.
	want := fleet.Device{
		Key: "abcdefg2", Model: ofDevice, Active: true, Config: `{"deviceName": "x"}`,
		Name: new("x"), EntityID: new("e"), EnableOTA: new(false), Rotation: fleet.RotationPending,
		SecretCreatedAt: new(epoch), LastRotationAttemptAt: new(epoch.Add(time.Hour)), LastRotationCompletedAt: new(epoch.Add(-time.Hour)),
		CreatedAt: epoch, UpdatedAt: epoch,
	}
	want.ID = insertDevice(t, s, want)
	sameDevice(t, s, want)

	want.Active, want.Config, want.Rotation, want.UpdatedAt = false, "null", fleet.RotationOK, epoch.Add(time.Second)
	want.Name, want.EntityID, want.EnableOTA = nil, nil, nil
	want.SecretCreatedAt, want.LastRotationAttemptAt, want.LastRotationCompletedAt = nil, nil, nil
	tx(t, s, func(q registry.Queries) error { return q.UpdateDevice(t.Context(), want) })
	sameDevice(t, s, want)

	tx(t, s, func(q registry.Queries) error { return q.DeleteDevice(t.Context(), want.ID) })
	_, err := s.Device(t.Context(), want.ID)
	wantKind(t, err, fleet.NotFound)
}

func registryDeviceList(t *testing.T, s registry.Store) {
	a, b := insertModel(t, s, newModel("a")), insertModel(t, s, newModel("b"))
	for i, key := range []string{"zzzzzzz2", "aaaaaaa2", "mmmmmmm2"} {
		d := newDevice(a, key)
		if i == 0 {
			d.Rotation = fleet.RotationTimeout
		}
		insertDevice(t, s, d)
	}
	insertDevice(t, s, newDevice(b, "bbbbbbb2"))

	f := func(filter registry.DeviceFilter, want ...string) {
		t.Helper()
		devices, err := s.Devices(t.Context(), filter)
		if err != nil {
			t.Error(err)
		}
		var keys []string
		for _, d := range devices {
			keys = append(keys, d.Key)
			if d.Config != "" || d.Model.Code == "" || d.Model.Name == "" {
				t.Errorf("listed as %+v", d)
			}
		}
		if !slices.Equal(keys, want) {
			t.Errorf("%+v: got %v, want %v", filter, keys, want)
		}
	}
	f(registry.DeviceFilter{}, "aaaaaaa2", "bbbbbbb2", "mmmmmmm2", "zzzzzzz2")
	f(registry.DeviceFilter{ModelID: &a}, "aaaaaaa2", "mmmmmmm2", "zzzzzzz2")
	f(registry.DeviceFilter{Rotation: new(fleet.RotationTimeout)}, "zzzzzzz2")
	f(registry.DeviceFilter{ModelID: &b, Rotation: new(fleet.RotationOK)}, "bbbbbbb2")
	f(registry.DeviceFilter{ModelID: &b, Rotation: new(fleet.RotationTimeout)})
	f(registry.DeviceFilter{ModelID: new(int64(999))})
	f(registry.DeviceFilter{Rotation: new(fleet.RotationState("x' OR 1=1 --"))})
}

func registryMissing(t *testing.T, s registry.Store) {
	ctx := t.Context()
	_, err := s.Model(ctx, 7)
	wantMessage(t, err, fleet.NotFound, "DeviceModel 7 was not found")
	_, err = s.BareModel(ctx, 7)
	wantMessage(t, err, fleet.NotFound, "DeviceModel 7 was not found")
	_, err = s.Device(ctx, 7)
	wantMessage(t, err, fleet.NotFound, "Device 7 was not found")
	f := func(want string, call func(registry.Queries) error) {
		t.Helper()
		wantMessage(t, s.Tx(ctx, call), fleet.NotFound, want)
	}
	f("DeviceModel 7 was not found", func(q registry.Queries) error { return q.UpdateModel(ctx, fleet.Model{ID: 7, Name: "x"}) })
	f("DeviceModel 7 was not found", func(q registry.Queries) error { return q.DeleteModel(ctx, 7) })
	f("DeviceModel 7 was not found", func(q registry.Queries) error {
		_, err := q.InsertDevice(ctx, newDevice(7, "aaaaaaaa"))
		return err
	})
	f("Device 7 was not found", func(q registry.Queries) error {
		d := newDevice(1, "aaaaaaaa")
		d.ID = 7
		return q.UpdateDevice(ctx, d)
	})
	f("Device 7 was not found", func(q registry.Queries) error { return q.DeleteDevice(ctx, 7) })
}

func registryExists(t *testing.T, s registry.Store) {
	ctx := t.Context()
	id := insertModel(t, s, newModel("relay"))
	insertDevice(t, s, newDevice(id, "aaaaaaaa"))
	err := s.Tx(ctx, func(q registry.Queries) error {
		_, err := q.InsertModel(ctx, newModel("relay"))
		return err
	})
	wantMessage(t, err, fleet.Exists, "DeviceModel for relay already exists")
	err = s.Tx(ctx, func(q registry.Queries) error {
		_, err := q.InsertDevice(ctx, newDevice(id, "aaaaaaaa"))
		return err
	})
	wantMessage(t, err, fleet.Exists, "Device for aaaaaaaa already exists")

	// The entity id of another device is allowed.
	for _, key := range []string{"bbbbbbbb", "cccccccc"} {
		d := newDevice(id, key)
		d.EntityID = new("same")
		insertDevice(t, s, d)
	}
}

func registryIDs(t *testing.T, s registry.Store) {
	model := insertModel(t, s, newModel("relay"))
	first := insertDevice(t, s, newDevice(model, "aaaaaaaa"))
	tx(t, s, func(q registry.Queries) error { return q.DeleteDevice(t.Context(), first) })
	if second := insertDevice(t, s, newDevice(model, "aaaaaaaa")); second <= first {
		t.Errorf("id %d after %d was deleted", second, first)
	}
}

func registryModelInUse(t *testing.T, s registry.Store) {
	ctx := t.Context()
	model := insertModel(t, s, newModel("relay"))
	id := insertDevice(t, s, newDevice(model, "aaaaaaaa"))
	remove := func(q registry.Queries) error { return q.DeleteModel(ctx, model) }
	wantKind(t, s.Tx(ctx, remove), fleet.InvalidOperation)
	tx(t, s, func(q registry.Queries) error { return q.DeleteDevice(ctx, id) })
	tx(t, s, remove)
}

func registryRollback(t *testing.T, s registry.Store) {
	ctx := t.Context()
	before := insertModel(t, s, newModel("before"))
	change := func(q registry.Queries) {
		model, err := q.InsertModel(ctx, newModel("within"))
		if err != nil {
			t.Error(err)
		}
		if _, err := q.InsertDevice(ctx, newDevice(model, "aaaaaaaa")); err != nil {
			t.Error(err)
		}
		if err := q.UpdateModel(ctx, fleet.Model{ID: before, Name: "changed"}); err != nil {
			t.Error(err)
		}
		if m, err := q.Model(ctx, before); err != nil || m.Name != "changed" {
			t.Errorf("a transaction does not see its own change: %+v, %v", m, err)
		}
	}
	nothing := func() {
		t.Helper()
		models, err := s.Models(ctx)
		if err != nil || len(models) != 1 || models[0].Name != "Model before" {
			t.Errorf("models: %+v, %v", models, err)
		}
		devices, err := s.Devices(ctx, registry.DeviceFilter{})
		if err != nil || len(devices) != 0 {
			t.Errorf("devices: %+v, %v", devices, err)
		}
	}

	mine := errors.New("mine")
	if err := s.Tx(ctx, func(q registry.Queries) error { change(q); return mine }); !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
	nothing()

	// A statement that fails spoils what was before it as well.
	err := s.Tx(ctx, func(q registry.Queries) error {
		change(q)
		_, err := q.InsertModel(ctx, newModel("before"))
		return err
	})
	wantKind(t, err, fleet.Exists)
	nothing()

	func() {
		defer func() {
			if r := recover(); r != "ouch" {
				t.Errorf("recovered %v", r)
			}
		}()
		_ = s.Tx(ctx, func(q registry.Queries) error { change(q); panic("ouch") })
	}()
	nothing()
	insertModel(t, s, newModel("after")) // nothing is left locked either
}

func registryCancel(t *testing.T, s registry.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Tx(ctx, func(q registry.Queries) error {
		_, err := q.InsertModel(ctx, newModel("relay"))
		cancel()
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if models, err := s.Models(t.Context()); err != nil || len(models) != 0 {
		t.Errorf("models: %+v, %v", models, err)
	}
	if err := s.Tx(ctx, func(registry.Queries) error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Models(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	insertModel(t, s, newModel("after"))
}

func registryIsolation(t *testing.T, s registry.Store) {
	ctx := t.Context()
	tx(t, s, func(q registry.Queries) error {
		if _, err := q.InsertModel(ctx, newModel("relay")); err != nil {
			return err
		}
		models, err := s.Models(ctx) // a reader beside the transaction, which does not wait for it
		if err != nil || len(models) != 0 {
			t.Errorf("models: %+v, %v", models, err)
		}
		return nil
	})
	if models, err := s.Models(ctx); err != nil || len(models) != 1 {
		t.Errorf("models: %+v, %v", models, err)
	}
}

func registrySerial(t *testing.T, s registry.Store) {
	const workers, rounds = 8, 10
	ctx := t.Context()
	id := insertModel(t, s, newModel("relay"))
	tx(t, s, func(q registry.Queries) error { return q.UpdateModel(ctx, fleet.Model{ID: id, Name: "-"}) })
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				err := s.Tx(ctx, func(q registry.Queries) error {
					m, err := q.Model(ctx, id)
					if err != nil {
						return err
					}
					m.Name += "-"
					return q.UpdateModel(ctx, m)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	m, err := s.Model(ctx, id)
	if want := 1 + workers*rounds; err != nil || len(m.Name) != want {
		t.Errorf("%d of %d changes are left, %v", len(m.Name), want, err)
	}
}

func registryDeleteRace(t *testing.T, s registry.Store) {
	ctx := t.Context()
	for round := range 20 {
		model := insertModel(t, s, newModel(fmt.Sprintf("m%d", round)))
		var inserted, deleted error
		var wg sync.WaitGroup
		wg.Go(func() {
			inserted = s.Tx(ctx, func(q registry.Queries) error {
				_, err := q.InsertDevice(ctx, newDevice(model, fmt.Sprintf("a%07d", round)))
				return err
			})
		})
		wg.Go(func() {
			deleted = s.Tx(ctx, func(q registry.Queries) error { return q.DeleteModel(ctx, model) })
		})
		wg.Wait()
		devices, err := s.Devices(ctx, registry.DeviceFilter{ModelID: &model})
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case inserted == nil && fleet.KindOf(deleted) == fleet.InvalidOperation && len(devices) == 1:
		case deleted == nil && fleet.KindOf(inserted) == fleet.NotFound && len(devices) == 0:
		default:
			t.Fatalf("insert: %v; delete: %v; %d devices", inserted, deleted, len(devices))
		}
	}
}

func registryText(t *testing.T, s registry.Store) {
	model := insertModel(t, s, newModel("relay"))
	for i, text := range []string{"  {\r\n\t\"a\" : 1e0 }  ", `"\u0000 \ud83d\ude00 😀 é"`, "'; DROP TABLE devices; --", strings.Repeat("x", registry.MaxJSON)} {
		d := newDevice(model, fmt.Sprintf("a%07d", i))
		d.Config, d.Name, d.EntityID = text, new("Küche 😀 '"), new(`%_\`)
		id := insertDevice(t, s, d)
		got, err := s.Device(t.Context(), id)
		if err != nil || got.Config != text || *got.Name != *d.Name || *got.EntityID != *d.EntityID {
			t.Errorf("%.30q came back as %.30q, %v", text, got.Config, err)
		}
	}
}

func registryRevoked(t *testing.T, s registry.Store) {
	ctx := t.Context()
	want := newDevice(insertModel(t, s, newModel("relay")), "aaaaaaaa")
	want.ID = insertDevice(t, s, want)
	want.Model.Code, want.Model.Name = "relay", "Model relay"
	sameDevice(t, s, want)
	tx(t, s, func(q registry.Queries) error { return q.SetRevoked(ctx, want.ID, &epoch) })
	want.RevokedAt = &epoch
	sameDevice(t, s, want)
	want.Config, want.RevokedAt = `{"a":1}`, nil // an update leaves it alone
	tx(t, s, func(q registry.Queries) error { return q.UpdateDevice(ctx, want) })
	want.RevokedAt = &epoch
	sameDevice(t, s, want)
	tx(t, s, func(q registry.Queries) error { return q.SetRevoked(ctx, want.ID, nil) })
	want.RevokedAt = nil
	sameDevice(t, s, want)
	wantMessage(t, s.Tx(ctx, func(q registry.Queries) error { return q.SetRevoked(ctx, 7, nil) }), fleet.NotFound, "Device 7 was not found")
}

func registryStale(t *testing.T, s registry.Store) {
	ctx := t.Context()
	model := insertModel(t, s, newModel("relay"))
	a, b := insertDevice(t, s, newDevice(model, "aaaaaaaa")), insertDevice(t, s, newDevice(model, "bbbbbbbb"))
	f := func(want ...int64) {
		t.Helper()
		if got, err := s.StaleDevices(ctx); err != nil || !slices.Equal(got, want) {
			t.Errorf("stale are %v, want %v, %v", got, want, err)
		}
	}
	f(a, b)
	tx(t, s, func(q registry.Queries) error { return q.SetClientStale(ctx, a, false) })
	f(b)
	tx(t, s, func(q registry.Queries) error { return q.SetClientStale(ctx, a, true) })
	tx(t, s, func(q registry.Queries) error { return q.DeleteDevice(ctx, b) })
	f(a)
	wantMessage(t, s.Tx(ctx, func(q registry.Queries) error { return q.SetClientStale(ctx, b, true) }), fleet.NotFound,
		fmt.Sprintf("Device %d was not found", b))
}

func registryRemovals(t *testing.T, s registry.Store) {
	ctx := t.Context()
	f := func(want ...registry.Removal) {
		t.Helper()
		if got, err := s.Removals(ctx); err != nil || !slices.Equal(got, want) {
			t.Errorf("removals are %v, want %v, %v", got, want, err)
		}
	}
	f()
	a, b := registry.Removal{ClientID: "a", Due: epoch}, registry.Removal{ClientID: "b", Due: epoch.Add(time.Minute)}
	for _, r := range []registry.Removal{b, a} {
		tx(t, s, func(q registry.Queries) error { return q.PutRemoval(ctx, r.ClientID, r.Due) })
	}
	f(a, b)
	a.Due = epoch.Add(-time.Hour)
	tx(t, s, func(q registry.Queries) error { return q.PutRemoval(ctx, a.ClientID, a.Due) })
	f(a, b)
	for _, want := range []bool{true, false} {
		tx(t, s, func(q registry.Queries) error {
			if was, err := q.DeleteRemoval(ctx, "a"); err != nil || was != want {
				t.Errorf("it was there: %v, %v", was, err)
			}
			return nil
		})
	}
	f(b)
}

func newModel(code string) fleet.Model {
	return fleet.Model{Code: code, Name: "Model " + code, CreatedAt: epoch, UpdatedAt: epoch}
}

func newDevice(model int64, key string) fleet.Device {
	return fleet.Device{Key: key, Model: fleet.Model{ID: model}, Active: true, Config: "{}", Rotation: fleet.RotationOK, CreatedAt: epoch, UpdatedAt: epoch}
}

func tx(t *testing.T, s registry.Store, f func(registry.Queries) error) {
	t.Helper()
	if err := s.Tx(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func insertModel(t *testing.T, s registry.Store, m fleet.Model) (id int64) {
	t.Helper()
	tx(t, s, func(q registry.Queries) (err error) {
		id, err = q.InsertModel(t.Context(), m)
		return err
	})
	return id
}

func insertDevice(t *testing.T, s registry.Store, d fleet.Device) (id int64) {
	t.Helper()
	tx(t, s, func(q registry.Queries) (err error) {
		id, err = q.InsertDevice(t.Context(), d)
		return err
	})
	return id
}

func sameModel(t *testing.T, s registry.Store, want fleet.Model) {
	t.Helper()
	got, err := s.Model(t.Context(), want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("model:", diff)
	}
	bare, err := s.BareModel(t.Context(), want.ID)
	if err != nil {
		t.Fatal(err)
	}
	bare.DeviceCount = want.DeviceCount
	if diff := cmp.Diff(want, bare); diff != "" {
		t.Error("bare model:", diff)
	}
	all, err := s.Models(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]fleet.Model{want}, all); diff != "" {
		t.Error("models:", diff)
	}
}

func sameDevice(t *testing.T, s registry.Store, want fleet.Device) {
	t.Helper()
	got, err := s.Device(t.Context(), want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("device:", diff)
	}
	all, err := s.Devices(t.Context(), registry.DeviceFilter{})
	if err != nil {
		t.Fatal(err)
	}
	want.Config = ""
	if diff := cmp.Diff([]fleet.Device{want}, all); diff != "" {
		t.Error("devices:", diff)
	}
}

func wantKind(t *testing.T, err error, kind fleet.Kind) {
	t.Helper()
	if err == nil || fleet.KindOf(err) != kind {
		t.Errorf("got %v of kind %v, want %v", err, fleet.KindOf(err), kind)
	}
}

func wantMessage(t *testing.T, err error, kind fleet.Kind, message string) {
	t.Helper()
	wantKind(t, err, kind)
	if _, got := fleet.Public(err); got != message {
		t.Errorf("got %q, want %q", got, message)
	}
}
