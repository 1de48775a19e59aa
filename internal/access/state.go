package access

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"signalbox/internal/fleet"
)

// state is everything but the audit, in memory. It is changed only by who holds
// Service.turn and Service.mu; who holds either may read.
type state struct {
	version   int64 // of the store, whose content this is
	people    map[int64]*person
	bySubject map[string]*person
	byName    map[string]*person // by username
	local     int                // how many people have a password

	sessions map[string]*session // by id
	opens    map[[32]byte]*session
	tokens   map[int64]*token
	unlocks  map[[32]byte]*token
	revoked  map[revokedKey]StoredRevocation
}

// A person, session or token is replaced as a whole when it changes, but for the
// times, which are microseconds since 1970.
type person struct {
	StoredPerson
	seen     atomic.Int64 // 0: never
	noted    atomic.Int64 // what of it the store knows
	sessions map[string]*session
	tokens   map[int64]*token
}

type session struct {
	StoredSession
	hash        [32]byte
	seen, noted atomic.Int64
	extended    atomic.Int64 // an end that could not be stored yet; 0: none
}

type token struct {
	StoredToken
	hash        [32]byte
	seen, noted atomic.Int64
}

type revokedKey struct{ subject, session string }

// newState returns the state that was loaded.
func newState(l Stored) *state {
	st := &state{
		version:   l.Version,
		people:    make(map[int64]*person, len(l.People)),
		bySubject: make(map[string]*person, len(l.People)),
		byName:    make(map[string]*person, len(l.People)),
		sessions:  make(map[string]*session, len(l.Sessions)),
		opens:     make(map[[32]byte]*session, len(l.Sessions)),
		tokens:    make(map[int64]*token, len(l.Tokens)),
		unlocks:   make(map[[32]byte]*token, len(l.Tokens)),
		revoked:   make(map[revokedKey]StoredRevocation, len(l.Revocations)),
	}
	for _, p := range l.People {
		st.putPerson(p)
	}
	for _, s := range l.Sessions {
		st.putSession(s)
	}
	for _, t := range l.Tokens {
		st.putToken(t)
	}
	for _, r := range l.Revocations {
		st.putRevocation(r)
	}
	return st
}

// remember takes over what old knows better: when something was used.
func (st *state) remember(old *state) {
	for id, was := range old.people {
		if p := st.people[id]; p != nil {
			later(&p.seen, was.seen.Load())
		}
	}
	for id, was := range old.tokens {
		if t := st.tokens[id]; t != nil {
			later(&t.seen, was.seen.Load())
		}
	}
	for id, was := range old.sessions {
		if s := st.sessions[id]; s != nil {
			later(&s.seen, was.seen.Load())
			if end := was.extended.Load(); end > s.ExpiresAt.UnixMicro() {
				s.extended.Store(end)
			}
		}
	}
}

// touch notes that something is used now, to the second: finer would only make
// processors quarrel over the memory.
func touch(t *atomic.Int64, now time.Time) {
	if at := now.UnixMicro(); at-t.Load() >= time.Second.Microseconds() {
		later(t, at)
	}
}

// later moves t ahead, never back.
func later(t *atomic.Int64, to int64) {
	for {
		was := t.Load()
		if was >= to || t.CompareAndSwap(was, to) {
			return
		}
	}
}

func (st *state) putPerson(r StoredPerson) {
	p := &person{StoredPerson: r, sessions: map[string]*session{}, tokens: map[int64]*token{}}
	if r.SeenAt != nil {
		p.seen.Store(r.SeenAt.UnixMicro())
		p.noted.Store(r.SeenAt.UnixMicro())
	}
	if was := st.people[r.ID]; was != nil {
		p.sessions, p.tokens = was.sessions, was.tokens
		later(&p.seen, was.seen.Load())
	} else if !r.External {
		st.local++
	}
	st.people[r.ID], st.bySubject[r.Subject] = p, p
	if r.Username != "" {
		st.byName[r.Username] = p
	}
}

func (st *state) deletePerson(id int64) {
	p := st.people[id]
	if p == nil {
		return
	}
	for id := range p.sessions {
		st.deleteSession(id)
	}
	for id := range p.tokens {
		st.deleteToken(id)
	}
	delete(st.people, id)
	delete(st.bySubject, p.Subject)
	delete(st.byName, p.Username)
	if !p.External {
		st.local--
	}
}

func (st *state) putSession(r StoredSession) {
	p := st.people[r.Person]
	if p == nil {
		return
	}
	s := &session{StoredSession: r}
	s.seen.Store(r.SeenAt.UnixMicro())
	s.noted.Store(r.SeenAt.UnixMicro())
	if was := st.sessions[r.ID]; was != nil {
		later(&s.seen, was.seen.Load())
	}
	st.sessions[r.ID], p.sessions[r.ID] = s, s
	if hash, ok := unhex(r.Hash); ok {
		s.hash = hash
		st.opens[hash] = s
	}
}

func (st *state) deleteSession(id string) {
	s := st.sessions[id]
	if s == nil {
		return
	}
	delete(st.sessions, id)
	delete(st.people[s.Person].sessions, id)
	if s.Hash != "" {
		delete(st.opens, s.hash)
	}
}

func (st *state) putToken(r StoredToken) {
	p := st.people[r.Person]
	hash, ok := unhex(r.Hash)
	if p == nil || !ok {
		return
	}
	t := &token{StoredToken: r, hash: hash}
	if r.UsedAt != nil {
		t.seen.Store(r.UsedAt.UnixMicro())
		t.noted.Store(r.UsedAt.UnixMicro())
	}
	st.tokens[r.ID], p.tokens[r.ID], st.unlocks[hash] = t, t, t
}

func (st *state) deleteToken(id int64) {
	t := st.tokens[id]
	if t == nil {
		return
	}
	delete(st.tokens, id)
	delete(st.people[t.Person].tokens, id)
	delete(st.unlocks, t.hash)
}

func (st *state) putRevocation(r StoredRevocation) {
	st.revoked[revokedKey{r.Subject, r.Session}] = r
}

// admins counts the people other than one who may do everything: at least one
// must be left.
func (st *state) admins(but int64) (n int) {
	for id, p := range st.people {
		if id != but && p.mayAll() {
			n++
		}
	}
	return n
}

// mayAll reports whether a person may do everything, and can log in for it
// whatever becomes of an external provider.
func (p *StoredPerson) mayAll() bool {
	return !p.External && !p.Disabled && p.Limit.None() && Principal{Roles: p.Roles}.Has(RoleAdmin)
}

// end returns when the session ends, unless it is used.
func (s *session) end() time.Time {
	if end := s.extended.Load(); end != 0 {
		return time.UnixMicro(end).UTC()
	}
	return s.ExpiresAt
}

// change is one transaction that changes what there is. Its methods write to the
// store at once, and to the state after the commit: who reads st meanwhile sees
// what was before.
type change struct {
	Writer
	ctx   context.Context
	st    *state
	now   time.Time
	after []func(*state)
	quiet bool // nobody may less or more than before
}

// errNothing ends a change that has nothing to change.
var errNothing = errors.New("nothing to change")

// change runs f in a transaction, on the state as it is then, whoever changed it
// before, and tells the observers. Errors are those of f and of the store.
func (s *Service) change(ctx context.Context, f func(*change) error) error {
	news, err := s.changeInTurn(ctx, f)
	if news {
		s.tell()
	}
	if errors.Is(err, errNothing) {
		return nil
	}
	return unavailable(err)
}

func (s *Service) changeInTurn(ctx context.Context, f func(*change) error) (news bool, err error) {
	if err := s.takeTurn(ctx); err != nil {
		return false, err
	}
	defer func() { <-s.turn }()
	c := &change{ctx: ctx, st: s.st, now: s.now()}
	loaded := false
	err = s.opts.Store.ChangeAccess(ctx, func(w Writer, version int64) error {
		c.Writer = w
		if c.st.version != version-1 {
			l, err := w.LoadAccess(ctx)
			if err != nil {
				return err
			}
			l.Version = version - 1 // nothing is written yet
			c.st, loaded = newState(l), true
		}
		return f(c)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if loaded {
		c.st.remember(s.st)
		s.st = c.st
	}
	if err == nil {
		for _, apply := range c.after {
			apply(s.st)
		}
		s.st.version++
	}
	return loaded || err == nil && !c.quiet, err
}

// takeTurn waits until nobody else in this process changes anything.
func (s *Service) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unavailable gives the end of a deadline on the way to the store its kind.
func unavailable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && fleet.KindOf(err) == fleet.Internal {
		return fleet.E(fleet.Unavailable, err, "Database is currently unavailable")
	}
	return err
}

// reload looks whether somebody else changed something, and takes it over.
func (s *Service) reload(ctx context.Context) error {
	version, err := s.opts.Store.AccessVersion(ctx)
	if err != nil {
		return unavailable(err)
	}
	news, err := s.reloadInTurn(ctx, version)
	if news {
		s.tell()
	}
	return unavailable(err)
}

func (s *Service) reloadInTurn(ctx context.Context, version int64) (news bool, err error) {
	s.mu.RLock()
	known := s.st.version
	s.mu.RUnlock()
	if version == known {
		return false, nil
	}
	if err := s.takeTurn(ctx); err != nil {
		return false, err
	}
	defer func() { <-s.turn }()
	if s.st.version >= version { // it was a change of our own, committed just now
		return false, nil
	}
	l, err := s.opts.Store.LoadAccess(ctx)
	if err != nil {
		return false, err
	}
	st := newState(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	st.remember(s.st)
	s.st = st
	return true, nil
}

// tell tells the observers of a change.
func (s *Service) tell() {
	s.observers.Lock()
	list := s.observers.list
	s.observers.Unlock()
	for _, f := range list {
		f()
	}
}

func (c *change) insertPerson(p StoredPerson) (StoredPerson, error) {
	id, err := c.InsertPerson(c.ctx, p)
	if err != nil {
		return p, err
	}
	p.ID = id
	if p.Subject == "" {
		p.Subject = LocalSubject + strconv.FormatInt(id, 10)
	}
	c.after = append(c.after, func(st *state) { st.putPerson(p) })
	return p, nil
}

func (c *change) updatePerson(p StoredPerson) error {
	c.after = append(c.after, func(st *state) { st.putPerson(p) })
	return c.UpdatePerson(c.ctx, p)
}

func (c *change) deletePerson(id int64) error {
	c.after = append(c.after, func(st *state) { st.deletePerson(id) })
	return c.DeletePerson(c.ctx, id)
}

func (c *change) insertSession(r StoredSession) error {
	c.after = append(c.after, func(st *state) { st.putSession(r) })
	return c.InsertSession(c.ctx, r)
}

func (c *change) extendSession(r StoredSession) error {
	c.after = append(c.after, func(st *state) { st.putSession(r) })
	return c.ExtendSession(c.ctx, r.ID, r.SeenAt, r.ExpiresAt)
}

func (c *change) deleteSession(id string) error {
	c.after = append(c.after, func(st *state) { st.deleteSession(id) })
	return c.DeleteSession(c.ctx, id)
}

func (c *change) insertToken(t StoredToken) (StoredToken, error) {
	id, err := c.InsertToken(c.ctx, t)
	if err != nil {
		return t, err
	}
	t.ID = id
	c.after = append(c.after, func(st *state) { st.putToken(t) })
	return t, nil
}

func (c *change) deleteToken(id int64) error {
	c.after = append(c.after, func(st *state) { st.deleteToken(id) })
	return c.DeleteToken(c.ctx, id)
}

func (c *change) revoke(r Revocation, keep string) error {
	row := StoredRevocation{Revocation: r, At: c.now, Keep: keep}
	if was, ok := c.st.revoked[revokedKey{r.Subject, r.Session}]; ok && was.Until.After(row.Until) {
		row.Until = was.Until
	}
	c.after = append(c.after, func(st *state) { st.putRevocation(row) })
	return c.PutRevocation(c.ctx, row)
}

func (c *change) deleteRevocation(key revokedKey) error {
	c.after = append(c.after, func(st *state) { delete(st.revoked, key) })
	return c.DeleteRevocation(c.ctx, key.subject, key.session)
}
