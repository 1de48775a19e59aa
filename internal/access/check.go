package access

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

var (
	errPeople    = errors.New("authentication was switched on")
	errWithdrawn = errors.New("it was withdrawn")
	errNotTheirs = errors.New("the subject is that of somebody with a password")
)

// Check returns the principal as it is now: with the roles and limit that its
// person has by now, where Signalbox keeps them. Errors: Deny(Expired) and
// Deny(Revoked), when it is over. It asks no database.
func (s *Service) Check(p Principal) (Principal, error) {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case p.Kind == Nobody:
		if s.st.local > 0 {
			return Principal{}, Deny(Revoked, errPeople)
		}
		return p, nil
	case strings.HasPrefix(p.Session, sessionID):
		x := s.st.sessions[p.Session]
		if x != nil && x.Hash == "" { // a provider that gives its sessions such names
			x = nil
		}
		return s.st.inSession(x, now)
	case p.Kind == Token && strings.HasPrefix(p.Session, tokenID): // a provider's sid may look like one
		id, err := strconv.ParseInt(strings.TrimPrefix(p.Session, tokenID), 10, 64)
		if err != nil {
			return Principal{}, Deny(Revoked, errNoToken)
		}
		return s.st.withToken(s.st.tokens[id], now)
	}
	return s.st.external(p, now)
}

// external checks who has the proof of an external provider.
func (st *state) external(p Principal, now time.Time) (Principal, error) {
	if st.isRevoked(p) {
		return Principal{}, Deny(Revoked, errWithdrawn)
	}
	account := st.subject(p.Subject)
	switch {
	case account != nil && !account.External:
		return Principal{}, Deny(Revoked, errNotTheirs)
	case account != nil && account.Disabled:
		return Principal{}, Deny(Revoked, errDisabled)
	case !p.Expires.IsZero() && !now.Before(p.Expires):
		return Principal{}, Deny(Expired, nil)
	}
	if account != nil {
		touch(&account.seen, now)
		if x := account.sessions[p.sid()]; x != nil {
			touch(&x.seen, now)
		}
	}
	return p, nil
}

// isRevoked reports whether p's session was withdrawn, or all that its subject
// had got until then. A time of issue is mostly cut to the second, so that what
// was given out in the second of the revocation is withdrawn with it.
func (st *state) isRevoked(p Principal) bool {
	sid, of := p.sid(), keyOf(p.Subject)
	if sid != "" {
		for _, subject := range [2]string{of, ""} {
			if _, ok := st.revoked[revokedKey{subject, sid}]; ok {
				return true
			}
		}
	}
	r, ok := st.revoked[revokedKey{of, ""}]
	return ok && p.Issued.Before(r.At) && (r.Keep == "" || sid != r.Keep)
}

// Revocation withdraws what an external provider gave out before now.
type Revocation struct {
	Subject string    // whose; "" if only Session says it
	Session string    // the provider's sid; "" is every session of the subject
	Until   time.Time // when nothing of it can be valid any more; zero: nobody knows
}

// Revoke withdraws it, here and in every other process.
func (s *Service) Revoke(ctx context.Context, r Revocation) error {
	r.Subject, r.Session = keyOf(r.Subject), keyOf(r.Session)
	if r.Subject == "" && r.Session == "" {
		return nil
	}
	return s.change(ctx, func(c *change) error {
		if r.Until.IsZero() {
			r.Until = c.now.Add(s.revokedFor())
		}
		if r.Session == "" {
			if p := c.st.subject(r.Subject); p != nil && p.External {
				for _, x := range p.sessions {
					if err := c.endSession(s, x); err != nil {
						return err
					}
				}
			}
		} else if x := c.st.sessions[r.Session]; x != nil && x.Hash == "" && (r.Subject == "" || c.st.people[x.Person].Subject == r.Subject) {
			if err := c.deleteSession(x.ID); err != nil {
				return err
			}
		}
		return c.revoke(r, "")
	})
}
