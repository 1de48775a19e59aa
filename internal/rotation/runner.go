package rotation

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// Options is what a Runner is made of.
type Options struct {
	Store    Store
	Issuer   Issuer
	Notifier Notifier
	Box      *secret.Box // seals the secrets
	Policy   Policy      // Dual is the Issuer's
	InFlight int         // devices that may be given a new secret at once; 0 is 1

	// SilentAfter is how long a device that was told, and does not come, keeps its
	// slot; 0 is 20 s.
	SilentAfter time.Duration

	// Sole says that no other process works on the store. What one is at, others
	// leave alone until it is taken to be dead; without others there is no wait, nor
	// for the lease of one that was killed.
	Sole bool

	EffectTimeout time.Duration // of what is done outside, at once; 0 is 30 s
	Backoff       time.Duration // after the first failure of that, then twice as long each time; 0 is 1 s
	BackoffMax    time.Duration // the longest of that; 0 is 10 min
	Tries         int           // that fail before a device is stuck; 0 is 8
	Poll          time.Duration // how often timers and other processes are looked after; 0 is 250 ms
	Lease         time.Duration // of the runner that does so; 0 is 10 s

	Observe    func(News) // is called after each commit, in order for each device; nil is nobody
	Registerer prometheus.Registerer
	Log        *slog.Logger
	Now        func() time.Time // nil: time.Now
}

// holdSpare is for how much longer a device is held than what is done for it may
// take, so that it surely is over when another process goes on.
const holdSpare = 15 * time.Second

const (
	workers    = 32               // devices that the timers look after at once
	countEvery = 15 * time.Second // the gauge of devices
	busyWait   = 5 * time.Second  // for which a request waits for another process
)

// Runner carries rotations out. What an event makes of a device, and what is to
// be done about it, is committed first; then that is done, and done again until
// it succeeded, by this process or another. All its methods may be called by any
// number of goroutines.
type Runner struct {
	opts   Options
	holder string
	turns  fleet.Turns[int64] // by device
	wake   chan struct{}

	attempts *prometheus.CounterVec
	devices  *prometheus.GaugeVec
	proof    prometheus.Histogram
}

// NewRunner returns a Runner. Requests of devices and people are answered at once; for
// timers and the queue one process must call Run.
func NewRunner(o Options) *Runner {
	o.Policy.Dual = o.Issuer.Dual()
	o.InFlight, o.Tries = cmp.Or(o.InFlight, 1), cmp.Or(o.Tries, 8)
	o.EffectTimeout, o.Poll, o.Lease = cmp.Or(o.EffectTimeout, 30*time.Second), cmp.Or(o.Poll, 250*time.Millisecond), cmp.Or(o.Lease, 10*time.Second)
	o.SilentAfter = cmp.Or(o.SilentAfter, 20*time.Second)
	o.Backoff, o.BackoffMax = cmp.Or(o.Backoff, time.Second), cmp.Or(o.BackoffMax, 10*time.Minute)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runner{
		opts: o, holder: rand.Text(), wake: make(chan struct{}, 1),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_rotation_attempts_total",
			Help: "Rotations of a device's credential, by what became of them. One that was done after its time-out counts as both."}, []string{"outcome"}),
		devices: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "iot_rotation_devices",
			Help: "Devices by the state of their rotation, as of the process that runs the timers."}, []string{"state"}),
		proof: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "iot_rotation_proof_seconds",
			Help:    "Time from the start of an attempt until the device used its new secret.",
			Buckets: []float64{1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 6 * 3600, 24 * 3600}}),
	}
	for _, outcome := range []Outcome{Done, Believed, TimedOut, Aborted} {
		r.attempts.WithLabelValues(string(outcome))
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(r.attempts, r.devices, r.proof)
	}
	return r
}

// Ask says who asked for a rotation, and why.
type Ask struct {
	Actor, Reason string
	Campaign      int64 // 0: none
}

// Queue asks for a rotation of a device and reports whether it was queued now.
// It is not if it is queued already or in an attempt, or if it timed out and no
// person asks. Urgent ones come before others. fleet.Invalid: it is revoked.
func (r *Runner) Queue(ctx context.Context, device int64, person, urgent bool, by Ask) (queued bool, err error) {
	revoked := false
	_, err = r.handle(ctx, device, func(rec *Record) Event {
		queued = false
		if revoked = rec.Revoked; revoked {
			return nil
		}
		s, _ := r.opts.Policy.Step(rec.State, Queue{Person: person}, r.now())
		if s.Wire != fleet.RotationQueued || rec.State.Wire == fleet.RotationQueued {
			return nil
		}
		queued = true
		rec.Actor, rec.Reason, rec.Campaign, rec.Urgent = by.Actor, by.Reason, by.Campaign, urgent
		if person && rec.Stuck { // a person looked at it
			rec.Tries, rec.Stuck = 0, false
		}
		return Queue{Person: person}
	})
	if err == nil && revoked {
		err = fleet.E(fleet.Invalid, nil, "The device is revoked")
	}
	return queued && err == nil, err
}

// Hold has the attempt of a device wait until the device is restored, as it was
// revoked. What it has and what it may have stay as they are.
func (r *Runner) Hold(ctx context.Context, device int64) error {
	_, err := r.handle(ctx, device, func(rec *Record) Event {
		if !rec.Revoked {
			return nil
		}
		return Hold{}
	})
	return err
}

// Reset gives a device a fresh secret at once, as the only one: for a device whose
// secret is lost or known to others. Package returns it. Whatever it had
// before is destroyed, also if Reset could not do so at once.
// fleet.Unavailable: the issuer does not have it yet, and is asked again.
func (r *Runner) Reset(ctx context.Context, device int64, by Ask) error {
	_, err := r.handle(ctx, device, func(rec *Record) Event {
		rec.Actor, rec.Reason, rec.Campaign, rec.Urgent = by.Actor, by.Reason, 0, false
		rec.TodoAt, rec.Tries, rec.Trouble, rec.Stuck = time.Time{}, 0, "", false // what was to be done is not any more
		return Reset{}
	})
	if err != nil {
		return err
	}
	rec, err := r.opts.Store.Rotation(ctx, device)
	if err == nil && rec.State.Resetting {
		err = fleet.E(fleet.Unavailable, nil, "The new secret of the device is not in force yet; it is tried again")
	}
	return err
}

// Package returns the secret to put into a device by hand, by the rules of
// Policy.Package. It changes nothing. A device of the same name that goes on
// with what it has may end what is in the package: Reset has it end at once.
func (r *Runner) Package(ctx context.Context, device int64) (string, error) {
	for range 10 {
		rec, err := r.opts.Store.Rotation(ctx, device)
		if err != nil {
			return "", err
		}
		if r.opts.Policy.Package(rec.State) == New {
			return r.open(&rec, rec.New)
		}
		text, err := r.old(ctx, &rec)
		if err != nil {
			return "", err
		}
		// What the issuer said is of this state if the state is the same still.
		again, err := r.opts.Store.Rotation(ctx, device)
		if err != nil || again.Version == rec.Version {
			return text, err
		}
	}
	return "", fleet.E(fleet.Unavailable, nil, "The rotation of the device changes too fast")
}

// old returns the secret that a device has which has no other.
func (r *Runner) old(ctx context.Context, rec *Record) (string, error) {
	if rec.State.Step != Idle && rec.Old != "" {
		return r.open(rec, rec.Old)
	}
	return r.opts.Issuer.Secret(ctx, rec.ClientID)
}

// Abort ends the attempt of a device, or takes it from the queue. An attempt
// whose new secret is proven is finished all the same.
func (r *Runner) Abort(ctx context.Context, device int64) error {
	_, err := r.handle(ctx, device, func(*Record) Event { return Abort{} })
	return err
}

// Retry does at once what failed before: a person looked at it.
func (r *Runner) Retry(ctx context.Context, device int64) error {
	unlock, rec, err := r.take(ctx, device)
	if err != nil {
		return err
	}
	defer unlock()
	if rec.TodoAt.IsZero() {
		return nil
	}
	rec.Tries, rec.Stuck = 0, false
	return r.resume(context.WithoutCancel(ctx), &rec)
}

// Fetch returns the secret that a device is to use, which came with a token of
// these claims. fleet.Unavailable: it may ask again.
func (r *Runner) Fetch(ctx context.Context, device int64, claims fleet.DeviceClaims) (string, error) {
	answer, err := r.handle(ctx, device, func(*Record) Event { return Fetch{IssuedAt: clean(claims.IssuedAt)} })
	if err != nil && fleet.KindOf(err) == fleet.TooMany { // it was silent for too long, and others are at it now
		return r.handle(ctx, device, func(rec *Record) Event {
			rec.Urgent = rec.Urgent || rec.State.FetchedAt.IsZero() // it is next
			return Postpone{IssuedAt: clean(claims.IssuedAt)}
		})
	}
	return answer, err
}

// Seen learns from a token of these claims that a device came with for anything
// but its secret.
func (r *Runner) Seen(ctx context.Context, device int64, claims fleet.DeviceClaims) error {
	_, err := r.handle(ctx, device, func(rec *Record) Event {
		switch claims.Credential {
		case "":
			return Token{IssuedAt: clean(claims.IssuedAt)}
		case rec.NewName:
			return Used{Secret: New}
		case rec.OldName:
			return Used{Secret: Old}
		}
		return nil
	})
	return err
}

// Prove learns which secret a device has from an HMAC-SHA256 (RFC 2104) over a
// nonce, keyed with the text of the secret. The caller sees to it that the nonce
// was ours and is used once. fleet.Forbidden: it is of neither.
func (r *Runner) Prove(ctx context.Context, device int64, nonce, mac []byte) error {
	known := false
	var failed error // to get to know the secret
	_, err := r.handle(ctx, device, func(rec *Record) Event {
		failed = nil
		for _, of := range []struct {
			which  Which
			sealed string
		}{{New, rec.New}, {Old, rec.Old}} {
			text, err := r.open(rec, of.sealed)
			if of.which == Old && (rec.State.Step == Idle || of.sealed == "") { // the issuer knows better, as for GiveOld
				text, err = r.opts.Issuer.Secret(ctx, rec.ClientID)
			}
			if err != nil {
				failed = err
			}
			if err != nil || text == "" {
				continue
			}
			h := hmac.New(sha256.New, []byte(text))
			h.Write(nonce)
			if hmac.Equal(h.Sum(nil), mac) {
				known = true
				return Used{Secret: of.which}
			}
		}
		return nil
	})
	if err == nil && !known && failed != nil {
		return failed
	}
	if err == nil && !known {
		err = fleet.E(fleet.Forbidden, nil, "The proof is of no secret of the device")
	}
	return err
}

// Remind tells a device again that there is a secret to be fetched, if there is.
func (r *Runner) Remind(ctx context.Context, device int64) error {
	unlock, rec, err := r.take(ctx, device)
	if err != nil {
		return err
	}
	defer unlock()
	if !apt(Tell, rec.State) {
		return nil
	}
	if err := r.opts.Notifier.Remind(ctx, device, rec.ClientID, rec.State.Attempt); err != nil {
		return err
	}
	// Another process may have ended the attempt, and taken the notice back, before
	// this one came to the broker, where it would lie until the next attempt ends.
	now, err := r.opts.Store.Rotation(ctx, device)
	if err != nil || now.State.Wire == fleet.RotationPending {
		return err
	}
	return r.opts.Notifier.Clear(ctx, device, rec.ClientID)
}

// handle gives an event to a device and does what follows from it. event gets the
// record as it is, which it may change; nil is no event. It returns the secret
// that the device is answered with, if it is.
func (r *Runner) handle(ctx context.Context, device int64, event func(*Record) Event) (answer string, err error) {
	for range 10 {
		if answer, err = r.handleOnce(ctx, device, event); fleet.KindOf(err) != fleet.Exists || err == nil {
			return answer, err
		}
	}
	return "", fleet.E(fleet.Unavailable, err, "The rotation of the device changes too fast")
}

func (r *Runner) handleOnce(ctx context.Context, device int64, event func(*Record) Event) (string, error) {
	unlock, rec, err := r.take(ctx, device)
	if err != nil {
		return "", err
	}
	defer unlock()
	e := event(&rec)
	if e == nil {
		return "", nil
	}
	todo, give, err := r.commit(ctx, &rec, e, nil, 0)
	if err != nil {
		return "", err
	}
	var answer string
	switch {
	case give == GiveNew:
		answer, err = r.open(&rec, rec.New)
	case give == GiveOld:
		answer, err = r.old(ctx, &rec)
	case give == Refuse:
		err = fleet.E(fleet.Unauthenticated, nil, "The token is from before the device was given a new secret")
	}
	if err != nil {
		return "", err
	}
	// It is done to its end, whoever still waits for it.
	err = r.perform(context.WithoutCancel(ctx), &rec, todo)
	if give == GiveNew && rec.State.Switching {
		if err == nil {
			err = fleet.E(fleet.Unavailable, nil, "The new secret is not ready")
		}
		return "", err
	}
	if err != nil { // it is committed, and will be done: for who asked, it is
		r.opts.Log.WarnContext(ctx, "a rotation does not get on", "client_id", rec.ClientID, "err", err)
	}
	return answer, nil
}

// take locks a device and returns its record. A process that is at it is waited
// for, for a while.
func (r *Runner) take(ctx context.Context, device int64) (unlock func(), rec Record, err error) {
	unlock, err = r.turns.Take(ctx, device)
	if err != nil {
		return nil, rec, err
	}
	for end := r.opts.Now().Add(busyWait); ; {
		rec, err = r.opts.Store.Rotation(ctx, device)
		if err == nil && !r.busy(&rec) {
			return unlock, rec, nil
		}
		if err == nil && !r.opts.Now().Before(end) {
			err = fleet.E(fleet.Unavailable, nil, "The rotation of the device is being worked on")
		}
		if err == nil {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
		if err != nil {
			unlock()
			return nil, rec, err
		}
	}
}

// busy reports whether another process is at it. One that holds it for longer than
// any does had a wrong clock, and may be dead.
func (r *Runner) busy(rec *Record) bool {
	left := rec.HeldUntil.Sub(r.now())
	return !r.opts.Sole && rec.Holder != "" && rec.Holder != r.holder && left > 0 && left <= 10*(r.opts.EffectTimeout+holdSpare)
}

// commit stores what an event makes of a record, which may be nil for none. left
// is what was to be done before, and done what of it was just done, 0 for nothing.
// It returns what is to be done outside, and how the device is answered, 0 for not. When it fails
// the record is of no use any more. fleet.TooMany: there is no slot for it.
func (r *Runner) commit(ctx context.Context, rec *Record, e Event, left []Effect, done Effect) (todo []Effect, give Effect, err error) {
	now, performing := r.now(), done != 0
	before := *rec
	var effects []Effect
	if e != nil {
		rec.State, effects = r.opts.Policy.Step(rec.State, e, now)
	}
	promoted := false
	todo = slices.Clone(left)
	for _, f := range effects {
		switch f {
		case Promote:
			rec.Old, rec.OldName, rec.New, rec.NewName = rec.New, rec.NewName, "", ""
			rec.SecretAt, rec.NewAt, promoted = rec.NewAt, time.Time{}, true
		case Generate:
			if !promoted { // a person may have given it another one meanwhile
				rec.Old, rec.OldName = "", ""
			}
			rec.New, rec.NewName, rec.NewAt = r.seal(rec, secret.NewText()), "", now
		case GiveNew, GiveOld, Refuse:
			give = f
		case Announce: // each commit is
		default:
			todo = append(todo, f)
		}
	}
	if len(todo) > len(left) && !performing && left == nil && !rec.TodoAt.IsZero() {
		todo = append(r.opts.Policy.Unfinished(rec.State), todo...) // what failed before comes along
	}
	var fit []Effect
	for _, f := range todo {
		if apt(f, rec.State) && !slices.Contains(fit, f) {
			fit = append(fit, f)
		}
	}
	todo = fit
	switch {
	case len(todo) > 0:
		rec.Holder, rec.HeldUntil = r.holder, now.Add(r.opts.EffectTimeout+holdSpare)
		rec.TodoAt = rec.HeldUntil
		if performing {
			rec.Tries, rec.Trouble, rec.Stuck = 0, "", false
		}
	case performing || len(r.opts.Policy.Unfinished(rec.State)) == 0:
		rec.Holder, rec.HeldUntil, rec.TodoAt = "", time.Time{}, time.Time{}
		rec.Tries, rec.Trouble, rec.Stuck = 0, "", false
	}
	rec.SlotUntil = r.slot(rec, done == Tell && e == nil, now)
	if *rec == before && e != nil && len(todo) == 0 {
		return nil, give, nil // it means nothing
	}
	c := Change{Due: rec.Due(r.opts.Policy), Now: now}
	outcome := r.history(&c, &before, rec, e, now)
	if done == Tell && e == nil {
		c.Entries = append(c.Entries, Entry{At: now, What: "told"})
	}
	if rec.SlotUntil.After(now) && !before.SlotUntil.After(now) {
		c.Slots = r.opts.InFlight
	}
	err = r.store(ctx, rec, c)
	if err != nil && fleet.KindOf(err) == fleet.TooMany && !needsSlot(&before, e) {
		rec.SlotUntil, c.Slots = time.Time{}, 0
		err = r.store(ctx, rec, c)
	}
	if err != nil {
		return nil, 0, err
	}
	if outcome != Running {
		r.attempts.WithLabelValues(string(outcome)).Inc()
	}
	if before.State.Step != Proven && rec.State.Step == Proven && !rec.State.Resetting {
		r.proof.Observe(now.Sub(rec.State.StartedAt).Seconds())
	}
	r.tell(&before, rec)
	r.hurry()
	return todo, give, nil
}

// needsSlot reports whether an event must not take effect without a slot: it
// leads to a new secret in the hands of a device that has none so far.
func needsSlot(before *Record, e Event) bool {
	switch e.(type) {
	case Start:
		return true
	case Fetch:
		return before.State.FetchedAt.IsZero()
	}
	return false
}

// slot returns until when a record holds a slot: while the provider makes its new
// secret, for a while from when the device was told, and from when it asked until
// it used the new secret or its time is up. Whoever does not come is in no danger,
// and need not be waited for.
func (r *Runner) slot(rec *Record, told bool, now time.Time) time.Time {
	s := rec.State
	switch {
	case s.Wire != fleet.RotationPending || rec.Campaign != 0 || rec.Stuck, s.Step == Proven && !s.Settling:
		return time.Time{}
	case s.Step == Proven: // it gets another one at once
		return now.Add(r.opts.Policy.Timeout)
	case s.Step == Offered && !s.Asked && told:
		return earlier(now.Add(r.opts.SilentAfter), s.Deadline)
	case s.Step == Offered && !s.Asked && rec.TodoAt.IsZero(): // it was told before
		return rec.SlotUntil
	}
	return s.Deadline
}

func (r *Runner) store(ctx context.Context, rec *Record, c Change) error {
	c.Record = *rec
	version, err := r.opts.Store.CommitRotation(ctx, c)
	if err != nil {
		return err
	}
	rec.Version = version
	return nil
}

func (r *Runner) tell(before, rec *Record) {
	a, b := before.State, rec.State
	if r.opts.Observe == nil || a.Wire == b.Wire && a.Step == b.Step && a.Attempt == b.Attempt && a.FetchedAt.IsZero() == b.FetchedAt.IsZero() && a.Believed == b.Believed && before.Stuck == rec.Stuck {
		return
	}
	r.opts.Observe(News{
		Device: rec.Device, ClientID: rec.ClientID, From: cmp.Or(a.Wire, fleet.RotationOK), To: cmp.Or(b.Wire, fleet.RotationOK),
		Step: b.Step, Attempt: b.Attempt, Stuck: rec.Stuck,
	})
}

// apt reports whether there is still a reason to do it.
func apt(f Effect, s State) bool {
	switch f {
	case Create:
		return s.Step == Creating
	case Switch:
		return s.Switching
	case Destroy:
		return s.Step == Proven
	case Tell:
		return s.Step == Offered && s.Wire == fleet.RotationPending && !s.Asked
	case Clear:
		return unread(s)
	}
	return false
}

// history adds to c what happened between the records, and returns how the
// attempt ended if it did.
func (r *Runner) history(c *Change, before, rec *Record, e Event, now time.Time) Outcome {
	a, b := before.State, rec.State
	add := func(what, detail string) { c.Entries = append(c.Entries, Entry{At: now, What: what, Detail: detail}) }
	put := func(o Outcome) Outcome {
		c.Attempt = &Attempt{Number: b.Attempt, Actor: rec.Actor, Reason: rec.Reason, Campaign: rec.Campaign, StartedAt: b.StartedAt, Outcome: o}
		if o != Running {
			c.Attempt.EndedAt = now
		}
		return o
	}
	if b.Attempt == 0 {
		return Running
	}
	_, reset := e.(Reset)
	switch {
	case reset:
		put(Running)
		add("reset", "")
		if a.Wire == fleet.RotationPending || a.Postponed { // that one is over
			c.Ended = &Attempt{Number: a.Attempt, StartedAt: a.StartedAt, EndedAt: now, Outcome: Aborted}
			r.attempts.WithLabelValues(string(Aborted)).Inc()
		}
		return Running
	case b.Attempt != a.Attempt:
		put(Running)
		add("started", "")
	}
	if a.Postponed && b.Wire == fleet.RotationPending {
		add("started", "its turn again")
	}
	if b.Step == Offered && a.Step != Offered {
		add("offered", "")
	}
	if a.FetchedAt.IsZero() && !b.FetchedAt.IsZero() {
		add("fetched", "")
	}
	if b.Postponed && !a.Postponed {
		why := "others are at it"
		if _, ok := e.(Hold); ok {
			why = "the device is revoked"
		}
		add("postponed", why)
	}
	if s, ok := e.(Switched); ok && a.Switching && !b.Switching && b.Wire == fleet.RotationPending {
		add("switched", map[Which]string{Old: "to the old secret", New: "to the new secret"}[s.To])
	}
	if b.Step == Proven && a.Step != Proven {
		add("proven", "")
		if a.Wire == fleet.RotationTimeout {
			put(Running) // it came late
		}
	}
	if b.Believed && !a.Believed {
		add("believed", "")
		return put(Believed)
	}
	if a.Step == Proven && b.Step != Proven {
		if a.Resetting {
			add("withdrawn", "all other secrets")
		} else {
			add("withdrawn", "the old secret")
		}
		if a.Believed || !a.Settling {
			return put(Done)
		}
	}
	switch _, aborted := e.(Abort); {
	case aborted && (a.Wire == fleet.RotationPending || a.Postponed) && b.Wire != a.Wire:
		add("aborted", "")
		return put(Aborted)
	case b.Wire == fleet.RotationTimeout && a.Wire == fleet.RotationPending:
		add("timed out", "")
		return put(TimedOut)
	}
	return Running
}

// perform does what is to be done, and commits each success.
func (r *Runner) perform(ctx context.Context, rec *Record, todo []Effect) error {
	for len(todo) > 0 {
		f := todo[0]
		then, err := r.do(ctx, rec, f)
		if err != nil {
			return r.failed(ctx, rec, f, err)
		}
		if todo, _, err = r.commit(ctx, rec, then, todo[1:], f); err != nil {
			return err // it is held, and done again when that ends
		}
	}
	return nil
}

// do does one thing, and returns what it leads to.
func (r *Runner) do(ctx context.Context, rec *Record, f Effect) (Event, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.EffectTimeout)
	defer cancel()
	switch {
	case f == Tell && rec.Revoked:
		return Hold{}, nil
	case f == Tell:
		return nil, r.opts.Notifier.Tell(ctx, rec.Device, rec.ClientID, rec.State.Attempt)
	case f == Clear:
		return Cleared{}, r.opts.Notifier.Clear(ctx, rec.Device, rec.ClientID)
	}
	if rec.Old == "" && f != Destroy {
		// Nothing was changed at the issuer so far. What it has is what the device
		// has, and is kept before anything is.
		text, err := r.opts.Issuer.Secret(ctx, rec.ClientID)
		if err != nil {
			return nil, err
		}
		rec.Old = r.seal(rec, text)
		if err := r.store(ctx, rec, Change{Due: rec.Due(r.opts.Policy)}); err != nil {
			return nil, err
		}
	}
	old, err := r.open(rec, rec.Old)
	if err != nil {
		return nil, err
	}
	fresh, err := r.open(rec, rec.New)
	if err != nil {
		return nil, err
	}
	switch f {
	case Create:
		if rec.OldName, rec.NewName, err = r.opts.Issuer.Both(ctx, rec.ClientID, old, fresh); err != nil {
			return nil, err
		}
		return Created{}, nil
	case Switch:
		live := old
		if rec.State.Live == New {
			live = fresh
		}
		at, err := r.opts.Issuer.Only(ctx, rec.ClientID, live)
		if err != nil {
			return nil, err
		}
		return Switched{To: rec.State.Live, At: clean(at)}, nil
	case Destroy:
		at, err := r.opts.Issuer.Only(ctx, rec.ClientID, fresh)
		if err != nil {
			return nil, err
		}
		return Destroyed{At: clean(at)}, nil
	}
	return nil, fmt.Errorf("effect %d is none", f)
}

// failed keeps that something could not be done and is to be done again. It is
// never given up, as a device may depend on it; from some time on it is stuck.
func (r *Runner) failed(ctx context.Context, rec *Record, f Effect, cause error) error {
	before := *rec
	now := r.now()
	if ctx.Err() != nil { // we end, and whoever goes on need not wait
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		rec.Holder, rec.HeldUntil, rec.TodoAt = "", time.Time{}, now
		return errors.Join(cause, r.store(last, rec, Change{Due: rec.Due(r.opts.Policy)}))
	}
	_, rec.Trouble = fleet.Public(cause)
	rec.Tries++
	rec.Holder, rec.HeldUntil, rec.TodoAt = "", time.Time{}, now.Add(r.backoff(rec.Tries))
	rec.Stuck = rec.Tries >= r.opts.Tries && f != Clear // a notice that stays harms nobody
	if rec.Stuck {
		rec.SlotUntil = time.Time{}
	}
	c := Change{Due: rec.Due(r.opts.Policy)}
	name := map[Effect]string{Create: "create", Switch: "switch", Destroy: "withdraw", Tell: "tell", Clear: "clear"}[f]
	if rec.Tries == 1 {
		c.Entries = []Entry{{At: now, What: "failed", Detail: name + ": " + rec.Trouble}}
	}
	if rec.Stuck && !before.Stuck {
		c.Entries = append(c.Entries, Entry{At: now, What: "stuck", Detail: name + ": " + rec.Trouble})
		r.opts.Log.ErrorContext(ctx, "a rotation is stuck", "client_id", rec.ClientID, "effect", name, "err", cause)
	}
	if err := r.store(ctx, rec, c); err != nil {
		return err
	}
	r.tell(&before, rec)
	return cause
}

func (r *Runner) backoff(tries int) time.Duration {
	wait := r.opts.Backoff
	for range tries - 1 {
		if wait >= r.opts.BackoffMax/2 {
			return r.opts.BackoffMax
		}
		wait *= 2
	}
	return min(wait, r.opts.BackoffMax)
}

// resume does what is unfinished.
func (r *Runner) resume(ctx context.Context, rec *Record) error {
	todo, _, err := r.commit(ctx, rec, nil, r.opts.Policy.Unfinished(rec.State), 0)
	if err != nil {
		return err
	}
	return r.perform(ctx, rec, todo)
}

// tend looks after one device whose time has come, or, by force, whose work was
// left unfinished.
func (r *Runner) tend(ctx context.Context, device int64, force bool) error {
	unlock, err := r.turns.Take(ctx, device)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := r.opts.Store.Rotation(ctx, device)
	if fleet.KindOf(err) == fleet.NotFound && err != nil {
		return nil // it was deleted
	}
	if err != nil || r.busy(&rec) {
		return err
	}
	if r.bound(&rec) {
		if err := r.store(ctx, &rec, Change{Due: rec.Due(r.opts.Policy)}); err != nil {
			return err
		}
	}
	if now := r.now(); due(rec.TodoAt, now) || force && !rec.TodoAt.IsZero() {
		if err := r.resume(ctx, &rec); err != nil {
			// Time passes all the same, if the record is one still.
			if rec, err = r.opts.Store.Rotation(ctx, device); err != nil || r.busy(&rec) {
				return err
			}
		}
	}
	step := func(e Event) error {
		todo, _, err := r.commit(ctx, &rec, e, nil, 0)
		if err != nil {
			return err
		}
		return r.perform(ctx, &rec, todo)
	}
	if due(rec.State.Deadline, r.now()) && rec.Revoked { // it could do nothing meanwhile
		if err := step(Hold{}); err != nil {
			return err
		}
	}
	if due(r.opts.Policy.Wake(rec.State), r.now()) {
		if err := step(Tick{}); err != nil {
			return err
		}
	}
	if rec.State.Wire != fleet.RotationTimeout || !due(rec.State.RetryAt, r.now()) {
		return nil
	}
	if !rec.Active || rec.Revoked { // one that takes no part is tried again when a person says so
		rec.State.RetryAt = time.Time{}
		return r.store(ctx, &rec, Change{Due: rec.Due(r.opts.Policy)})
	}
	rec.Actor, rec.Reason, rec.Campaign, rec.Urgent = "", "again after a time-out", 0, false
	return step(Queue{})
}

// bound is Policy.Bounded for a record, and reports whether there was anything.
func (r *Runner) bound(rec *Record) bool {
	now, before := r.now(), *rec
	rec.State = r.opts.Policy.Bounded(rec.State, now)
	if most := max(r.opts.BackoffMax, r.opts.EffectTimeout+holdSpare); rec.TodoAt.Sub(now) > most {
		rec.TodoAt = now
	}
	if latest := now.Add(max(r.opts.Policy.Timeout, r.opts.SilentAfter)); rec.SlotUntil.After(latest) {
		rec.SlotUntil = latest
	}
	return *rec != before
}

func (r *Runner) hurry() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Runner) now() time.Time { return clean(r.opts.Now()) }

// clean makes a time as it is stored.
func clean(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}

func (r *Runner) seal(rec *Record, text string) string {
	return r.opts.Box.Seal(text, About(rec.Device))
}

func (r *Runner) open(rec *Record, sealed string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	text, err := r.opts.Box.Open(sealed, About(rec.Device))
	if err != nil {
		return "", fleet.E(fleet.Internal, err, "the secret cannot be read")
	}
	return text, nil
}

// About returns what the secrets of a device are sealed about.
func About(device int64) string { return fmt.Sprintf("rotation of device %d", device) }
