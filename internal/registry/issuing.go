package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"

	"signalbox/internal/fleet"
)

// ClientDescription is the description of the clients that are ours at the
// issuer. It is by this that the others are left alone.
const ClientDescription = "This device is being managed in IoT Support."

const (
	issuerTimeout  = 30 * time.Second // of one call of the issuer
	createGrace    = 2 * time.Minute  // a device that is not there by then was not made
	workInterval   = time.Minute      // between looks for what other processes left to do
	workers        = 4                // calls of the issuer at once
	leastBackoff   = time.Second
	mostBackoff    = 5 * time.Minute
	reconcileEvery = time.Hour
)

// WithIssuer has every device be a client at the issuer, from which it gets its
// tokens. Run must run then. The default is none.
func WithIssuer(issuer Issuer) Option { return func(s *Service) { s.issuer = issuer } }

// WithMetrics sets where the metrics are registered; the default is nowhere.
func WithMetrics(r prometheus.Registerer) Option { return func(s *Service) { s.registerer = r } }

// issuerMetrics count what is done at the issuer.
type issuerMetrics struct {
	pending  *prometheus.GaugeVec
	failures *prometheus.CounterVec
	mended   prometheus.Counter
	orphans  prometheus.Gauge
}

func newIssuerMetrics(r prometheus.Registerer) *issuerMetrics {
	with := promauto.With(r)
	return &issuerMetrics{
		pending: with.NewGaugeVec(prometheus.GaugeOpts{
			Name: "iot_device_clients_pending", Help: "Clients of devices that are still to be changed or deleted at the issuer.",
		}, []string{"work"}),
		failures: with.NewCounterVec(prometheus.CounterOpts{
			Name: "iot_device_client_failures_total", Help: "Changes of clients at the issuer that failed, and are tried again.",
		}, []string{"work"}),
		mended: with.NewCounter(prometheus.CounterOpts{
			Name: "iot_device_client_drift_total", Help: "Clients that the reconciliation found to be missing or other than their device says.",
		}),
		orphans: with.NewGauge(prometheus.GaugeOpts{
			Name: "iot_device_client_orphans", Help: "Clients at the issuer that are of no device, as of the last reconciliation.",
		}),
	}
}

// clientOf returns the client that a device should have.
func clientOf(d *fleet.Device) Client {
	c := Client{ID: d.ClientID(), Description: ClientDescription, Enabled: d.RevokedAt == nil}
	if d.Name != nil {
		c.Name = *d.Name
	}
	return c
}

var errNoIssuer = fleet.E(fleet.External, nil, "No issuer of device credentials is configured")

// atIssuer says what could not be done because of the issuer.
func atIssuer(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, public := fleet.Public(err)
	return fleet.E(fleet.External, err, "Cannot %s because external service failed: %s", op, public)
}

// reserve makes the client of a device that is about to be stored. Until it is,
// the client is noted for removal, so that a crash leaves none behind.
func (s *Service) reserve(ctx context.Context, d *fleet.Device) error {
	c := clientOf(d)
	err := s.store.Tx(ctx, func(q Queries) error { return q.PutRemoval(ctx, c.ID, s.clock().Add(createGrace)) })
	if err != nil {
		return err
	}
	if err := s.ensure(ctx, c); err != nil {
		return atIssuer(ctx, "create device", err)
	}
	return nil
}

// keep undoes the note of reserve, in the transaction that stores the device.
func keep(ctx context.Context, q Queries, d *fleet.Device) error {
	noted, err := q.DeleteRemoval(ctx, d.ClientID())
	if err != nil {
		return err
	}
	if !noted {
		return fleet.E(fleet.Unavailable, nil, "Creating the device took too long")
	}
	return q.SetClientStale(ctx, d.ID, false)
}

func (s *Service) ensure(ctx context.Context, c Client) error {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	_, err := s.issuer.Ensure(ctx, c)
	if err != nil {
		s.issuing.failures.WithLabelValues("update").Inc()
	}
	return err
}

// push brings the client of a device to what it will be after a change, before
// the change is stored. It returns what the client is now; ok is false if
// nothing was done because nothing of it changes.
func (s *Service) push(ctx context.Context, before, after *fleet.Device) (now Client, ok bool, err error) {
	want := clientOf(after)
	if s.issuer == nil || clientOf(before) == want {
		return Client{}, false, nil
	}
	if err := s.ensure(ctx, want); err != nil {
		s.markStale(ctx, before.ID) // it may have happened
		return Client{}, false, atIssuer(ctx, "update device", err)
	}
	return want, true, nil
}

// noteClient stores, in the transaction of a change, whether the client is as
// the device says now. pushed is what it was made to be, if it was.
func noteClient(ctx context.Context, q Queries, before, after *fleet.Device, pushed Client, wasPushed bool) error {
	want := clientOf(after)
	switch {
	case wasPushed:
		return q.SetClientStale(ctx, after.ID, pushed != want)
	case clientOf(before) != want:
		return q.SetClientStale(ctx, after.ID, true)
	}
	return nil
}

// undoPush sees to a client that was changed for a change that was not stored.
func (s *Service) undoPush(ctx context.Context, id int64, clientID string, err error) {
	if _, there := s.dir.ByID(id); there || fleet.KindOf(err) != fleet.NotFound {
		s.markStale(ctx, id)
		return
	}
	// The device was deleted meanwhile, and we may have made its client anew.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTimeout)
	defer cancel()
	if err := s.store.Tx(ctx, func(q Queries) error { return q.PutRemoval(ctx, clientID, s.clock()) }); err != nil {
		s.log.WarnContext(ctx, "the client of a deleted device may be left at the issuer", "client_id", clientID, "err", err)
	}
	s.wakeUp()
}

// markStale has the client of a device looked at again. That it fails is no
// harm: the reconciliation finds the same.
func (s *Service) markStale(ctx context.Context, id int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTimeout)
	defer cancel()
	if err := s.store.Tx(ctx, func(q Queries) error { return q.SetClientStale(ctx, id, true) }); err != nil && fleet.KindOf(err) != fleet.NotFound {
		s.log.WarnContext(ctx, "the client of a device may be other than the device says until the next reconciliation", "device", id, "err", err)
	}
	s.wakeUp()
}

// wakeUp has Run look for work.
func (s *Service) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// settle makes the client of a device be as the device says. Of one device, one
// at a time.
func (s *Service) settle(ctx context.Context, id int64) error {
	unlock, err := s.settling.Take(ctx, id)
	if err != nil {
		return fmt.Errorf("wait for another change of the client: %w", err)
	}
	defer unlock()
	d, err := s.store.Device(ctx, id)
	if fleet.KindOf(err) == fleet.NotFound && err != nil {
		return nil // its removal is noted
	}
	if err != nil {
		return err
	}
	did := clientOf(&d)
	if err := s.ensure(ctx, did); err != nil {
		return err
	}
	// What is true of the client is true whoever waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTimeout)
	defer cancel()
	return s.store.Tx(ctx, func(q Queries) error {
		now, err := q.Device(ctx, id)
		switch {
		case err == nil:
			return q.SetClientStale(ctx, id, clientOf(&now) != did)
		case fleet.KindOf(err) == fleet.NotFound:
			return q.PutRemoval(ctx, did.ID, s.clock()) // deleted while we made the client
		}
		return err
	})
}

// Revocation is what became of a Revoke or Restore.
type Revocation struct {
	Device  fleet.Device
	Refused time.Duration // until this process, and everybody who observes it, refused or took the device
	Client  time.Duration // until the issuer disabled or enabled the client; 0 if it has not
	Err     error         // why the issuer has not yet; it is tried again until it does
}

// Revoke withdraws a device's credential: from its return on this process takes
// the device for nobody, and its client is disabled at the issuer, again and
// again until that succeeds. A device that is revoked stays so. Errors:
// fleet.NotFound.
func (s *Service) Revoke(ctx context.Context, id int64) (Revocation, error) {
	return s.setRevoked(ctx, id, true)
}

// Restore undoes Revoke.
func (s *Service) Restore(ctx context.Context, id int64) (Revocation, error) {
	return s.setRevoked(ctx, id, false)
}

func (s *Service) setRevoked(ctx context.Context, id int64, revoke bool) (Revocation, error) {
	start := time.Now()
	var r Revocation
	_, err := s.write(ctx, func(q Queries) (Change, error) {
		d, err := q.Device(ctx, id)
		if err != nil {
			return Change{}, err
		}
		r.Device = d
		if (d.RevokedAt != nil) == revoke {
			return Change{}, nil
		}
		before := d.Ref()
		r.Device.RevokedAt = nil
		if revoke {
			now := s.clock()
			r.Device.RevokedAt = &now
		}
		if err := q.SetRevoked(ctx, id, r.Device.RevokedAt); err != nil {
			return Change{}, err
		}
		return Change{Kind: Updated, Before: before, After: r.Device.Ref()}, q.SetClientStale(ctx, id, true)
	})
	if err != nil {
		return Revocation{}, err
	}
	r.Refused = time.Since(start)
	if s.issuer == nil {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout) // the caller need not wait for a provider that is slow
	defer cancel()
	if r.Err = s.settle(ctx, id); r.Err != nil {
		s.wakeUp()
		s.log.WarnContext(ctx, "the client of a device could not be changed at the issuer yet", "device", r.Device.Key, "revoked", revoke, "err", r.Err)
		return r, nil
	}
	r.Client = time.Since(start)
	return r, nil
}

// Identify returns the device that proved to be somebody with the claims: it
// must have both the key and the client id that they name. Errors:
// fleet.Unauthenticated for what is no device's client id, and for a device that
// was deleted or revoked.
func (s *Service) Identify(c fleet.DeviceClaims) (fleet.DeviceRef, error) {
	_, key, ok := fleet.ParseClientID(c.ClientID)
	if !ok {
		return fleet.DeviceRef{}, fleet.E(fleet.Unauthenticated, nil, "Invalid device client ID format: %.80q", c.ClientID)
	}
	ref, ok := s.dir.ByKey(key)
	switch {
	case !ok || ref.ClientID != c.ClientID:
		return fleet.DeviceRef{}, fleet.E(fleet.Unauthenticated, nil, "The device does not exist")
	case ref.Revoked:
		return fleet.DeviceRef{}, fleet.E(fleet.Unauthenticated, nil, "The device's credential is revoked")
	}
	return ref, nil
}

// Secret returns the secret that a device authenticates with. Errors:
// fleet.NotFound, fleet.External.
func (s *Service) Secret(ctx context.Context, id int64) (d fleet.Device, secret string, err error) {
	if d, err = s.store.Device(ctx, id); err != nil {
		return d, "", err
	}
	if s.issuer == nil {
		return d, "", errNoIssuer
	}
	secret, err = s.issuer.Secret(ctx, d.ClientID())
	if err != nil && fleet.KindOf(err) == fleet.NotFound { // a device from before, whose turn has not come
		if err = s.settle(ctx, id); err == nil {
			secret, err = s.issuer.Secret(ctx, d.ClientID())
		}
	}
	if err != nil {
		return d, "", atIssuer(ctx, "read the device's secret", err)
	}
	return d, secret, nil
}

// ClientStatus returns what the issuer has of a device. Errors: fleet.NotFound,
// fleet.External.
func (s *Service) ClientStatus(ctx context.Context, id int64) (d fleet.Device, status ClientStatus, err error) {
	if d, err = s.store.Device(ctx, id); err != nil {
		return d, status, err
	}
	if s.issuer == nil {
		return d, status, errNoIssuer
	}
	if status, err = s.issuer.Status(ctx, d.ClientID()); err != nil {
		return d, status, atIssuer(ctx, "read the device's client", err)
	}
	return d, status, nil
}

// SyncClient makes the client of a device be as the device says, and returns
// what the issuer has then. Errors: fleet.NotFound, fleet.External.
func (s *Service) SyncClient(ctx context.Context, id int64) (fleet.Device, ClientStatus, error) {
	d, err := s.store.Device(ctx, id)
	if err != nil {
		return d, ClientStatus{}, err
	}
	if s.issuer == nil {
		return d, ClientStatus{}, errNoIssuer
	}
	if err := s.settle(ctx, id); err != nil {
		return d, ClientStatus{}, atIssuer(ctx, "synchronise the device's client", err)
	}
	return s.ClientStatus(ctx, id)
}

// Run does at the issuer what is left to do: clients to delete, and clients that
// are not what their device says. It tries until it succeeds, and reconciles at
// the start and every hour, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if s.issuer == nil {
		<-ctx.Done()
		return nil
	}
	reconcile := time.NewTimer(0)
	defer reconcile.Stop()
	work := time.NewTimer(0)
	defer work.Stop()
	backoff := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-reconcile.C:
			reconcile.Reset(reconcileEvery)
			if _, err := s.Reconcile(ctx, ReconcileOptions{}); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "the clients of the devices could not be compared with those at the issuer", "err", err)
				reconcile.Reset(mostBackoff)
			}
			continue
		case <-s.wake:
		case <-work.C:
		}
		next, err := s.work(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if backoff == 0 {
				s.log.WarnContext(ctx, "clients of devices could not be changed at the issuer; it is tried again", "err", err)
			}
			backoff = min(max(2*backoff, leastBackoff), mostBackoff)
			next = backoff
		case backoff > 0:
			s.log.InfoContext(ctx, "what was left to do at the issuer is done")
			backoff = 0
		}
		work.Reset(next)
	}
}

// work does what is due, and returns when to look again. The error is of
// whatever failed.
func (s *Service) work(ctx context.Context) (next time.Duration, err error) {
	removals, err := s.store.Removals(ctx)
	if err != nil {
		return 0, err
	}
	stale, err := s.store.StaleDevices(ctx)
	if err != nil {
		return 0, err
	}
	next = workInterval
	now := s.clock()
	var jobs []func(context.Context) error
	for _, r := range removals {
		if wait := r.Due.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		jobs = append(jobs, func(ctx context.Context) error { return s.remove(ctx, r.ClientID) })
	}
	due := len(jobs)
	for _, id := range stale {
		jobs = append(jobs, func(ctx context.Context) error { return s.settle(ctx, id) })
	}
	if len(stale) > 100 {
		s.log.InfoContext(ctx, "clients of devices are made or changed at the issuer", "devices", len(stale))
	}
	failed, err := s.each(ctx, jobs)
	s.issuing.pending.WithLabelValues("removal").Set(float64(failed.count(0, due)))
	s.issuing.pending.WithLabelValues("update").Set(float64(failed.count(due, len(jobs))))
	return next, err
}

// outcomes are what came of jobs: true for those that are not done.
type outcomes []bool

func (o outcomes) count(from, to int) (n int) {
	for _, left := range o[from:to] {
		if left {
			n++
		}
	}
	return n
}

// each does the jobs, a few at once. One that fails leaves the others alone; an
// issuer that cannot be reached ends it. The error is the first one's.
func (s *Service) each(ctx context.Context, jobs []func(context.Context) error) (outcomes, error) {
	left := make(outcomes, len(jobs))
	for i := range left {
		left[i] = true
	}
	down, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var once sync.Once
	var first error
	var group errgroup.Group
	group.SetLimit(workers)
	for i, job := range jobs {
		group.Go(func() error {
			if down.Err() != nil {
				return nil
			}
			err := job(down)
			if err == nil {
				left[i] = false
				return nil
			}
			once.Do(func() { first = err })
			if kind := fleet.KindOf(err); kind == fleet.Unavailable || errors.Is(err, context.DeadlineExceeded) {
				giveUp()
			}
			return nil
		})
	}
	_ = group.Wait() // its functions return no errors
	return left, first
}

// remove deletes a client at the issuer, unless a device has it.
func (s *Service) remove(ctx context.Context, clientID string) error {
	if ref, ok := s.dir.ByClientID(clientID); ok { // a device of the same key was made since
		if err := s.store.Tx(ctx, func(q Queries) error {
			if _, err := q.DeleteRemoval(ctx, clientID); err != nil {
				return err
			}
			return q.SetClientStale(ctx, ref.ID, true)
		}); fleet.KindOf(err) != fleet.NotFound {
			return err
		}
	}
	call, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	if err := s.issuer.Delete(call, clientID); err != nil {
		s.issuing.failures.WithLabelValues("removal").Inc()
		return err
	}
	// Who is just making a device of that name finds the note gone, and fails;
	// unless it was quicker, and lost its client.
	return s.store.Tx(ctx, func(q Queries) error {
		_, err := q.DeleteRemoval(ctx, clientID)
		if ref, ok := s.dir.ByClientID(clientID); ok && err == nil {
			if err = q.SetClientStale(ctx, ref.ID, true); fleet.KindOf(err) == fleet.NotFound {
				err = nil
			}
		}
		return err
	})
}

// ReconcileOptions says what a reconciliation does beyond the usual.
type ReconcileOptions struct {
	// DeleteOrphans deletes clients of no device whose description is
	// ClientDescription. Others of no device are left alone in any case.
	DeleteOrphans bool
}

// ReconcileReport is what a reconciliation found, by client ids. Lists are
// sorted and never nil.
type ReconcileReport struct {
	Devices int // that there are
	Clients int // of devices, at the issuer

	Created []string // were missing
	Changed []string // were other than their device says
	Orphans []string // are of no device, and were left alone
	Removed []string // are being deleted
	Failed  []string // could not be made right; it is tried again
}

// Reconcile compares the clients at the issuer with the devices, and mends what
// differs. It asks the issuer for all of them at once. Errors: fleet.External
// when the issuer cannot be asked.
func (s *Service) Reconcile(ctx context.Context, o ReconcileOptions) (ReconcileReport, error) {
	report := ReconcileReport{Created: []string{}, Changed: []string{}, Orphans: []string{}, Removed: []string{}, Failed: []string{}}
	if s.issuer == nil {
		return report, errNoIssuer
	}
	clients := make(map[string]Client)
	for c, err := range s.issuer.Clients(ctx) {
		if err != nil {
			return report, atIssuer(ctx, "compare the clients", err)
		}
		if _, _, ok := fleet.ParseClientID(c.ID); ok {
			clients[c.ID] = c
		}
	}
	// Read after the clients, so that a client without a device is not one
	// whose device is being made: that one is noted in the removals.
	removals, err := s.store.Removals(ctx)
	if err != nil {
		return report, err
	}
	noted := make(map[string]bool, len(removals))
	for _, r := range removals {
		noted[r.ClientID] = true
	}
	devices, err := s.store.Devices(ctx, DeviceFilter{})
	if err != nil {
		return report, err
	}
	report.Devices, report.Clients = len(devices), len(clients)
	var jobs []func(context.Context) error
	var names []string
	var missing []bool
	for n := range devices {
		d := &devices[n]
		want := clientOf(d)
		have, exists := clients[want.ID]
		delete(clients, want.ID)
		if have == want {
			continue
		}
		jobs = append(jobs, func(ctx context.Context) error { return s.settle(ctx, d.ID) })
		names, missing = append(names, want.ID), append(missing, !exists)
	}
	left, err := s.each(ctx, jobs)
	if err != nil {
		s.log.WarnContext(ctx, "not all clients could be made right at the issuer", "err", err)
	}
	for n, name := range names {
		switch {
		case left[n]:
			report.Failed = append(report.Failed, name)
		case missing[n]:
			report.Created = append(report.Created, name)
		default:
			report.Changed = append(report.Changed, name)
		}
	}
	s.issuing.mended.Add(float64(len(report.Created) + len(report.Changed)))
	for id, c := range clients {
		switch {
		case noted[id]:
			report.Removed = append(report.Removed, id)
		case o.DeleteOrphans && c.Description == ClientDescription:
			if err := s.store.Tx(ctx, func(q Queries) error { return q.PutRemoval(ctx, id, s.clock()) }); err != nil {
				return report, err
			}
			report.Removed = append(report.Removed, id)
		default:
			report.Orphans = append(report.Orphans, id)
		}
	}
	s.issuing.orphans.Set(float64(len(report.Orphans)))
	for _, list := range [][]string{report.Created, report.Changed, report.Orphans, report.Removed, report.Failed} {
		slices.Sort(list)
	}
	if len(report.Failed)+len(report.Removed) > 0 {
		s.wakeUp()
	}
	if n := len(report.Created) + len(report.Changed) + len(report.Failed); n > 0 || len(report.Orphans) > 0 {
		s.log.InfoContext(ctx, "compared the devices with their clients at the issuer", "devices", report.Devices, "clients", report.Clients,
			"created", len(report.Created), "changed", len(report.Changed), "removed", len(report.Removed),
			"failed", len(report.Failed), "orphans", len(report.Orphans))
	}
	return report, nil
}
