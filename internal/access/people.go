package access

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"signalbox/internal/fleet"
)

// Bounds of what is known of somebody.
const (
	maxUsername = 64  // bytes
	maxName     = 255 // characters, of names and e-mail addresses
	maxSubject  = 255 // bytes, also of a provider's sid
	maxLimits   = 100 // models, and tags
	maxModel    = 50  // characters of a model's code
	maxTag      = 64  // characters
)

// Account is somebody whom Signalbox knows.
type Account struct {
	ID        int64
	Subject   string // of the principal
	External  bool   // knows their password: the provider, not Signalbox
	Username  string // lower case; "" for an external account
	Name      string
	Email     string
	Roles     []string // of an external account: those of the last login
	Limit     Limit
	Disabled  bool
	CreatedAt time.Time
	SeenAt    *time.Time
	Sessions  int // open now
	Tokens    int // good now
}

// NewAccount is what a person is made of.
type NewAccount struct {
	Username string // 1..64 of [a-z0-9._@-], unique
	Name     string // up to 255 characters
	Email    string // up to 255 characters
	Password string // 10..1024 bytes, and not among the best known
	Roles    []string
	Limit    Limit
}

// AccountChange is what can change of an account; nil leaves it as it is. Of an
// external one only Disabled can.
type AccountChange struct {
	Name, Email *string
	Roles       *[]string
	Limit       *Limit
	Disabled    *bool
}

// Accounts returns all accounts, by name.
func (s *Service) Accounts(ctx context.Context) ([]Account, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := s.now()
	s.mu.RLock()
	list := make([]Account, 0, len(s.st.people))
	for _, p := range s.st.people {
		list = append(list, p.account(now))
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b Account) int {
		name := func(a Account) string { return strings.ToLower(cmp.Or(a.Name, a.Username, a.Subject)) }
		return cmp.Or(cmp.Compare(name(a), name(b)), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// account returns what is shown of a person.
func (p *person) account(now time.Time) Account {
	a := p.Account
	a.SeenAt, a.Sessions, a.Tokens = pointer(p.seen.Load()), 0, 0
	for _, x := range p.sessions {
		if now.Before(x.end()) {
			a.Sessions++
		}
	}
	for _, t := range p.tokens {
		if now.Before(t.ExpiresAt) {
			a.Tokens++
		}
	}
	return a
}

// Account returns one; fleet.NotFound.
func (s *Service) Account(ctx context.Context, id int64) (Account, error) {
	if err := ctx.Err(); err != nil {
		return Account{}, err
	}
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.st.people[id]
	if p == nil {
		return Account{}, notFound("Account", id)
	}
	return p.account(now), nil
}

// CreateAccount adds a person. The first one must be an admin without a limit, or
// nobody could add a second: fleet.InvalidOperation. Other errors: fleet.Invalid,
// fleet.Exists.
func (s *Service) CreateAccount(ctx context.Context, n NewAccount) (Account, error) {
	record, err := s.newPerson(ctx, n)
	if err != nil {
		return Account{}, err
	}
	err = s.change(ctx, func(c *change) error {
		if c.st.local == 0 && !record.mayAll() {
			return fleet.ErrOperation("create account", "the first one must be an admin without a limit")
		}
		record, err = c.insertPerson(record)
		return err
	})
	if err != nil {
		return Account{}, err
	}
	return record.Account, nil
}

// newPerson checks what a person is to be made of, and hashes the password.
func (s *Service) newPerson(ctx context.Context, n NewAccount) (p StoredPerson, err error) {
	n.Username = strings.ToLower(strings.TrimSpace(n.Username))
	if n.Username == "" || len(n.Username) > maxUsername || strings.Trim(n.Username, "abcdefghijklmnopqrstuvwxyz0123456789._@-") != "" {
		return p, fleet.E(fleet.Invalid, nil, "The user name must be 1 to %d of the characters a-z, 0-9 and . _ @ -", maxUsername)
	}
	p = StoredPerson{Account: Account{Username: n.Username, Name: n.Name, Email: n.Email, Roles: n.Roles, Limit: n.Limit, CreatedAt: s.now()}}
	if err := p.normalize(); err != nil {
		return p, err
	}
	if err := weakPassword(n.Password, p.Username, p.Email); err != nil {
		return p, err
	}
	p.Password, err = s.newHash(ctx, n.Password)
	return p, unavailable(err)
}

// normalize checks what can change of an account, and gives it its one form.
func (p *StoredPerson) normalize() (err error) {
	p.Name, p.Email = strings.TrimSpace(p.Name), strings.TrimSpace(p.Email)
	for _, text := range []struct{ what, value string }{{"name", p.Name}, {"email", p.Email}} {
		if utf8.RuneCountInString(text.value) > maxName || strings.ContainsFunc(text.value, unprintable) {
			return fleet.E(fleet.Invalid, nil, "The %s must have at most %d printable characters", text.what, maxName)
		}
	}
	if p.Roles, err = knownRoles(p.Roles); err != nil {
		return err
	}
	p.Limit, err = p.Limit.normal()
	return err
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// knownRoles returns the roles sorted, each once.
func knownRoles(roles []string) ([]string, error) {
	for _, role := range roles {
		if !slices.Contains(Roles(), role) {
			return nil, fleet.E(fleet.Invalid, nil, "There is no role %s: use %s", strconv.Quote(clean(role, maxUsername)), strings.Join(Roles(), ", "))
		}
	}
	return sorted(roles), nil
}

// normal returns the limit with its lists sorted, each entry once.
func (l Limit) normal() (Limit, error) {
	for _, list := range []struct {
		what  string
		words []string
		most  int
	}{{"models", l.Models, maxModel}, {"tags", l.Tags, maxTag}} {
		if len(list.words) > maxLimits {
			return l, fleet.E(fleet.Invalid, nil, "A limit can have at most %d %s", maxLimits, list.what)
		}
		for _, word := range list.words {
			if n := utf8.RuneCountInString(word); n < 1 || n > list.most || strings.ContainsFunc(word, func(r rune) bool { return unprintable(r) || unicode.IsSpace(r) }) {
				return l, fleet.E(fleet.Invalid, nil, "Each of the %s of a limit must have 1 to %d printable characters without spaces", list.what, list.most)
			}
		}
	}
	return Limit{Models: sorted(l.Models), Tags: sorted(l.Tags)}, nil
}

// sorted returns a sorted copy with each entry once; nil if there is none.
func sorted(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	list = slices.Sorted(slices.Values(list))
	return slices.Compact(list)
}

// ChangeAccount changes one. The last admin who is not disabled and has no limit
// stays one: fleet.InvalidOperation. Other errors: fleet.Invalid, fleet.NotFound.
func (s *Service) ChangeAccount(ctx context.Context, id int64, ch AccountChange) (a Account, err error) {
	err = s.change(ctx, func(c *change) error {
		p := c.st.people[id]
		if p == nil {
			return notFound("Account", id)
		}
		record := p.StoredPerson
		if p.External && (ch.Name != nil || ch.Email != nil || ch.Roles != nil || ch.Limit != nil) {
			return fleet.ErrOperation("change account", "the identity provider says its name, roles and limits: change them there")
		}
		set(&record.Name, ch.Name)
		set(&record.Email, ch.Email)
		set(&record.Roles, ch.Roles)
		set(&record.Limit, ch.Limit)
		set(&record.Disabled, ch.Disabled)
		if !p.External { // what a provider says may not be what we would take
			if err := record.normalize(); err != nil {
				return err
			}
		}
		if p.mayAll() && !record.mayAll() && c.st.admins(id) == 0 {
			return fleet.ErrOperation("change account", "it is the last admin who can log in and has no limit")
		}
		// Who is let in again later has to prove themselves again.
		if record.Disabled && !p.Disabled {
			for sid := range p.sessions {
				if err := c.deleteSession(sid); err != nil {
					return err
				}
			}
		}
		if err := c.updatePerson(record); err != nil {
			return err
		}
		c.after = append(c.after, func(st *state) { a = st.people[id].account(c.now) })
		return nil
	})
	return a, err
}

func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}

// DeleteAccount removes one with its sessions and tokens; as ChangeAccount. What
// an external provider gave out to it is withdrawn.
func (s *Service) DeleteAccount(ctx context.Context, id int64) error {
	return s.change(ctx, func(c *change) error {
		p := c.st.people[id]
		if p == nil {
			return notFound("Account", id)
		}
		if p.mayAll() && c.st.admins(id) == 0 {
			return fleet.ErrOperation("delete account", "it is the last admin who can log in and has no limit")
		}
		if p.External {
			if err := c.endSessions(s, p.Subject, ""); err != nil {
				return err
			}
		}
		return c.deletePerson(id)
	})
}

// SetPassword replaces a person's password and ends their sessions, but for keep.
// API tokens stay. Errors: fleet.Invalid, fleet.NotFound, and
// fleet.InvalidOperation for an external account.
func (s *Service) SetPassword(ctx context.Context, id int64, password, keep string) error {
	return s.setPassword(ctx, id, "", password, keep)
}

// setPassword sets it if the hash is still old; "" is any.
func (s *Service) setPassword(ctx context.Context, id int64, old, password, keep string) error {
	a, err := s.Account(ctx, id)
	if fleet.KindOf(err) == fleet.NotFound { // made by another process just now?
		if err := s.reload(ctx); err != nil {
			return err
		}
		a, err = s.Account(ctx, id)
	}
	if err != nil {
		return err
	}
	if a.External {
		return fleet.ErrOperation("set the password", "the identity provider keeps it")
	}
	if err := weakPassword(password, a.Username, a.Email); err != nil {
		return err
	}
	hash, err := s.newHash(ctx, password)
	if err != nil {
		return unavailable(err)
	}
	return s.change(ctx, func(c *change) error {
		p := c.st.people[id]
		if p == nil {
			return notFound("Account", id)
		}
		if old != "" && p.Password != old {
			return errOldPassword()
		}
		record := p.StoredPerson
		record.Password = hash
		if err := c.updatePerson(record); err != nil {
			return err
		}
		for sid := range p.sessions {
			if sid == keep {
				continue
			}
			if err := c.deleteSession(sid); err != nil {
				return err
			}
		}
		return nil
	})
}

func errOldPassword() error { return fleet.E(fleet.Invalid, nil, "The old password is wrong") }

// ChangePassword is SetPassword by the person, who must know the old one; guesses
// are limited as at SignIn. Their session stays. Errors: fleet.Invalid for a wrong
// old or a bad new password, fleet.Forbidden for who has no password here, and a
// *TooManyAttempts in fleet.TooMany.
func (s *Service) ChangePassword(ctx context.Context, p Principal, old, password string, c Client) error {
	if p.Kind != Person || !strings.HasPrefix(p.Session, sessionID) {
		return fleet.E(fleet.Forbidden, nil, "Only who logged in with a password of Signalbox can change it")
	}
	s.mu.RLock()
	account := s.st.subject(p.Subject)
	s.mu.RUnlock()
	if account == nil || account.External {
		return Deny(Revoked, errNoSession)
	}
	if err := weakPassword(password, account.Username, account.Email); err != nil {
		return err
	}
	proven, _, err := s.prove(ctx, account.Username, old, c)
	if reason, denied := ReasonOf(err); denied && reason == Refused {
		return errOldPassword()
	}
	if err != nil {
		return err
	}
	return s.setPassword(ctx, proven.ID, proven.Password, password, p.Session)
}

// Entered notes that somebody logged in at the external provider, so that they
// are among the people, and may be disabled there. It may be called again when the
// provider says other roles. Errors: Deny(Refused) for who is disabled.
func (s *Service) Entered(ctx context.Context, p Principal, client Client) error {
	p.Session = p.sid()
	return s.change(ctx, func(c *change) error {
		c.quiet = true
		found := c.st.subject(p.Subject)
		record := externalPerson(p, c.now)
		switch {
		case found == nil:
			var err error
			if record, err = c.insertPerson(record); err != nil {
				return err
			}
			found = &person{StoredPerson: record}
		case !found.External:
			return Deny(Refused, errNotTheirs)
		case found.Disabled:
			return Deny(Refused, errDisabled)
		default:
			touch(&found.seen, c.now)
			was := found.StoredPerson
			if !was.said(record) {
				was.Name, was.Email, was.Roles, was.Limit = record.Name, record.Email, record.Roles, record.Limit
				c.quiet = false // it is what their API tokens may
				if err := c.updatePerson(was); err != nil {
					return err
				}
			}
		}
		if p.Session == "" || c.st.sessions[p.Session] != nil {
			if len(c.after) == 0 {
				return errNothing
			}
			return nil
		}
		if err := c.dropOldest(found); err != nil {
			return err
		}
		return c.insertSession(StoredSession{
			ID: p.Session, Person: found.ID, Client: client.clean(), CreatedAt: c.now, SeenAt: c.now,
			ExpiresAt: c.now.Add(s.opts.SessionMax), EndsAt: c.now.Add(s.opts.SessionMax),
		})
	})
}

// said reports whether the provider has said the same of somebody before.
func (p *StoredPerson) said(now StoredPerson) bool {
	return p.Name == now.Name && p.Email == now.Email && slices.Equal(p.Roles, now.Roles) &&
		slices.Equal(p.Limit.Models, now.Limit.Models) && slices.Equal(p.Limit.Tags, now.Limit.Tags)
}

// Told notes what a provider says in a new token of somebody who entered before:
// their roles and limit are what their API tokens may. It asks no database if it is
// what is known. Errors: those of Entered.
func (s *Service) Told(ctx context.Context, p Principal, client Client) error {
	s.mu.RLock()
	found := s.st.subject(p.Subject)
	news := found != nil && found.External && !found.said(externalPerson(p, s.now()))
	s.mu.RUnlock()
	if !news {
		return nil
	}
	return s.Entered(ctx, p, client)
}

// externalPerson returns the account of somebody whom a provider knows.
func externalPerson(p Principal, now time.Time) StoredPerson {
	return StoredPerson{Account: Account{
		Subject: keyOf(p.Subject), External: true, Name: clean(p.Name, 4*maxName), Email: clean(p.Email, 4*maxName), Roles: sorted(p.Roles),
		Limit:     Limit{Models: sorted(p.Limit.Models), Tags: sorted(p.Limit.Tags)},
		CreatedAt: now, SeenAt: &now,
	}}
}
