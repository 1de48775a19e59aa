package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// Client is where a request comes from, as far as it can be told.
type Client struct {
	Address string // IP address
	Agent   string // User-Agent, cut to 200 bytes
}

// SessionPrefix and TokenPrefix begin the secrets of sessions and API tokens,
// by which they are told from the tokens of a provider.
const (
	SessionPrefix = "sbs_"
	TokenPrefix   = "sbt_"
)

// sessionID and tokenID begin Principal.Session of sessions and API tokens of
// Signalbox's own, by which they are told from the sid of a provider.
const (
	sessionID = "signalbox-session-"
	tokenID   = "signalbox-token-"
)

// maxSessions is how many sessions one person may have; the oldest give way.
const maxSessions = 100

// TooManyAttempts is the cause of the error for who guesses too fast.
type TooManyAttempts struct{ RetryAfter time.Duration }

func (t *TooManyAttempts) Error() string { return "too many attempts" }

// SignIn checks a password and opens a session. The secret is what the browser
// keeps. Errors: Deny(Refused) for a wrong name or password or a disabled person, all
// alike and taking the same time; a *TooManyAttempts in fleet.TooMany.
func (s *Service) SignIn(ctx context.Context, username, password string, c Client) (secret string, p Principal, err error) {
	secret, p, err = s.signIn(ctx, strings.ToLower(strings.TrimSpace(username)), password, c)
	status := "success"
	if reason, denied := ReasonOf(err); denied && reason == Refused {
		status = "refused"
	} else if fleet.KindOf(err) == fleet.TooMany {
		status = "too_many"
	} else if err != nil {
		status = "error"
	}
	s.metrics.signIns.WithLabelValues(status).Inc()
	return secret, p, err
}

var errWrongPassword = errors.New("no such person, a wrong password, or a disabled person")

func (s *Service) signIn(ctx context.Context, username, password string, c Client) (secret string, p Principal, err error) {
	account, anew, err := s.prove(ctx, username, password, c)
	if err != nil {
		return "", Principal{}, err
	}
	hash := ""
	if anew {
		if hash, err = s.newHash(ctx, password); err != nil {
			return "", Principal{}, err
		}
	}
	err = s.change(ctx, func(ch *change) error {
		ch.quiet = true // nobody has something open for a session that is new
		now := ch.st.people[account.ID]
		if now == nil || now.Disabled || now.Password != account.Password {
			return Deny(Refused, errors.New("the person changed in the meantime"))
		}
		if anew {
			record := now.StoredPerson
			record.Password = hash
			if err := ch.updatePerson(record); err != nil {
				return err
			}
		}
		secret, p, err = ch.openSession(s, now, c)
		return err
	})
	if err != nil {
		return "", Principal{}, err
	}
	return secret, p, nil
}

// prove checks a password. anew: it should be hashed anew. Errors are those of SignIn.
func (s *Service) prove(ctx context.Context, username, password string, c Client) (account StoredPerson, anew bool, err error) {
	begun := s.now()
	if err := s.guesses.begin(username, c.Address, begun); err != nil {
		return account, false, err
	}
	// So that a password that another process changed just now is known. Without
	// the store there will be no session anyway.
	if err := s.reload(ctx); err != nil {
		s.guesses.undo(username, c.Address, s.now())
		return account, false, err
	}
	s.mu.RLock()
	if found := s.st.byName[username]; found != nil {
		account = found.StoredPerson
	}
	s.mu.RUnlock()
	fits, anew, err := s.checkPassword(ctx, account.Password, password)
	switch {
	case err != nil:
		s.guesses.undo(username, c.Address, s.now())
		return account, false, unavailable(err)
	case !fits || account.Disabled:
		return account, false, Deny(Refused, errWrongPassword)
	}
	s.guesses.succeeded(username, c.Address, s.now())
	return account, anew, nil
}

// openSession makes a session for a person.
func (c *change) openSession(s *Service, p *person, client Client) (secret string, who Principal, err error) {
	secret = SessionPrefix + randomText()
	r := StoredSession{
		ID: sessionID + randomText()[:22], Person: p.ID, Hash: hashOf(secret), Client: client.clean(),
		CreatedAt: c.now, SeenAt: c.now, EndsAt: c.now.Add(s.opts.SessionMax),
	}
	r.ExpiresAt = earlier(c.now.Add(s.opts.SessionIdle), r.EndsAt)
	if err := c.dropOldest(p); err != nil {
		return "", Principal{}, err
	}
	later(&p.seen, c.now.UnixMicro())
	return secret, p.principal(&session{StoredSession: r}), c.insertSession(r)
}

// dropOldest makes room for one more session.
func (c *change) dropOldest(p *person) error {
	if len(p.sessions) < maxSessions {
		return nil
	}
	var oldest *session
	for _, x := range p.sessions {
		if oldest == nil || x.seen.Load() < oldest.seen.Load() {
			oldest = x
		}
	}
	c.quiet = false
	return c.deleteSession(oldest.ID)
}

// principal returns who acts in a session of Signalbox's own.
func (p *person) principal(x *session) Principal {
	return Principal{
		Kind: Person, Subject: p.Subject, Email: p.Email, Name: p.shown(), Roles: p.Roles, Limit: p.Limit,
		Session: x.ID, Issued: x.CreatedAt, Expires: x.end(),
	}
}

// shown returns what a person is called.
func (p *person) shown() string { return cmp.Or(p.Name, p.Username) }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

var (
	errNoSession = errors.New("there is no such session")
	errDisabled  = errors.New("the account is disabled")
)

// Session returns whose session a secret opens. It asks no database. Errors:
// Deny(Expired), Deny(Revoked). Principal.Roles and Limit are shared: they must
// not be changed.
func (s *Service) Session(secret string) (Principal, error) {
	hash := sha256.Sum256([]byte(secret))
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.st.inSession(s.st.opens[hash], now)
}

// inSession returns who acts in a session, if it is good, and notes that they did.
func (st *state) inSession(x *session, now time.Time) (Principal, error) {
	if x == nil {
		return Principal{}, Deny(Revoked, errNoSession)
	}
	p := st.people[x.Person]
	switch {
	case p.Disabled:
		return Principal{}, Deny(Revoked, errDisabled)
	case !now.Before(x.end()):
		return Principal{}, Deny(Expired, nil)
	}
	touch(&x.seen, now)
	touch(&p.seen, now)
	return p.principal(x), nil
}

// Renew moves the end of a session ahead when a good part of its idle time is
// over. renewed: the cookie should be set anew, with p.Expires. While the
// database is away, sessions go on all the same.
func (s *Service) Renew(ctx context.Context, secret string) (p Principal, renewed bool, err error) {
	p, err = s.Session(secret)
	if err != nil {
		return p, false, err
	}
	due := func(x *session, now time.Time) bool {
		return x.end().Before(x.EndsAt) && x.end().Sub(now) <= s.opts.SessionIdle*3/4
	}
	s.mu.RLock()
	x := s.st.sessions[p.Session]
	s.mu.RUnlock()
	if x == nil || !due(x, s.now()) {
		return p, false, nil
	}
	err = s.change(ctx, func(c *change) error {
		x := c.st.sessions[p.Session]
		if x == nil {
			return Deny(Revoked, errNoSession)
		}
		if !due(x, c.now) { // another request was first
			return errNothing
		}
		r := x.StoredSession
		r.SeenAt, r.ExpiresAt = c.now, earlier(c.now.Add(s.opts.SessionIdle), r.EndsAt)
		renewed = true
		return c.extendSession(r)
	})
	if fleet.KindOf(err) == fleet.Unavailable {
		s.mu.RLock()
		if x := s.st.sessions[p.Session]; x != nil && due(x, s.now()) {
			later(&x.extended, earlier(s.now().Add(s.opts.SessionIdle), x.EndsAt).UnixMicro())
		}
		s.mu.RUnlock()
		err, renewed = nil, true
	}
	if err != nil {
		return Principal{}, false, err
	}
	p, err = s.Session(secret)
	return p, renewed && err == nil, err
}

// SignOut ends the principal's session: one of Signalbox's own is deleted, one
// of the provider's is revoked. Of a provider without sessions, everything is
// that it gave out to the subject before now.
func (s *Service) SignOut(ctx context.Context, p Principal) error {
	if p.Kind == Nobody || strings.HasPrefix(p.Session, tokenID) {
		return nil
	}
	return s.change(ctx, func(c *change) error {
		if strings.HasPrefix(p.Session, sessionID) {
			if c.st.sessions[p.Session] == nil {
				return errNothing
			}
			return c.deleteSession(p.Session)
		}
		r := Revocation{Subject: keyOf(p.Subject), Session: p.sid(), Until: c.now.Add(s.revokedFor())}
		if x := c.st.sessions[r.Session]; x != nil && x.Hash == "" && c.st.people[x.Person].Subject == r.Subject {
			if err := c.deleteSession(r.Session); err != nil {
				return err
			}
		}
		return c.revoke(r, "")
	})
}

// sid returns the provider's name of the principal's session, "" if it gave none.
func (p Principal) sid() string {
	if p.Session == "sub:"+p.Subject {
		return ""
	}
	return keyOf(p.Session)
}

// keyOf returns what a provider's name of a person or session is kept as: itself,
// unless it is so long or strange that a store may not take it. OpenID Connect Core
// 1.0, section 2, lets a subject have 255 characters.
func keyOf(name string) string {
	if len(name) <= maxSubject && clean(name, maxSubject) == name {
		return name
	}
	return "sha256:" + hashOf(name)
}

// subject returns the person with that subject, nil if there is none.
func (st *state) subject(name string) *person { return st.bySubject[keyOf(name)] }

// revokedFor is how long a revocation is kept when nobody knows how long what it
// withdraws would be good.
func (s *Service) revokedFor() time.Duration { return max(s.opts.SessionMax, 30*24*time.Hour) }

// Setup makes the first admin and opens a session, as SignIn does. Errors:
// fleet.Forbidden for a wrong or used set-up secret, and those of CreateAccount.
func (s *Service) Setup(ctx context.Context, setup string, n NewAccount, c Client) (session string, p Principal, err error) {
	used := fleet.E(fleet.Forbidden, nil, "The set-up link is not good, or not any more")
	if !secret.Equal(setup, s.setup) || s.HasPeople() {
		return "", Principal{}, used
	}
	n.Roles, n.Limit = []string{RoleAdmin}, Limit{}
	record, err := s.newPerson(ctx, n)
	if err != nil {
		return "", Principal{}, err
	}
	err = s.change(ctx, func(ch *change) error {
		if ch.st.local > 0 { // another process was first
			return used
		}
		record, err := ch.insertPerson(record)
		if err != nil {
			return err
		}
		session, p, err = ch.openSession(s, &person{StoredPerson: record}, c)
		return err
	})
	if err != nil {
		return "", Principal{}, err
	}
	s.metrics.signIns.WithLabelValues("success").Inc()
	return session, p, nil
}

// SetupSecret returns the secret of the one-time set-up link, "" when there are
// people already. It is good for as long as the process runs, and once.
func (s *Service) SetupSecret() string {
	if s.HasPeople() {
		return ""
	}
	return s.setup
}

// SessionInfo is an open session.
type SessionInfo struct {
	ID        string // names it; does not open it
	Subject   string
	Client    Client
	CreatedAt time.Time
	SeenAt    time.Time
	ExpiresAt time.Time
}

// Sessions returns the open sessions of a subject, the newest first.
func (s *Service) Sessions(subject string) []SessionInfo {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.st.subject(subject)
	if p == nil {
		return nil
	}
	var list []SessionInfo
	for _, x := range p.sessions {
		if end := x.end(); now.Before(end) {
			list = append(list, SessionInfo{
				ID: x.ID, Subject: subject, Client: x.Client, CreatedAt: x.CreatedAt, SeenAt: time.UnixMicro(x.seen.Load()).UTC(), ExpiresAt: end,
			})
		}
	}
	slices.SortFunc(list, func(a, b SessionInfo) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// EndSession ends one; fleet.NotFound if the subject has no such session.
func (s *Service) EndSession(ctx context.Context, subject, id string) error {
	return s.change(ctx, func(c *change) error {
		p := c.st.subject(subject)
		if p == nil || p.sessions[id] == nil {
			return notFound("Session", id)
		}
		return c.endSession(s, p.sessions[id])
	})
}

// endSession deletes a session, and withdraws it if it is a provider's.
func (c *change) endSession(s *Service, x *session) error {
	if x.Hash == "" {
		r := Revocation{Subject: c.st.people[x.Person].Subject, Session: x.ID, Until: c.now.Add(s.revokedFor())}
		if err := c.revoke(r, ""); err != nil {
			return err
		}
	}
	return c.deleteSession(x.ID)
}

// EndSessions ends all sessions of a subject but keep, and withdraws what an
// external provider gave out to it before now.
func (s *Service) EndSessions(ctx context.Context, subject, keep string) error {
	return s.change(ctx, func(c *change) error { return c.endSessions(s, subject, keep) })
}

func (c *change) endSessions(s *Service, subject, keep string) error {
	p := c.st.subject(subject)
	keep = Principal{Subject: subject, Session: keep}.sid()
	if p != nil {
		for id, x := range p.sessions {
			if id == keep {
				continue
			}
			if err := c.endSession(s, x); err != nil {
				return err
			}
		}
		if !p.External {
			return nil
		}
	}
	return c.revoke(Revocation{Subject: keyOf(subject), Until: c.now.Add(s.revokedFor())}, keep)
}
