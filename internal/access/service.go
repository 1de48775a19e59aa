package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
)

// Options is what a Service is made of.
type Options struct {
	Store      Store
	Log        *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // nil: the metrics are nowhere to be seen
	Now        func() time.Time      // nil: time.Now

	SessionIdle  time.Duration // a session that is not used for so long ends; 0: 12 hours
	SessionMax   time.Duration // a session ends after so long in any case; 0: 30 days
	AuditMaxAge  time.Duration // events that are older are deleted; 0: none are
	PollInterval time.Duration // how often changes by other processes are looked for; 0: 250 ms
}

const (
	usualIdle  = 12 * time.Hour
	usualMax   = 30 * 24 * time.Hour
	usualPoll  = 250 * time.Millisecond
	housework  = time.Minute     // how often uses are stored and what is over is deleted
	lastWrites = 5 * time.Second // how long Run takes at most to store the last uses
)

// Service keeps people, sessions, API tokens, revocations and the audit. It
// holds all but the audit in memory as well, so that telling who somebody is
// asks no database; what another process changes it sees within PollInterval.
//
// Of the secrets of sessions and tokens only the SHA-256 is kept, and it is what
// they are looked up by. How long that takes says nothing about a secret: who
// guesses cannot choose how much of a hash is right.
type Service struct {
	opts    Options
	log     *slog.Logger
	now     func() time.Time
	cost    cost // of new passwords
	hashers hashers
	guesses guesses
	metrics metrics
	late    late
	setup   string // secret of the set-up link

	// turn is held by who changes something, in the store and in memory, and mu
	// while it is changed in memory: see state.
	turn chan struct{}
	mu   sync.RWMutex
	st   *state

	observers struct {
		sync.Mutex
		list []func()
	}
}

// New returns a service and loads it.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.SessionIdle <= 0 {
		o.SessionIdle = usualIdle
	}
	if o.SessionMax <= 0 {
		o.SessionMax = usualMax
	}
	if o.PollInterval <= 0 {
		o.PollInterval = usualPoll
	}
	l, err := o.Store.LoadAccess(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	s := &Service{opts: o, log: o.Log, cost: usualCost, hashers: newHashers(), setup: randomText(), turn: make(chan struct{}, 1), st: newState(l)}
	// Times go through the store, which knows microseconds.
	s.now = func() time.Time { return o.Now().UTC().Truncate(time.Microsecond) }
	s.metrics = newMetrics(o.Registerer, s)
	return s, nil
}

// Run looks for changes of others, notes when sessions and tokens were used,
// and deletes what is over, until ctx ends. It returns nil then.
func (s *Service) Run(ctx context.Context) error {
	poll := time.NewTicker(s.opts.PollInterval)
	defer poll.Stop()
	house := time.NewTicker(housework)
	defer house.Stop()
	silent := false // the store does not answer, which was logged
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrites)
			defer cancel()
			s.recordLate(last)
			if err := s.noteUses(last); err != nil {
				s.log.Warn("when sessions and tokens were used last could not be stored", "err", err)
			}
			return nil
		case <-poll.C:
			s.recordLate(ctx)
			err := s.reload(ctx)
			if err != nil && ctx.Err() == nil && !silent {
				s.log.Warn("changes of people and tokens by other processes cannot be seen", "err", err)
			} else if err == nil && silent {
				s.log.Info("changes of people and tokens by other processes are seen again")
			}
			silent = err != nil
		case <-house.C:
			if err := errors.Join(s.noteUses(ctx), s.sweep(ctx), s.forgetEvents(ctx)); err != nil && ctx.Err() == nil {
				s.log.Warn("sessions and audit could not be tidied up; the next try is in a minute", "err", err)
			}
		}
	}
}

// usesAtOnce is how many uses are stored in one transaction, which others wait for.
const usesAtOnce = 500

// noteUses stores when people, sessions and tokens were used.
func (s *Service) noteUses(ctx context.Context) error {
	type noted struct {
		Use
		done func()
	}
	var all []noted
	extended := false // some session of Signalbox's own has an end that is not stored
	s.mu.RLock()
	for _, p := range s.st.people {
		if at := p.seen.Load(); at > p.noted.Load() {
			all = append(all, noted{Use{Person: p.ID, At: time.UnixMicro(at)}, func() { later(&p.noted, at) }})
		}
	}
	for _, x := range s.st.sessions {
		at := x.seen.Load()
		own := x.Hash != ""
		extended = extended || own && x.extended.Load() != 0
		if at <= x.noted.Load() {
			continue
		}
		u := Use{Session: x.ID, At: time.UnixMicro(at)}
		if !own { // it is thought to go on while it is used
			u.Expires = u.At.Add(s.opts.SessionMax)
		}
		all = append(all, noted{u, func() {
			later(&x.noted, at)
			if !own {
				later(&x.extended, u.Expires.UnixMicro())
			}
		}})
	}
	for _, t := range s.st.tokens {
		if at := t.seen.Load(); at > t.noted.Load() {
			all = append(all, noted{Use{Token: t.ID, At: time.UnixMicro(at)}, func() { later(&t.noted, at) }})
		}
	}
	s.mu.RUnlock()
	for len(all) > 0 {
		part := all[:min(len(all), usesAtOnce)]
		all = all[len(part):]
		uses := make([]Use, len(part))
		for i, n := range part {
			uses[i] = n.Use
		}
		if err := s.opts.Store.NoteUses(ctx, uses); err != nil {
			return unavailable(err)
		}
		for _, n := range part {
			n.done()
		}
	}
	if !extended {
		return nil
	}
	// Ends that were moved ahead while the store was away. Other processes have to
	// see them, so it is a change.
	return s.change(ctx, func(c *change) error {
		c.quiet = true
		for _, x := range c.st.sessions {
			if end := x.extended.Load(); end != 0 && x.Hash != "" {
				r := x.StoredSession
				r.SeenAt, r.ExpiresAt = time.UnixMicro(x.seen.Load()).UTC(), time.UnixMicro(end).UTC()
				if err := c.extendSession(r); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// keepOver is how long what is over is kept, so that who comes with it is told
// that it is over rather than that it never was; sweepAtOnce bounds a transaction.
const (
	keepOver    = 24 * time.Hour
	sweepAtOnce = 500
)

// sweep deletes sessions, tokens and revocations that are over.
func (s *Service) sweep(ctx context.Context) error {
	for more := s.anyOver(); more; {
		err := s.change(ctx, func(c *change) error {
			c.quiet = true
			n := 0
			left := func() bool { n++; return n <= sweepAtOnce }
			over := c.now.Add(-keepOver)
			for id, x := range c.st.sessions {
				if !x.end().After(over) && left() {
					if err := c.deleteSession(id); err != nil {
						return err
					}
				}
			}
			for id, t := range c.st.tokens {
				if !t.ExpiresAt.After(over) && left() {
					if err := c.deleteToken(id); err != nil {
						return err
					}
				}
			}
			for key, r := range c.st.revoked {
				if !r.Until.After(over) && left() {
					if err := c.deleteRevocation(key); err != nil {
						return err
					}
				}
			}
			more = n > sweepAtOnce
			if n == 0 {
				return errNothing
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) anyOver() bool {
	over := s.now().Add(-keepOver)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, x := range s.st.sessions {
		if !x.end().After(over) {
			return true
		}
	}
	for _, t := range s.st.tokens {
		if !t.ExpiresAt.After(over) {
			return true
		}
	}
	for _, r := range s.st.revoked {
		if !r.Until.After(over) {
			return true
		}
	}
	return false
}

// OnChange has f called after each change of what somebody may, wherever it was
// made: who holds something open for a principal asks Check again. f must be
// quick. It is called by who made the change, or by Run.
func (s *Service) OnChange(f func()) {
	s.observers.Lock()
	defer s.observers.Unlock()
	s.observers.list = append(s.observers.list, f)
}

// HasPeople reports whether there is anybody who could log in with a password.
func (s *Service) HasPeople() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.st.local > 0
}

// randomText returns 256 random bits as text.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// hashOf returns what is kept of a secret, for the store.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func unhex(s string) (sum [32]byte, ok bool) {
	if len(s) != hex.EncodedLen(len(sum)) {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(s))
	return sum, err == nil
}

// clean makes a text of somebody's fit for any store, and not longer than most
// bytes.
func clean(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
	for len(s) > most {
		cut := most
		for cut > 0 && s[cut]&0xc0 == 0x80 { // within a character
			cut--
		}
		s = s[:cut]
	}
	return s
}

func (c Client) clean() Client { return Client{clean(c.Address, 64), clean(c.Agent, 200)} }

// pointer returns the time of an atomic, nil for 0.
func pointer(micros int64) *time.Time {
	if micros == 0 {
		return nil
	}
	t := time.UnixMicro(micros).UTC()
	return &t
}

// notFound is the error for an account, session or token that is not there.
func notFound(thing string, id any) error { return fleet.ErrNotFound(thing, id) }
