package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
)

// The service is tested over SQLite: it is fast, and a second store would only
// be a worse one.

var epoch = time.Date(2026, 2, 3, 4, 5, 6, 789012000, time.UTC)

func openStore(t testing.TB) *sqlstore.DB {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func newService(t testing.TB, store registry.Store, options ...registry.Option) *registry.Service {
	t.Helper()
	s, err := registry.New(t.Context(), store, slog.New(slog.DiscardHandler), options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func createModel(t testing.TB, s *registry.Service, code string, schema *string) fleet.Model {
	t.Helper()
	m, err := s.CreateModel(t.Context(), registry.NewModel{Code: code, Name: "Model " + code, ConfigSchema: schema})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func createDevice(t testing.TB, s *registry.Service, model int64, config string) fleet.Device {
	t.Helper()
	d, err := s.CreateDevice(t.Context(), model, config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantError(t *testing.T, err error, kind fleet.Kind, message string) {
	t.Helper()
	if gotKind, got := fleet.Public(err); err == nil || gotKind != kind || got != message {
		t.Errorf("got %v %q, want %v %q", gotKind, got, kind, message)
	}
}

func TestCreateModel(t *testing.T) {
	s := newService(t, openStore(t), registry.WithClock(func() time.Time { return epoch.Add(999).Local() }))
	got, err := s.CreateModel(t.Context(), registry.NewModel{Code: "relay_1", Name: "Relay", ConfigSchema: new(" ")})
	if err != nil {
		t.Fatal(err)
	}
	want := fleet.Model{ID: got.ID, Code: "relay_1", Name: "Relay", CreatedAt: epoch, UpdatedAt: epoch}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	stored, err := s.Model(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, stored); diff != "" {
		t.Error("stored:", diff)
	}

	f := func(code, name string, kind fleet.Kind, message string) {
		t.Helper()
		_, err := s.CreateModel(t.Context(), registry.NewModel{Code: code, Name: name})
		if message == "" {
			if err != nil {
				t.Error(err)
			}
			return
		}
		wantError(t, err, kind, message)
	}
	const badCode = "code must be 1 to 50 characters of a-z, 0-9 and _"
	f("relay_1", "Again", fleet.Exists, "DeviceModel for relay_1 already exists")
	f("", "x", fleet.Invalid, badCode)
	f("Relay", "x", fleet.Invalid, badCode)
	f("relay\n", "x", fleet.Invalid, badCode)
	f(strings.Repeat("x", 51), "x", fleet.Invalid, badCode)
	f(strings.Repeat("x", 50), "x", 0, "")
	f("a", " \t\u00a0", fleet.Invalid, "name must not be blank")
	f("a", strings.Repeat("é", 256), fleet.Invalid, "name must have at most 255 characters")
	f("a", strings.Repeat("é", 255), 0, "")
	f("b", "x\x00", fleet.Invalid, "name must be UTF-8 without NUL characters")
}

func TestUpdateModel(t *testing.T) {
	now := epoch
	s := newService(t, openStore(t), registry.WithClock(func() time.Time { return now }))
	m := createModel(t, s, "relay", new(`{"type": "object"}`))
	now = now.Add(time.Second)

	f := func(change registry.ModelChange, wantName string, wantSchema *string) {
		t.Helper()
		got, err := s.UpdateModel(t.Context(), m.ID, change)
		if err != nil {
			t.Fatal(err)
		}
		m.Name, m.ConfigSchema, m.UpdatedAt = wantName, wantSchema, now
		if diff := cmp.Diff(m, got); diff != "" {
			t.Error(diff)
		}
	}
	f(registry.ModelChange{}, "Model relay", new(`{"type": "object"}`))
	f(registry.ModelChange{Name: new("A")}, "A", new(`{"type": "object"}`))
	f(registry.ModelChange{ConfigSchema: new("true")}, "A", new("true"))
	f(registry.ModelChange{ConfigSchema: new("")}, "A", nil)

	_, err := s.UpdateModel(t.Context(), m.ID, registry.ModelChange{Name: new("  ")})
	wantError(t, err, fleet.Invalid, "name must not be blank")
	_, err = s.UpdateModel(t.Context(), 99, registry.ModelChange{})
	wantError(t, err, fleet.NotFound, "DeviceModel 99 was not found")
}

func TestDeleteModel(t *testing.T) {
	s := newService(t, openStore(t))
	m := createModel(t, s, "relay", nil)
	a, b := createDevice(t, s, m.ID, "{}"), createDevice(t, s, m.ID, "{}")
	wantError(t, s.DeleteModel(t.Context(), m.ID), fleet.InvalidOperation,
		"Cannot delete device model because model has 2 associated device(s)")
	for _, d := range []fleet.Device{a, b} {
		if err := s.DeleteDevice(t.Context(), d.ID); err != nil {
			t.Error(err)
		}
	}
	if err := s.DeleteModel(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
	wantError(t, s.DeleteModel(t.Context(), m.ID), fleet.NotFound, fmt.Sprintf("DeviceModel %d was not found", m.ID))
}

// A model and its first device: whoever is first, neither is left without the other.
func TestDeleteModelRace(t *testing.T) {
	s := newService(t, openStore(t))
	for round := range 50 {
		m := createModel(t, s, fmt.Sprintf("m%d", round), nil)
		var created, deleted error
		var wg sync.WaitGroup
		wg.Go(func() { _, created = s.CreateDevice(t.Context(), m.ID, "{}") })
		wg.Go(func() { deleted = s.DeleteModel(t.Context(), m.ID) })
		wg.Wait()
		switch {
		case created == nil && fleet.KindOf(deleted) == fleet.InvalidOperation:
		case deleted == nil && fleet.KindOf(created) == fleet.NotFound:
		default:
			t.Fatalf("create: %v; delete: %v", created, deleted)
		}
	}
}

func TestCreateDevice(t *testing.T) {
	s := newService(t, openStore(t), registry.WithClock(func() time.Time { return epoch }))
	m := createModel(t, s, "relay", nil)
	const config = " {\"deviceName\": \"Küche\", \"deviceEntityId\": \"kitchen\", \"enableOTA\": true, \"x\": 1.0}\n"
	got := createDevice(t, s, m.ID, config)
	want := fleet.Device{
		ID: got.ID, Key: got.Key, Model: fleet.Model{ID: m.ID, Code: "relay", Name: "Model relay"},
		Active: true, Config: config, Name: new("Küche"), EntityID: new("kitchen"), EnableOTA: new(true),
		Rotation: fleet.RotationOK, SecretCreatedAt: new(epoch), CreatedAt: epoch, UpdatedAt: epoch,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	stored, err := s.Device(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, stored); diff != "" {
		t.Error("stored:", diff)
	}
	if code, key, ok := fleet.ParseClientID(got.ClientID()); !ok || code != "relay" || key != got.Key {
		t.Errorf("client id %q", got.ClientID())
	}
	_, err = s.CreateDevice(t.Context(), 99, "{}")
	wantError(t, err, fleet.NotFound, "DeviceModel 99 was not found")
}

func TestConfig(t *testing.T) {
	s := newService(t, openStore(t))
	m := createModel(t, s, "relay", nil)

	f := func(config string, name, entityID *string, ota *bool) {
		t.Helper()
		d, err := s.CreateDevice(t.Context(), m.ID, config)
		if err != nil {
			t.Error(err)
		}
		got := []any{d.Name, d.EntityID, d.EnableOTA}
		if diff := cmp.Diff([]any{name, entityID, ota}, got); diff != "" {
			t.Errorf("%s: %s", config, diff)
		}
	}
	f(`{}`, nil, nil, nil)
	f(`[1, {"deviceName": "x"}]`, nil, nil, nil)
	f(`"deviceName"`, nil, nil, nil)
	f(`null`, nil, nil, nil)
	f(`{"deviceName": "", "deviceEntityId": " \t\n\u00a0", "enableOTA": null}`, nil, nil, nil)
	f(`{"deviceName": null, "deviceEntityId": null, "enableOTA": false}`, nil, nil, new(false))
	f(`{"deviceName": " a "}`, new(" a "), nil, nil)
	f(`{"devicename": "a", "DeviceEntityID": "b"}`, nil, nil, nil)
	f(`{"deviceName": "a", "deviceName": "b"}`, new("b"), nil, nil)
	f(`{"deviceName": "`+strings.Repeat("é", 255)+`"}`, new(strings.Repeat("é", 255)), nil, nil)
	f(`{"n": [1e308, -1e-308, 0.0000001, 12345678901234567890]}`, nil, nil, nil)
	f(strings.Repeat("[", registry.MaxJSONDepth)+strings.Repeat("]", registry.MaxJSONDepth), nil, nil, nil)
	f(`"`+strings.Repeat("x", registry.MaxJSON-2)+`"`, nil, nil, nil)

	bad := func(config, message string) {
		t.Helper()
		_, err := s.CreateDevice(t.Context(), m.ID, config)
		wantError(t, err, fleet.Invalid, "Config validation failed: "+message)
		if !strings.HasSuffix(message, "a string") && !strings.HasPrefix(message, "enableOTA") && !strings.HasPrefix(message, "device") {
			if registry.CheckJSON(config) == nil {
				t.Errorf("CheckJSON accepts %.40s", config)
			}
		}
	}
	bad(`{"deviceName": 1}`, "deviceName must be a string")
	bad(`{"deviceEntityId": ["a"]}`, "deviceEntityId must be a string")
	bad(`{"deviceEntityId": true}`, "deviceEntityId must be a string")
	bad(`{"enableOTA": "yes"}`, "enableOTA must be true or false")
	bad(`{"enableOTA": 1}`, "enableOTA must be true or false")
	bad(`{"deviceName": "a\u0000"}`, "deviceName must not contain a NUL character")
	bad(`{"deviceName": "`+strings.Repeat("é", 256)+`"}`, "deviceName must have at most 255 characters")
	bad(``, "the text ends before the value does")
	bad(`{"a": 1`, "the text ends before the value does")
	bad("{\n  \"a\": nul\n}", "invalid character '\\n' in literal null (expecting 'l') at line 2 column 11")
	bad(`{} {}`, "extra data after the value at line 1 column 4")
	bad(`{"a": NaN}`, "invalid character 'N' looking for beginning of value at line 1 column 7")
	bad(`Infinity`, "invalid character 'I' looking for beginning of value at line 1 column 1")
	bad(`{"a": -Infinity}`, "invalid character 'I' in numeric literal at line 1 column 8")
	bad(`1e999`, "the number 1e999 is out of range")
	bad(`1e-999999999`, "the number 1e-999999999 is out of range")
	bad(`0e999999999999999999999`, "the number 0e999999999999999999999 is out of range")
	bad(strings.Repeat("1", 401), "a number has more than 400 characters")
	bad("\ufeff{}", "invalid character 'ï' looking for beginning of value at line 1 column 1")
	bad("\"\xff\"", "the text is not UTF-8")
	bad(strings.Repeat("[", registry.MaxJSONDepth+1)+strings.Repeat("]", registry.MaxJSONDepth+1), "nested deeper than 100 levels")
	bad(`"`+strings.Repeat("x", registry.MaxJSON-1)+`"`, fmt.Sprintf("the text has %d bytes, at most %d are allowed", registry.MaxJSON+1, registry.MaxJSON))
}

func TestSchema(t *testing.T) {
	s := newService(t, openStore(t))
	n := 0
	f := func(schema, config, want string) {
		t.Helper()
		n++
		m, err := s.CreateModel(t.Context(), registry.NewModel{Code: fmt.Sprintf("m%d", n), Name: "x", ConfigSchema: &schema})
		if err == nil {
			_, err = s.CreateDevice(t.Context(), m.ID, config)
		}
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", schema, err)
			}
			return
		}
		wantError(t, err, fleet.Invalid, want)
	}
	f(`true`, `1`, "")
	f(`{}`, `1`, "")
	f(`false`, `1`, "Config validation failed: false schema")
	f(`{"type": "object"}`, `1`, "Config validation failed: got number, want object")
	f(`{"properties": {"wifi": {"properties": {"ch": {"maximum": 13}}}}}`, `{"wifi": {"ch": 14}}`,
		"Config validation failed: /wifi/ch: maximum: got 14, want 13")
	f(`{"required": ["a"], "properties": {"b": {"type": "string"}}}`, `{"b": 1}`, "Config validation failed: missing property 'a'")
	f(`{"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}`, `"x"`, "")
	f(`{"properties": {"a": {"$ref": "#"}}, "additionalProperties": false}`, `{"a": {"a": {"b": 1}}}`,
		"Config validation failed: /a/a: additional properties 'b' not allowed")
	f(`{"multipleOf": 0.1}`, `0.3`, "")

	// Formats are annotations in every dialect.
	f(`{"format": "email"}`, `"no"`, "")
	f(`{"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"format": "email"}}}`, `{"a": "no"}`, "")
	f(`{"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": true}`, `3`,
		"Config validation failed: exclusiveMaximum: got 3, want 3")

	// Nothing is loaded from outside, by whatever name it goes.
	f(`{"$ref": "http://127.0.0.1:1/x"}`, `1`, `Invalid JSON schema: the reference "http://127.0.0.1:1/x" leaves the document`)
	f(`{"$ref": "file:///etc/passwd"}`, `1`, `Invalid JSON schema: the reference "file:///etc/passwd" leaves the document`)
	f(`{"$ref": "other.json"}`, `1`, `Invalid JSON schema: the reference "schema:///other.json" leaves the document`)
	f(`{"$id": "http://127.0.0.1:1/a", "$ref": "b"}`, `1`, `Invalid JSON schema: the reference "http://127.0.0.1:1/b" leaves the document`)
	f(`{"$schema": "http://127.0.0.1:1/meta"}`, `1`, `Invalid JSON schema: the reference "http://127.0.0.1:1/meta" leaves the document`)

	// What is not a schema is refused when it is saved.
	f(`{"type": "objekt"}`, `1`, "Invalid JSON schema: /type: got string, want array; value must be one of 'array', 'boolean', 'integer', 'null', 'number', 'object', 'string'")
	f(`{"pattern": "("}`, `1`, "Invalid JSON schema: /pattern: '(' is not valid regex: error parsing regexp: missing closing ): `(`")
	f(`[]`, `1`, "Invalid JSON schema: got array, want boolean or object")
	f(`"x"`, `1`, "Invalid JSON schema: got string, want boolean or object")
	f(`{`, `1`, "Invalid JSON schema: the text ends before the value does")
	f(`{"maximum": 1e999999999}`, `1`, "Invalid JSON schema: the number 1e999999999 is out of range")
	f(`{"multipleOf": 0}`, `1`, "Invalid JSON schema: /multipleOf: exclusiveMinimum: got 0, want 0")
	f(`{"$ref": "#/$defs/none"}`, `1`, `Invalid JSON schema: json-pointer in "#/$defs/none" not found`)
}

func TestSchemaOfModelBindsLater(t *testing.T) {
	s := newService(t, openStore(t))
	m := createModel(t, s, "relay", nil)
	d := createDevice(t, s, m.ID, "1")
	if _, err := s.UpdateModel(t.Context(), m.ID, registry.ModelChange{ConfigSchema: new(`{"type": "object"}`)}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Device(t.Context(), d.ID); err != nil || got.Config != "1" {
		t.Errorf("the old device: %+v, %v", got, err)
	}
	_, err := s.UpdateDevice(t.Context(), d.ID, "2", true)
	wantError(t, err, fleet.Invalid, "Config validation failed: got number, want object")
	if _, err := s.UpdateDevice(t.Context(), d.ID, "{}", true); err != nil {
		t.Error(err)
	}
}

func TestKeyCollision(t *testing.T) {
	keys := []string{"aaaaaaaa", "aaaaaaaa", "aaaaaaaa", "bbbbbbbb", "aaaaaaaa", "bbbbbbbb", "aaaaaaaa", "cccccccc"}
	s := newService(t, openStore(t), registry.WithKeys(func() string {
		key := keys[0]
		keys = keys[1:]
		return key
	}))
	m := createModel(t, s, "relay", nil)
	createDevice(t, s, m.ID, "{}")
	if d := createDevice(t, s, m.ID, "{}"); d.Key != "bbbbbbbb" { // the third attempt
		t.Errorf("key %q", d.Key)
	}
	_, err := s.CreateDevice(t.Context(), m.ID, "{}")
	if fleet.KindOf(err) != fleet.Internal || err == nil || len(keys) != 1 {
		t.Errorf("got %v with %d keys left", err, len(keys))
	}
	if n := s.Directory().Len(); n != 2 {
		t.Errorf("%d devices", n)
	}
}

// recorder keeps the changes that it is told.
type recorder struct{ changes []registry.Change }

func (r *recorder) observe(_ context.Context, ch registry.Change) { r.changes = append(r.changes, ch) }

func TestObserve(t *testing.T) {
	var log bytes.Buffer
	s, err := registry.New(t.Context(), openStore(t), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var rec recorder
	s.Observe(func(context.Context, registry.Change) { panic("ouch") })
	s.Observe(rec.observe)
	s.Observe(func(ctx context.Context, ch registry.Change) {
		if ctx.Err() != nil {
			t.Error("the observer's context ended with the caller's")
		}
		if ref, ok := s.Directory().ByID(ch.After.ID); ch.Kind != registry.Deleted && (!ok || ref != ch.After) {
			t.Errorf("the directory shows %+v at %v", ref, ch)
		}
		if _, ok := s.Directory().ByClientID(ch.After.ClientID); ok && ch.Kind == registry.Created {
			t.Error("lines were taken for a device that not everybody knew of")
		}
		if d, err := s.Device(ctx, ch.After.ID); ch.Kind != registry.Deleted && (err != nil || d.Ref() != ch.After) {
			t.Errorf("%v was told before its commit: %v", ch, err)
		}
	})
	m := createModel(t, s, "relay", nil)
	d := createDevice(t, s, m.ID, `{"deviceEntityId": "a"}`)
	before := d.Ref()
	if _, err := s.UpdateModel(t.Context(), m.ID, registry.ModelChange{Name: new("x")}); err != nil {
		t.Error(err)
	}
	if d, err = s.UpdateDevice(t.Context(), d.ID, `{"deviceEntityId": "b", "deviceName": "n"}`, false); err != nil {
		t.Error(err)
	}
	after := d.Ref()
	if _, err = s.UpdateDevice(t.Context(), d.ID, `1e9999`, true); err == nil {
		t.Error("bad config accepted")
	}
	if err := s.DeleteDevice(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
	if err := s.DeleteDevice(t.Context(), d.ID); fleet.KindOf(err) != fleet.NotFound {
		t.Errorf("got %v", err)
	}
	want := []registry.Change{
		{Kind: registry.Created, After: before},
		{Kind: registry.Updated, Before: before, After: after},
		{Kind: registry.Deleted, Before: after},
	}
	if diff := cmp.Diff(want, rec.changes); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(log.String(), "observer of device changes panicked"); n != 3 {
		t.Errorf("%d panics logged", n)
	}
}

// Whatever the order in which goroutines change the fleet, the changes told make
// one history of each device, and that history ends where the store is.
func TestObserveOrder(t *testing.T) {
	s := newService(t, openStore(t))
	m := createModel(t, s, "relay", nil)
	var ids []int64
	for range 4 {
		ids = append(ids, createDevice(t, s, m.ID, "{}").ID)
	}
	told := make(map[int64]fleet.DeviceRef)
	for _, ref := range s.Directory().All() {
		told[ref.ID] = ref
	}
	s.Observe(func(_ context.Context, ch registry.Change) { // one at a time, so without a lock
		if told[ch.Before.ID] != ch.Before {
			t.Errorf("before is %+v, was %+v", ch.Before, told[ch.Before.ID])
		}
		delete(told, ch.Before.ID)
		if ch.Kind != registry.Deleted {
			told[ch.After.ID] = ch.After
		}
	})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for round := range 25 {
				id := ids[(worker+round)%len(ids)]
				config := fmt.Sprintf(`{"deviceEntityId": "e%d-%d"}`, worker, round%3)
				if _, err := s.UpdateDevice(t.Context(), id, config, true); err != nil && fleet.KindOf(err) != fleet.NotFound {
					t.Error(err)
				}
				if round == 20 && worker == 0 {
					if err := s.DeleteDevice(t.Context(), id); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	devices, err := s.Devices(t.Context(), registry.DeviceFilter{})
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[int64]fleet.DeviceRef)
	for _, d := range devices {
		want[d.ID] = d.Ref()
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error("told:", diff)
	}
	got := make(map[int64]fleet.DeviceRef)
	for _, ref := range s.Directory().All() {
		got[ref.ID] = ref
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("directory:", diff)
	}
}

func TestWarnings(t *testing.T) {
	var log bytes.Buffer
	n := 0
	s, err := registry.New(t.Context(), openStore(t), slog.New(slog.NewTextHandler(&log, nil)),
		registry.WithKeys(func() string { n++; return fmt.Sprintf("key%05d", n) }))
	if err != nil {
		t.Fatal(err)
	}
	m := createModel(t, s, "relay", nil)
	const config = `{"deviceEntityId": "kitchen"}`
	first := createDevice(t, s, m.ID, config)
	f := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(append([]string{}, want...), s.Warnings(first.ID, func(fleet.DeviceRef) bool { return true })); diff != "" {
			t.Error(diff)
		}
	}
	f()
	if log.Len() > 0 {
		t.Errorf("logged %s", log.String())
	}
	second := createDevice(t, s, m.ID, config)
	f(`The entity id "kitchen" is shared with key00002: log lines on the shared topic belong to all of them.`)
	if !strings.Contains(log.String(), `level=WARN msg="devices share an entity id" entity_id=kitchen device=key00002 devices=2`) {
		t.Errorf("logged %s", log.String())
	}
	log.Reset()
	if _, err := s.UpdateDevice(t.Context(), second.ID, config, false); err != nil {
		t.Error(err)
	}
	if log.Len() > 0 {
		t.Errorf("the warning comes again: %s", log.String())
	}
	for range 6 {
		createDevice(t, s, m.ID, config)
	}
	f(`The entity id "kitchen" is shared with key00002, key00003, key00004, key00005, key00006 and 2 more: log lines on the shared topic belong to all of them.`)
	if got := s.Warnings(first.ID, func(d fleet.DeviceRef) bool { return d.Key == "key00004" }); len(got) != 1 || strings.Contains(got[0], "key00002") || !strings.Contains(got[0], "key00004:") {
		t.Errorf("to somebody who sees one of them: %q", got)
	}
	if _, err := s.UpdateDevice(t.Context(), first.ID, `{}`, true); err != nil {
		t.Error(err)
	}
	f()
}

// flaky is a store whose commits can be made to fail, before or after the fact.
type flaky struct {
	registry.Store
	before, after error
	down          bool
}

func (s *flaky) Tx(ctx context.Context, f func(registry.Queries) error) error {
	err := s.Store.Tx(ctx, func(q registry.Queries) error {
		if err := f(q); err != nil {
			return err
		}
		return s.before
	})
	if err == nil {
		err = s.after
	}
	return err
}

func (s *flaky) Devices(ctx context.Context, filter registry.DeviceFilter) ([]fleet.Device, error) {
	if s.down {
		return nil, fleet.E(fleet.Unavailable, nil, "down")
	}
	return s.Store.Devices(ctx, filter)
}

func TestFailedCommit(t *testing.T) {
	store := &flaky{Store: openStore(t)}
	s := newService(t, store)
	var rec recorder
	s.Observe(rec.observe)
	m := createModel(t, s, "relay", nil)
	lost := fleet.E(fleet.Unavailable, errors.New("connection reset"), "Database is currently unavailable")

	// It did not happen: nothing is announced, nothing is left.
	store.before = lost
	if _, err := s.CreateDevice(t.Context(), m.ID, "{}"); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("got %v", err)
	}
	if len(rec.changes) != 0 || s.Directory().Len() != 0 {
		t.Errorf("told %v", rec.changes)
	}

	// It happened, though the caller heard an error: the directory follows the store.
	store.before, store.after = nil, lost
	if _, err := s.CreateDevice(t.Context(), m.ID, "{}"); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("got %v", err)
	}
	if len(rec.changes) != 1 || s.Directory().Len() != 1 {
		t.Errorf("told %v", rec.changes)
	}

	// The store is gone even to look: the next change catches up first.
	store.down = true
	if _, err := s.CreateDevice(t.Context(), m.ID, "{}"); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("got %v", err)
	}
	if s.Directory().Len() != 1 {
		t.Error("the directory knows too much")
	}
	store.down, store.after = false, nil
	createDevice(t, s, m.ID, "{}")
	if len(rec.changes) != 3 || s.Directory().Len() != 3 {
		t.Errorf("told %v", rec.changes)
	}
}

func TestSync(t *testing.T) {
	store := openStore(t)
	s, other := newService(t, store), newService(t, store)
	m := createModel(t, other, "relay", nil)
	a := createDevice(t, other, m.ID, `{"deviceEntityId": "a"}`)
	b := createDevice(t, other, m.ID, `{"deviceEntityId": "b"}`)
	var rec recorder
	s.Observe(rec.observe)
	sync := func(want ...registry.Change) {
		t.Helper()
		rec.changes = nil
		if err := s.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, rec.changes); diff != "" {
			t.Error(diff)
		}
	}
	sync(registry.Change{Kind: registry.Created, After: a.Ref()}, registry.Change{Kind: registry.Created, After: b.Ref()})
	sync()
	after, err := other.UpdateDevice(t.Context(), b.ID, `{"deviceEntityId": "c"}`, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.DeleteDevice(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	sync(registry.Change{Kind: registry.Deleted, Before: a.Ref()},
		registry.Change{Kind: registry.Updated, Before: b.Ref(), After: after.Ref()})
}

func TestWaitingEndsWithContext(t *testing.T) {
	s := newService(t, openStore(t))
	m := createModel(t, s, "relay", nil)
	s.Observe(func(context.Context, registry.Change) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.DeleteModel(ctx, m.ID); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	createDevice(t, s, m.ID, "{}")
}

// The cost of a new device must not grow with the fleet: run with
// -benchtime=10000x and compare with 1000x.
func BenchmarkCreateDevice(b *testing.B) {
	s := newService(b, openStore(b))
	m := createModel(b, s, "relay", new(`{"type": "object", "properties": {"deviceName": {"type": "string"}}, "required": ["deviceName"]}`))
	n := 0
	for b.Loop() {
		n++
		createDevice(b, s, m.ID, fmt.Sprintf(`{"deviceName": "Device %d", "deviceEntityId": "entity_%d"}`, n, n/2))
	}
}
