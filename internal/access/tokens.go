package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"signalbox/internal/fleet"
)

// Bounds of API tokens.
const (
	maxTokenName     = 100 // characters
	maxTokenLifetime = 366 * 24 * time.Hour
	maxTokens        = 100 // good ones of one person
	hintLength       = len(TokenPrefix) + 4
)

var errNoToken = errors.New("there is no such token")

// APIToken returns the principal of an API token. It asks no database. Errors:
// Deny(Expired), Deny(Revoked). Its Subject is the owner's, its Name says the
// owner and the token, and its rights are those that both have.
func (s *Service) APIToken(secret string) (Principal, error) {
	hash := sha256.Sum256([]byte(secret))
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.st.withToken(s.st.unlocks[hash], now)
}

// withToken returns who acts with a token, if it is good, and notes that they did.
func (st *state) withToken(t *token, now time.Time) (Principal, error) {
	if t == nil {
		return Principal{}, Deny(Revoked, errNoToken)
	}
	p := st.people[t.Person]
	switch {
	case p.Disabled:
		return Principal{}, Deny(Revoked, errDisabled)
	case !now.Before(t.ExpiresAt):
		return Principal{}, Deny(Expired, nil)
	}
	touch(&t.seen, now)
	return Principal{
		Kind: Token, Subject: p.Subject, Email: p.Email, Name: p.shown() + " (" + t.Name + ")",
		Roles: bothRoles(p.Roles, t.Roles), Limit: bothLimits(p.Limit, t.Limit),
		Session: tokenID + strconv.FormatInt(t.ID, 10), Issued: t.CreatedAt, Expires: t.ExpiresAt,
	}, nil
}

// bothRoles returns the roles that two principals both may act in.
func bothRoles(a, b []string) []string {
	if slices.Equal(a, b) {
		return a
	}
	p, q := Principal{Roles: a}, Principal{Roles: b}
	var both []string
	for _, role := range Roles() {
		if p.Has(role) && q.Has(role) {
			both = append(both, role)
		}
	}
	// What another of them implies need not be named.
	all := both
	both = slices.DeleteFunc(slices.Clone(all), func(role string) bool {
		return slices.ContainsFunc(all, func(other string) bool { return other != role && Principal{Roles: []string{other}}.Has(role) })
	})
	slices.Sort(both)
	return both
}

// bothLimits returns the limit that allows what two limits both allow.
func bothLimits(owner, own Limit) Limit {
	switch {
	case owner.None() || own.within(owner):
		return own
	case own.None():
		return owner
	}
	own.Also = &owner
	return own
}

// within reports whether l names nothing that other does not name.
func (l Limit) within(other Limit) bool {
	if l.None() || other.None() {
		return other.None()
	}
	in := func(list, all []string) bool {
		return !slices.ContainsFunc(list, func(s string) bool { return !slices.Contains(all, s) })
	}
	return in(l.Models, other.Models) && in(l.Tags, other.Tags)
}

// TokenInfo is an API token without its secret.
type TokenInfo struct {
	ID        int64
	Subject   string // whose it is
	Name      string
	Hint      string // the first characters of the secret
	Roles     []string
	Limit     Limit
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    *time.Time
}

// NewToken is what an API token is made of.
type NewToken struct {
	Name     string // 1..100 characters, unique among the good ones of the owner
	Roles    []string
	Limit    Limit
	Lifetime time.Duration // up to 366 days
}

// CreateToken makes a token that may at most what its owner may, now and later.
// The secret is shown once. Errors: fleet.Invalid, fleet.Exists, fleet.Forbidden.
func (s *Service) CreateToken(ctx context.Context, owner Principal, n NewToken) (secret string, t TokenInfo, err error) {
	switch {
	case owner.Kind == Nobody:
		return "", t, fleet.E(fleet.Forbidden, nil, "Authentication is not enabled")
	case owner.Kind != Person:
		return "", t, fleet.E(fleet.Forbidden, nil, "Only a person can make an API token")
	}
	return s.createToken(ctx, n, func(c *change) (StoredPerson, []Principal, error) {
		p, err := c.account(owner)
		// The rights of the principal and those that the account has: both count.
		return p, []Principal{owner, {Roles: p.Roles, Limit: p.Limit}}, err
	})
}

// CreateTokenFor is CreateToken by who runs Signalbox, for somebody. Other errors:
// fleet.NotFound, and fleet.InvalidOperation if the account is disabled.
func (s *Service) CreateTokenFor(ctx context.Context, account int64, n NewToken) (secret string, t TokenInfo, err error) {
	return s.createToken(ctx, n, func(c *change) (StoredPerson, []Principal, error) {
		p := c.st.people[account]
		switch {
		case p == nil:
			return StoredPerson{}, nil, notFound("Account", account)
		case p.Disabled:
			return StoredPerson{}, nil, fleet.ErrOperation("create token", "the account is disabled")
		}
		return p.StoredPerson, []Principal{{Roles: p.Roles, Limit: p.Limit}}, nil
	})
}

// createToken makes a token for the person that find returns, within the rights
// of all the principals that it returns.
func (s *Service) createToken(ctx context.Context, n NewToken, find func(*change) (StoredPerson, []Principal, error)) (secret string, t TokenInfo, err error) {
	n.Name = strings.TrimSpace(n.Name)
	if length := utf8.RuneCountInString(n.Name); length < 1 || length > maxTokenName || clean(n.Name, len(n.Name)) != n.Name {
		return "", t, fleet.E(fleet.Invalid, nil, "The name of a token must have 1 to %d characters", maxTokenName)
	}
	if n.Lifetime <= 0 || n.Lifetime > maxTokenLifetime {
		return "", t, fleet.E(fleet.Invalid, nil, "The lifetime of a token must be 1 to 366 days")
	}
	if n.Roles, err = knownRoles(n.Roles); err != nil {
		return "", t, err
	}
	if len(n.Roles) == 0 {
		return "", t, fleet.E(fleet.Invalid, nil, "A token must have at least one role")
	}
	if n.Limit, err = n.Limit.normal(); err != nil {
		return "", t, err
	}
	secret = TokenPrefix + randomText()
	err = s.change(ctx, func(c *change) error {
		p, bounds, err := find(c)
		if err != nil {
			return err
		}
		for _, may := range bounds {
			for _, role := range n.Roles {
				if !may.Has(role) {
					return fleet.E(fleet.Forbidden, nil, "A token cannot have the role %s, which its owner does not have", role)
				}
			}
			if !n.Limit.None() && !n.Limit.within(may.Limit) {
				return fleet.E(fleet.Forbidden, nil, "A token cannot be for models or tags that its owner is not for")
			}
		}
		good := 0
		if known := c.st.people[p.ID]; known != nil {
			for _, other := range known.tokens {
				if !c.now.Before(other.ExpiresAt) {
					continue
				}
				if good++; other.Name == n.Name {
					return fleet.ErrExists("Token", n.Name)
				}
			}
		}
		if good >= maxTokens {
			return fleet.ErrOperation("create token", "there are %d already", good)
		}
		c.quiet = true
		stored, err := c.insertToken(StoredToken{
			TokenInfo: TokenInfo{
				Name: n.Name, Hint: secret[:hintLength], Roles: n.Roles, Limit: n.Limit, CreatedAt: c.now, ExpiresAt: c.now.Add(n.Lifetime),
			},
			Person: p.ID, Hash: hashOf(secret),
		})
		t = stored.TokenInfo
		t.Subject = p.Subject
		return err
	})
	if err != nil {
		return "", TokenInfo{}, err
	}
	return secret, t, nil
}

// account returns the account of a person who may act, made if they come from an
// external provider and are not known yet.
func (c *change) account(p Principal) (StoredPerson, error) {
	found := c.st.subject(p.Subject)
	own := strings.HasPrefix(p.Session, sessionID)
	switch {
	case found == nil && own, found != nil && found.External == own:
		return StoredPerson{}, Deny(Revoked, errNoSession)
	case found != nil && found.Disabled:
		return StoredPerson{}, Deny(Revoked, errDisabled)
	case found != nil:
		return found.StoredPerson, nil
	}
	return c.insertPerson(externalPerson(p, c.now))
}

// Tokens returns the good tokens of a subject, or of all for "", the newest first.
func (s *Service) Tokens(subject string) []TokenInfo {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []TokenInfo
	for _, t := range s.st.tokens {
		p := s.st.people[t.Person]
		if (subject == "" || p.Subject == keyOf(subject)) && now.Before(t.ExpiresAt) {
			info := t.TokenInfo
			info.Subject, info.UsedAt = p.Subject, pointer(t.seen.Load())
			list = append(list, info)
		}
	}
	slices.SortFunc(list, func(a, b TokenInfo) int { return cmp.Compare(b.ID, a.ID) })
	return list
}

// RevokeToken ends one; fleet.NotFound if the subject ("": anybody) has no such token.
func (s *Service) RevokeToken(ctx context.Context, subject string, id int64) error {
	return s.change(ctx, func(c *change) error {
		t := c.st.tokens[id]
		if t == nil || subject != "" && c.st.people[t.Person].Subject != keyOf(subject) {
			return notFound("Token", id)
		}
		return c.deleteToken(id)
	})
}
