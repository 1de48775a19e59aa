package registry_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/registry"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

// moody is the real issuer, on a bad day: calls fail before or after they had
// their effect, or never return.
type moody struct {
	registry.Issuer

	mu     sync.Mutex
	before error // of each call, which then has no effect
	after  error // of each call that had its effect
	hang   bool  // until the caller gives up
	hook   func(op, id string)
	calls  []string
}

func (f *moody) begin(ctx context.Context, op, id string) error {
	f.mu.Lock()
	f.calls = append(f.calls, op+" "+id)
	before, hang, hook := f.before, f.hang, f.hook
	f.mu.Unlock()
	if hook != nil {
		hook(op, id)
	}
	if hang {
		<-ctx.Done()
		return fleet.E(fleet.Unavailable, ctx.Err(), "Keycloak is currently unavailable")
	}
	return before
}

func (f *moody) end(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = f.after
	}
	return err
}

func (f *moody) set(change func(*moody)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// Ensure implements registry.Issuer.
func (f *moody) Ensure(ctx context.Context, c registry.Client) (bool, error) {
	if err := f.begin(ctx, "ensure", c.ID); err != nil {
		return false, err
	}
	created, err := f.Issuer.Ensure(ctx, c)
	return created, f.end(err)
}

// Delete implements registry.Issuer.
func (f *moody) Delete(ctx context.Context, id string) error {
	if err := f.begin(ctx, "delete", id); err != nil {
		return err
	}
	return f.end(f.Issuer.Delete(ctx, id))
}

// Clients implements registry.Issuer.
func (f *moody) Clients(ctx context.Context) iter.Seq2[registry.Client, error] {
	if err := f.begin(ctx, "clients", ""); err != nil {
		return func(yield func(registry.Client, error) bool) { yield(registry.Client{}, err) }
	}
	return f.Issuer.Clients(ctx)
}

// plant is a registry with an issuer.
type plant struct {
	*registry.Service
	t       *testing.T
	db      *sqlstore.DB
	issuer  *moody
	metrics *prometheus.Registry
	model   fleet.Model
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{t: t, db: openStore(t)}
	p.start()
	p.model = createModel(t, p.Service, "relay", nil)
	return p
}

// start begins anew over the same database, as after a restart.
func (p *plant) start(options ...registry.Option) {
	p.t.Helper()
	box, err := secret.NewBox("a key for tests only", "device credentials")
	if err != nil {
		p.t.Fatal(err)
	}
	issuer, err := local.New(p.t.Context(), local.Options{Store: p.db, Box: box, URL: "http://localhost", Audience: "x"})
	if err != nil {
		p.t.Fatal(err)
	}
	p.issuer, p.metrics = &moody{Issuer: issuer}, prometheus.NewRegistry()
	p.Service = newService(p.t, p.db, append(options, registry.WithIssuer(p.issuer), registry.WithMetrics(p.metrics))...)
}

// clients returns what the issuer has.
func (p *plant) clients() map[string]registry.Client {
	p.t.Helper()
	all := map[string]registry.Client{}
	for c, err := range p.issuer.Issuer.Clients(p.t.Context()) {
		if err != nil {
			p.t.Fatal(err)
		}
		all[c.ID] = c
	}
	return all
}

// has checks that the issuer has exactly the clients of these.
func (p *plant) has(want ...registry.Client) {
	p.t.Helper()
	got := p.clients()
	for _, c := range want {
		if got[c.ID] != c {
			p.t.Errorf("the issuer has %+v, want %+v", got[c.ID], c)
		}
		delete(got, c.ID)
	}
	if len(got) > 0 {
		p.t.Errorf("the issuer has %v as well", got)
	}
}

func clientOf(d fleet.Device) registry.Client {
	c := registry.Client{ID: d.ClientID(), Description: registry.ClientDescription, Enabled: d.RevokedAt == nil}
	if d.Name != nil {
		c.Name = *d.Name
	}
	return c
}

// metric returns the value of a metric, summed over its labels.
func (p *plant) metric(name string) (sum float64) {
	p.t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += value(m)
			}
		}
	}
	return sum
}

func value(m *dto.Metric) float64 { return m.GetCounter().GetValue() + m.GetGauge().GetValue() }

// run runs the service until stop is called.
func (p *plant) run() (stop func()) {
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
	}
}

var (
	errDown    = fleet.E(fleet.Unavailable, nil, "Keycloak is currently unavailable")
	errRefused = fleet.E(fleet.External, nil, "Keycloak answered 500")
)

func (p *plant) removals() (ids []string) {
	p.t.Helper()
	list, err := p.db.Removals(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	for _, r := range list {
		ids = append(ids, r.ClientID)
	}
	return ids
}

func (p *plant) stale() []int64 {
	p.t.Helper()
	ids, err := p.db.StaleDevices(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return ids
}

func TestCreateMakesTheClientFirst(t *testing.T) {
	p := newPlant(t)
	seen := false
	p.issuer.hook = func(op, id string) {
		if op == "ensure" {
			seen = true
			if n := p.Directory().Len(); n != 0 {
				t.Errorf("%d devices are there before the client is", n)
			}
			if got := p.removals(); !slices.Equal(got, []string{id}) {
				t.Errorf("a crash now would leave the client: removals %v", got)
			}
		}
	}
	d := createDevice(t, p.Service, p.model.ID, `{"deviceName":"Door"}`)
	if !seen {
		t.Fatal("the issuer was not asked")
	}
	p.has(registry.Client{ID: d.ClientID(), Name: "Door", Description: registry.ClientDescription, Enabled: true})
	if got := p.removals(); got != nil {
		t.Errorf("removals %v", got)
	}
	if got := p.stale(); got != nil {
		t.Errorf("stale %v", got)
	}
}

func TestCreateFails(t *testing.T) {
	f := func(name string, break_ func(*moody), message string) {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			p.issuer.set(break_)
			_, err := p.CreateDevice(t.Context(), p.model.ID, `{}`)
			wantError(t, err, fleet.External, message)
			if n := p.Directory().Len(); n != 0 {
				t.Errorf("%d devices", n)
			}
			if devices, err := p.Devices(t.Context(), registry.DeviceFilter{}); err != nil || len(devices) != 0 {
				t.Errorf("%v, %v", devices, err)
			}
			if got := p.removals(); len(got) != 1 { // whatever became of the client
				t.Errorf("removals %v", got)
			}
		})
	}
	f("refused", func(f *moody) { f.before = errRefused }, "Cannot create device because external service failed: Keycloak answered 500")
	f("down", func(f *moody) { f.before = errDown }, "Cannot create device because external service failed: Keycloak is currently unavailable")
	f("down after the effect", func(f *moody) { f.after = errDown }, "Cannot create device because external service failed: Keycloak is currently unavailable")
}

// broken is a store whose next transactions fail when they insert a device.
type broken struct {
	registry.Store
	err error
}

type brokenQueries struct {
	registry.Queries
	err error
}

func (b *broken) Tx(ctx context.Context, f func(registry.Queries) error) error {
	return b.Store.Tx(ctx, func(q registry.Queries) error { return f(brokenQueries{q, b.err}) })
}

func (b brokenQueries) InsertDevice(ctx context.Context, d fleet.Device) (int64, error) {
	if b.err != nil {
		return 0, b.err
	}
	return b.Queries.InsertDevice(ctx, d)
}

func (b brokenQueries) UpdateDevice(ctx context.Context, d fleet.Device) error {
	if b.err != nil {
		return b.err
	}
	return b.Queries.UpdateDevice(ctx, d)
}

// The client of a device that could not be stored is removed when it is sure
// that the device is not there, also after a restart.
func TestClientOfAFailedCreationIsRemoved(t *testing.T) {
	p := newPlant(t)
	store := &broken{Store: p.db, err: fleet.E(fleet.Unavailable, errors.New("disk full"), "Database is currently unavailable")}
	var err error
	if p.Service, err = registry.New(t.Context(), store, slog.New(slog.DiscardHandler), registry.WithIssuer(p.issuer)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.CreateDevice(t.Context(), p.model.ID, `{}`); fleet.KindOf(err) != fleet.Unavailable {
		t.Fatal(err)
	}
	if len(p.clients()) != 1 || len(p.removals()) != 1 {
		t.Fatalf("clients %v, removals %v", p.clients(), p.removals())
	}
	later := time.Now().Add(time.Minute)
	p.start(registry.WithClock(func() time.Time { return later }))
	if err := p.Work(t.Context()); err != nil || len(p.clients()) != 1 {
		t.Errorf("too early: %v, clients %v", err, p.clients())
	}
	later = time.Now().Add(3 * time.Minute)
	if err := p.Work(t.Context()); err != nil {
		t.Error(err)
	}
	p.has()
	if got := p.removals(); got != nil {
		t.Errorf("removals %v", got)
	}
}

// A creation that takes longer than the removal waits finds out.
func TestCreateTooLate(t *testing.T) {
	p := newPlant(t)
	p.issuer.hook = func(op, id string) {
		if op == "ensure" {
			_ = p.db.Tx(context.Background(), func(q registry.Queries) error {
				_, err := q.DeleteRemoval(context.Background(), id)
				return err
			})
		}
	}
	_, err := p.CreateDevice(t.Context(), p.model.ID, `{}`)
	wantError(t, err, fleet.Unavailable, "Creating the device took too long")
	if p.Directory().Len() != 0 {
		t.Error("the device is there")
	}
}

// The client of another device that has the key is not touched.
func TestCreateWithATakenKey(t *testing.T) {
	p := newPlant(t)
	keys := []string{"aaaaaaaa", "aaaaaaaa", "bbbbbbbb"}
	p.start(registry.WithKeys(func() string { k := keys[0]; keys = keys[1:]; return k }))
	a := createDevice(t, p.Service, p.model.ID, `{"deviceName":"A"}`)
	b := createDevice(t, p.Service, p.model.ID, `{"deviceName":"B"}`)
	p.has(clientOf(a), clientOf(b))
	if len(p.issuer.calls) != 2 {
		t.Errorf("calls: %v", p.issuer.calls)
	}
}

func TestUpdatePushesTheName(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{"deviceName":"Door"}`)
	update := func(config string) error {
		var err error
		d, err = p.UpdateDevice(t.Context(), d.ID, config, true)
		return err
	}
	p.issuer.calls = nil
	if err := update(`{"deviceName":"Door","x":1}`); err != nil || len(p.issuer.calls) != 0 {
		t.Errorf("%v, calls %v", err, p.issuer.calls)
	}
	if err := update(`{"deviceName":"Gate"}`); err != nil {
		t.Error(err)
	}
	p.has(clientOf(d))
	if err := update(`{}`); err != nil {
		t.Error(err)
	}
	p.has(clientOf(d))

	// Nothing is half done when it fails, whether or not it had its effect.
	for _, break_ := range []func(*moody){func(f *moody) { f.before = errDown }, func(f *moody) { f.after = errDown }} {
		before, err := p.Device(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		p.issuer.set(break_)
		_, err = p.UpdateDevice(t.Context(), d.ID, `{"deviceName":"Lost"}`, false)
		wantError(t, err, fleet.External, "Cannot update device because external service failed: Keycloak is currently unavailable")
		p.issuer.set(func(f *moody) { f.before, f.after = nil, nil })
		after, err := p.Device(t.Context(), d.ID)
		if err != nil || after.Config != before.Config || after.Active != before.Active || after.Name != nil {
			t.Errorf("%+v became %+v, %v", before, after, err)
		}
		if err := p.Work(t.Context()); err != nil {
			t.Error(err)
		}
		p.has(clientOf(after))
	}
}

// A change of the row that fails after the issuer was told is taken back there.
func TestUpdateFailsAfterThePush(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{"deviceName":"Door"}`)
	store := &broken{Store: p.db, err: errors.New("ouch")}
	s := newService(t, store, registry.WithIssuer(p.issuer))
	if _, err := s.UpdateDevice(t.Context(), d.ID, `{"deviceName":"Gate"}`, true); err == nil {
		t.Fatal("no error")
	}
	if got := p.stale(); !slices.Equal(got, []int64{d.ID}) {
		t.Errorf("stale %v", got)
	}
	if err := p.Work(t.Context()); err != nil {
		t.Error(err)
	}
	p.has(clientOf(d))
}

// A device that is deleted while its name is pushed has no client in the end.
func TestUpdateRacesDelete(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{"deviceName":"Door"}`)
	p.issuer.hook = func(op, id string) {
		if op != "ensure" {
			return
		}
		p.issuer.set(func(f *moody) { f.hook = nil })
		if err := p.DeleteDevice(context.Background(), d.ID); err != nil {
			t.Error(err)
		}
		if err := p.Work(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.UpdateDevice(t.Context(), d.ID, `{"deviceName":"Gate"}`, true); fleet.KindOf(err) != fleet.NotFound || err == nil {
		t.Fatal(err)
	}
	if err := p.Work(t.Context()); err != nil {
		t.Error(err)
	}
	p.has()
}

// Nor has one that is deleted while its client is made right.
func TestSyncRacesDelete(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{}`)
	p.issuer.hook = func(op, _ string) {
		if op != "ensure" {
			return
		}
		p.issuer.set(func(f *moody) { f.hook = nil })
		if err := p.DeleteDevice(context.Background(), d.ID); err != nil {
			t.Error(err)
		}
		if err := p.Work(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := p.SyncClient(t.Context(), d.ID); fleet.KindOf(err) != fleet.NotFound || err == nil {
		t.Error(err)
	}
	if err := p.Work(t.Context()); err != nil {
		t.Error(err)
	}
	p.has()
}

// A removal never takes the client of a device that is there.
func TestRemovalOfAClientInUse(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{}`)
	if err := p.db.Tx(t.Context(), func(q registry.Queries) error { return q.PutRemoval(t.Context(), d.ClientID(), epoch) }); err != nil {
		t.Fatal(err)
	}
	_, before, err := p.Secret(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Work(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, after, err := p.Secret(t.Context(), d.ID); err != nil || after != before {
		t.Errorf("the device has another secret, %v", err)
	}
	if len(p.removals())+len(p.stale()) != 0 {
		t.Errorf("removals %v, stale %v", p.removals(), p.stale())
	}
}

func TestDeleteIsTriedUntilItSucceeds(t *testing.T) {
	p := newPlant(t)
	a := createDevice(t, p.Service, p.model.ID, `{}`)
	b := createDevice(t, p.Service, p.model.ID, `{}`)
	p.issuer.set(func(f *moody) { f.before = errRefused })
	if err := p.DeleteDevice(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Identify(fleet.DeviceClaims{ClientID: a.ClientID()}); fleet.KindOf(err) != fleet.Unauthenticated {
		t.Errorf("the device is still somebody: %v", err)
	}
	for range 2 {
		if err := p.Work(t.Context()); err == nil {
			t.Error("no error")
		}
	}
	if p.metric("iot_device_clients_pending") != 1 || p.metric("iot_device_client_failures_total") != 2 {
		t.Errorf("pending %v, failures %v", p.metric("iot_device_clients_pending"), p.metric("iot_device_client_failures_total"))
	}
	p.has(clientOf(a), clientOf(b))
	p.start() // it survives a restart
	if err := p.Work(t.Context()); err != nil {
		t.Error(err)
	}
	p.has(clientOf(b))
	if p.metric("iot_device_clients_pending") != 0 || len(p.removals()) != 0 {
		t.Errorf("pending %v, removals %v", p.metric("iot_device_clients_pending"), p.removals())
	}
}

// One client that cannot be changed does not keep the others from being.
func TestWorkGoesOn(t *testing.T) {
	p := newPlant(t)
	var devices []fleet.Device
	for range 10 {
		devices = append(devices, createDevice(t, p.Service, p.model.ID, `{}`))
	}
	bad := devices[3].ClientID()
	p.issuer.Issuer = picky{p.issuer.Issuer, bad}
	for _, d := range devices[:9] {
		if err := p.DeleteDevice(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Work(t.Context()); fleet.KindOf(err) != fleet.External {
		t.Errorf("got %v", err)
	}
	p.has(clientOf(devices[3]), clientOf(devices[9]))
}

// picky does not delete one client.
type picky struct {
	registry.Issuer
	id string
}

// Delete implements registry.Issuer.
func (p picky) Delete(ctx context.Context, id string) error {
	if id == p.id {
		return errRefused
	}
	return p.Issuer.Delete(ctx, id)
}

func TestRevokeAndRestore(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{"deviceName":"Door"}`)
	var changes []registry.Change
	p.Observe(func(_ context.Context, ch registry.Change) { changes = append(changes, ch) })
	claims := fleet.DeviceClaims{ClientID: d.ClientID()}
	if ref, err := p.Identify(claims); err != nil || ref.ID != d.ID {
		t.Fatalf("%+v, %v", ref, err)
	}
	r, err := p.Revoke(t.Context(), d.ID)
	if err != nil || r.Err != nil || r.Device.RevokedAt == nil || r.Client == 0 || r.Refused == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	wantError(t, second(p.Identify(claims)), fleet.Unauthenticated, "The device's credential is revoked")
	p.has(clientOf(r.Device))
	if p.clients()[d.ClientID()].Enabled {
		t.Error("the client is enabled")
	}
	if len(changes) != 1 || !changes[0].After.Revoked || changes[0].Before.Revoked {
		t.Errorf("%+v", changes)
	}
	again, err := p.Revoke(t.Context(), d.ID)
	if err != nil || !again.Device.RevokedAt.Equal(*r.Device.RevokedAt) || len(changes) != 1 {
		t.Errorf("%+v, %v", again, err)
	}
	// A revoked device can be changed, and stays revoked.
	if d, err = p.UpdateDevice(t.Context(), d.ID, `{"deviceName":"Gate"}`, true); err != nil || d.RevokedAt == nil {
		t.Errorf("%+v, %v", d, err)
	}
	p.has(clientOf(d))
	p.start() // and after a restart
	wantError(t, second(p.Identify(claims)), fleet.Unauthenticated, "The device's credential is revoked")

	if r, err = p.Restore(t.Context(), d.ID); err != nil || r.Err != nil || r.Device.RevokedAt != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := p.Identify(claims); err != nil {
		t.Error(err)
	}
	p.has(clientOf(r.Device))
	if _, err := p.Revoke(t.Context(), 99); fleet.KindOf(err) != fleet.NotFound || err == nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

// The device is refused at once, and its client disabled when that can be.
func TestRevokeWhileTheIssuerIsDown(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{}`)
	p.issuer.set(func(f *moody) { f.before = errDown })
	r, err := p.Revoke(t.Context(), d.ID)
	if err != nil || fleet.KindOf(r.Err) != fleet.Unavailable || r.Client != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := p.Identify(fleet.DeviceClaims{ClientID: d.ClientID()}); err == nil {
		t.Error("the device is still somebody")
	}
	p.start()
	if err := p.Work(t.Context()); err != nil {
		t.Error(err)
	}
	p.has(clientOf(r.Device))
	if len(p.stale()) != 0 {
		t.Errorf("stale %v", p.stale())
	}
}

// An update that read the device before it was revoked does not enable it again.
func TestRevokeRacesUpdate(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{}`)
	p.issuer.hook = func(op, _ string) {
		if op != "ensure" {
			return
		}
		p.issuer.set(func(f *moody) { f.hook = nil })
		if r, err := p.Revoke(context.Background(), d.ID); err != nil || r.Err != nil {
			t.Errorf("%+v, %v", r, err)
		}
	}
	d, err := p.UpdateDevice(t.Context(), d.ID, `{"deviceName":"Gate"}`, true)
	if err != nil || d.RevokedAt == nil {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := p.Work(t.Context()); err != nil {
		t.Error(err)
	}
	p.has(clientOf(d))
}

func TestIdentify(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{}`)
	f := func(clientID, message string) {
		t.Helper()
		wantError(t, second(p.Identify(fleet.DeviceClaims{ClientID: clientID})), fleet.Unauthenticated, message)
	}
	f("", `Invalid device client ID format: ""`)
	f("admin", `Invalid device client ID format: "admin"`)
	f(fleet.ClientID("relay", "zzzzzzzz"), "The device does not exist")
	f(fleet.ClientID("other", d.Key), "The device does not exist") // the key alone is not enough
}

func TestReconcile(t *testing.T) {
	p := newPlant(t)
	ctx := t.Context()
	var devices []fleet.Device
	for range 5 {
		devices = append(devices, createDevice(t, p.Service, p.model.ID, `{"deviceName":"Door"}`))
	}
	same := func(o registry.ReconcileOptions, want registry.ReconcileReport) {
		t.Helper()
		got, err := p.Reconcile(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range []*[]string{&want.Created, &want.Changed, &want.Orphans, &want.Removed, &want.Failed} {
			if *list == nil {
				*list = []string{}
			}
		}
		if !slices.Equal(got.Created, want.Created) || !slices.Equal(got.Changed, want.Changed) || !slices.Equal(got.Orphans, want.Orphans) ||
			!slices.Equal(got.Removed, want.Removed) || !slices.Equal(got.Failed, want.Failed) || got.Devices != want.Devices || got.Clients != want.Clients {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	p.issuer.calls = nil
	same(registry.ReconcileOptions{}, registry.ReconcileReport{Devices: 5, Clients: 5})
	if len(p.issuer.calls) != 1 {
		t.Errorf("the issuer was asked %v", p.issuer.calls)
	}

	// What somebody did at the issuer behind our back.
	real := p.issuer.Issuer
	if err := real.Delete(ctx, devices[0].ClientID()); err != nil {
		t.Fatal(err)
	}
	put := func(c registry.Client) {
		t.Helper()
		if _, err := real.Ensure(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	off := clientOf(devices[1])
	off.Enabled = false
	put(off)
	renamed := clientOf(devices[2])
	renamed.Name = "x"
	put(renamed)
	ours := registry.Client{ID: "iotdevice-relay-oooooooo", Description: registry.ClientDescription, Enabled: true}
	foreign := registry.Client{ID: "iotdevice-relay-ffffffff", Description: "by hand", Enabled: true}
	put(ours)
	put(foreign)
	changed := []string{off.ID, renamed.ID}
	slices.Sort(changed)
	want := registry.ReconcileReport{Devices: 5, Clients: 6, Created: []string{devices[0].ClientID()}, Changed: changed, Orphans: []string{foreign.ID, ours.ID}}
	same(registry.ReconcileOptions{}, want)
	same(registry.ReconcileOptions{}, registry.ReconcileReport{Devices: 5, Clients: 7, Orphans: want.Orphans})
	if p.metric("iot_device_client_drift_total") != 3 || p.metric("iot_device_client_orphans") != 2 {
		t.Errorf("drift %v, orphans %v", p.metric("iot_device_client_drift_total"), p.metric("iot_device_client_orphans"))
	}
	same(registry.ReconcileOptions{DeleteOrphans: true},
		registry.ReconcileReport{Devices: 5, Clients: 7, Orphans: []string{foreign.ID}, Removed: []string{ours.ID}})
	if err := p.Work(ctx); err != nil {
		t.Error(err)
	}
	all := []registry.Client{foreign}
	for _, d := range devices {
		all = append(all, clientOf(d))
	}
	p.has(all...)

	p.issuer.set(func(f *moody) { f.before = errDown })
	if _, err := p.Reconcile(ctx, registry.ReconcileOptions{}); fleet.KindOf(err) != fleet.External {
		t.Errorf("got %v", err)
	}
}

// Devices from before there was an issuer get their clients, and so does a whole
// fleet at an issuer that is new.
func TestDevicesFromBefore(t *testing.T) {
	p := newPlant(t)
	before := newService(t, p.db)
	var want []registry.Client
	for range 30 {
		want = append(want, clientOf(createDevice(t, before, p.model.ID, `{"deviceName":"Old"}`)))
	}
	p.start()
	if len(p.stale()) != 30 {
		t.Errorf("stale %v", p.stale())
	}
	d, _ := p.Directory().ByClientID(want[0].ID)
	if _, text, err := p.Secret(t.Context(), d.ID); err != nil || text == "" { // its turn comes now
		t.Error(err)
	}
	if err := p.Work(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.has(want...)
	if len(p.stale()) != 0 {
		t.Errorf("stale %v", p.stale())
	}
}

func TestClientOfADevice(t *testing.T) {
	p := newPlant(t)
	d := createDevice(t, p.Service, p.model.ID, `{}`)
	if err := p.issuer.Issuer.Delete(t.Context(), d.ClientID()); err != nil {
		t.Fatal(err)
	}
	if _, status, err := p.ClientStatus(t.Context(), d.ID); err != nil || status.Exists {
		t.Errorf("%+v, %v", status, err)
	}
	if _, status, err := p.SyncClient(t.Context(), d.ID); err != nil || !status.Exists || !status.Enabled {
		t.Errorf("%+v, %v", status, err)
	}
	none := newService(t, p.db)
	for _, f := range []func() error{
		func() error { _, _, err := none.ClientStatus(t.Context(), d.ID); return err },
		func() error { _, _, err := none.SyncClient(t.Context(), d.ID); return err },
		func() error { _, _, err := none.Secret(t.Context(), d.ID); return err },
		func() error { _, err := none.Reconcile(t.Context(), registry.ReconcileOptions{}); return err },
	} {
		wantError(t, f(), fleet.External, "No issuer of device credentials is configured")
	}
	for _, f := range []func() error{
		func() error { _, _, err := p.ClientStatus(t.Context(), 99); return err },
		func() error { _, _, err := p.SyncClient(t.Context(), 99); return err },
		func() error { _, _, err := p.Secret(t.Context(), 99); return err },
	} {
		wantError(t, f(), fleet.NotFound, "Device 99 was not found")
	}
}

// Run does all of that by itself, waits longer and longer while the issuer is
// down, and never gives up.
func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	synctest.Test(t, func(t *testing.T) {
		db, err := sqlstore.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		p := &plant{t: t, db: db}
		p.start()
		p.model = createModel(t, p.Service, "relay", nil)
		d := createDevice(t, p.Service, p.model.ID, `{}`)
		other := createDevice(t, p.Service, p.model.ID, `{}`)
		p.issuer.set(func(f *moody) { f.before, f.calls = errDown, nil })
		stop := p.run()
		defer stop()
		if err := p.DeleteDevice(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		p.issuer.mu.Lock()
		n := 0
		for _, call := range p.issuer.calls {
			if call == "delete "+d.ClientID() {
				n++
			}
		}
		p.issuer.mu.Unlock()
		if n < 8 || n > 20 { // 1, 2, 4 ... 256 s, then every 5 min
			t.Errorf("it was tried %d times in half an hour", n)
		}
		p.issuer.set(func(f *moody) { f.before = nil })
		time.Sleep(6 * time.Minute)
		p.has(clientOf(other))

		// A hanging issuer is given up, and the next device does not wait for it.
		p.issuer.set(func(f *moody) { f.hang = true })
		start := time.Now()
		r, err := p.Revoke(t.Context(), other.ID)
		if err != nil || r.Err == nil || time.Since(start) > 10*time.Second {
			t.Errorf("%+v, %v after %s", r, err, time.Since(start))
		}
		time.Sleep(10 * time.Minute)
		p.issuer.set(func(f *moody) { f.hang = false })
		time.Sleep(10 * time.Minute)
		p.has(clientOf(r.Device))

		// Drift is found by the reconciliation of every hour.
		if err := p.issuer.Issuer.Delete(t.Context(), other.ClientID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		p.has(clientOf(r.Device))
	})
}
