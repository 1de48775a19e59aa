package access

import (
	"cmp"
	"time"
)

// Acting returns somebody as they are now, for what they made that outlives the
// session in which they did: with the rights that they had then and still have. That
// a session is over does not matter, that its person is disabled, deleted or may less
// does, and so does the end of an API token. Errors: Deny(Expired), Deny(Revoked). It
// asks no database.
func (s *Service) Acting(p Principal) (Principal, error) {
	if p.Kind != Person {
		return s.Check(p)
	}
	var account StoredPerson
	s.mu.RLock()
	found := s.st.subject(p.Subject)
	if found != nil {
		account = found.StoredPerson
	}
	s.mu.RUnlock()
	switch {
	case found == nil: // of a provider, and never logged in with a browser; or deleted
		p.Expires = time.Time{}
		return s.Check(p)
	case account.Disabled:
		return Principal{}, Deny(Revoked, errDisabled)
	}
	p.Name, p.Email = cmp.Or(account.Name, account.Username), account.Email
	p.Roles, p.Limit = bothRoles(account.Roles, p.Roles), bothLimits(account.Limit, p.Limit)
	return p, nil
}

// Throttle slows down who guesses other secrets than passwords, as logins do it: by
// address, with a wait that grows from failure to failure. The zero Throttle is
// ready, and any number of goroutines may use it.
type Throttle struct{ guesses guesses }

// Begin counts an attempt from an address, or says how long to wait with it: a
// *TooManyAttempts in fleet.TooMany.
func (t *Throttle) Begin(address string, now time.Time) error {
	t.guesses.mu.Lock()
	defer t.guesses.mu.Unlock()
	_, by := keysOf("", address)
	if wait := t.guesses.wait(by, guessesOfAddress, now); wait > 0 {
		return tooMany(wait)
	}
	t.guesses.count(by, 1, now)
	return nil
}

// Undo takes back an attempt that was no failure.
func (t *Throttle) Undo(address string, now time.Time) {
	t.guesses.mu.Lock()
	defer t.guesses.mu.Unlock()
	_, by := keysOf("", address)
	t.guesses.count(by, -1, now)
}
