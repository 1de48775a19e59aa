package web

import (
	"slices"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/stream"
)

// checkOf returns what tells the registry how the one behind a stream stands.
func (s *Streams) checkOf(who func() access.Principal) func(time.Time) (stream.Standing, error) {
	return func(extended time.Time) (stream.Standing, error) {
		p := who()
		if !p.Expires.IsZero() && extended.After(p.Expires) {
			p.Expires = extended
		}
		if s.opts.Standing != nil {
			var err error
			if p, err = s.opts.Standing(p); err != nil {
				if reason, ok := access.ReasonOf(err); ok && reason == access.Expired {
					return stream.Standing{}, expired{err}
				}
				return stream.Standing{}, err
			}
		}
		switch {
		case !p.Expires.IsZero() && !p.Expires.After(time.Now()):
			return stream.Standing{}, expired{access.Deny(access.Expired, nil)}
		case !p.Has(access.RoleViewer):
			return stream.Standing{}, fleet.E(fleet.Forbidden, nil, "No recognized role -- access denied")
		}
		standing := stream.Standing{Expires: p.Expires, Session: sessionOf(p)}
		if !p.Limit.None() {
			standing.May = p.May
		}
		return standing, nil
	}
}

// belongTo makes the streams end and go on with what the identity knows.
func (s *Streams) belongTo(i *identity) {
	if s.opts.Standing == nil {
		s.opts.Standing = i.check
	}
	if i.Renewed == nil {
		i.Renewed = s.Extend
	}
}

// expired is an error of somebody whose time is over, also to the registry.
type expired struct{ error }

// Unwrap returns what is known besides.
func (e expired) Unwrap() []error { return []error{e.error, stream.ErrExpired} }

// sessionOf names the session that a principal's streams belong to. Where the
// provider names none it is all that the subject has open.
func sessionOf(p access.Principal) string {
	if p.Session == "" {
		return "sub:" + p.Subject
	}
	return p.Session
}

// Extend lets the streams of a principal's session go on until its Expires: for
// when its session was renewed, or its token replaced by a new one. They go on
// with the roles and the limit that it has now.
func (s *Streams) Extend(p access.Principal) {
	if p.Expires.IsZero() {
		return
	}
	if s.grant(p) {
		s.opts.Registry.RecheckSoon()
	}
	s.opts.Registry.Extend(sessionOf(p), p.Expires)
}

// grant gives the streams of a principal's session its roles and limit, and
// reports whether those of any were others. A provider says them in each token: a
// stream would otherwise keep what its first token said for as long as it is open.
func (s *Streams) grant(p access.Principal) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.readers {
		r.mu.Lock()
		if w := &r.who; w.Kind == p.Kind && w.Subject == p.Subject && sessionOf(*w) == sessionOf(p) && !sameRights(*w, p) {
			w.Roles, w.Limit, news = p.Roles, p.Limit, true
		}
		r.mu.Unlock()
	}
	return news
}

func sameRights(a, b access.Principal) bool {
	return slices.Equal(a.Roles, b.Roles) && slices.Equal(a.Limit.Models, b.Limit.Models) && slices.Equal(a.Limit.Tags, b.Limit.Tags) && a.Limit.Also == b.Limit.Also
}

// LogOut ends the streams of a principal's session, which are told that it was
// logged out. To be called before the session is withdrawn, which would
// otherwise end them as revoked.
func (s *Streams) LogOut(p access.Principal) { s.opts.Registry.LogOut(sessionOf(p)) }
