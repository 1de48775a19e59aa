package web

import (
	"net/http"
	"slices"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

// limitBody is the part of the fleet that somebody has to do with; null is all.
type limitBody struct {
	Models []string `json:"models"`
	Tags   []string `json:"tags"`
}

// limitOf returns a limit as it is shown. That of an API token is within its
// owner's, which is not shown beside it.
func limitOf(l access.Limit) *limitBody {
	switch {
	case l.None():
		return nil
	case len(l.Models) == 0 && len(l.Tags) == 0: // the owner's alone
		return limitOf(*l.Also)
	}
	return &limitBody{append([]string{}, l.Models...), append([]string{}, l.Tags...)}
}

// The most that a body may name.
const (
	maxRoles  = 16
	maxLimits = 200
)

// words returns a field that must be a list of at most that many strings. They
// come sorted, each once.
func (f *form) words(loc []any, v any, most int) []string {
	list, ok := v.([]any)
	switch {
	case !ok:
		f.fault("list_type", loc, "Input should be a valid list", v)
		return nil
	case len(list) > most:
		f.fault("too_long", loc, "List has too many items", nil)
		return nil
	}
	words := make([]string, 0, len(list))
	for i, item := range list {
		word, ok := item.(string)
		if !ok {
			f.fault("string_type", append(slices.Clone(loc), i), "Input should be a valid string", item)
			continue
		}
		words = append(words, word)
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// roles returns a field that must be there and be a list of strings.
func (f *form) roles() []string {
	v, ok := f.value("roles")
	if !ok {
		return nil
	}
	return f.words([]any{"roles"}, v, maxRoles)
}

// limit returns a field that is {"models": [], "tags": []}, or null or missing
// for no limit.
func (f *form) limit() (l access.Limit) {
	f.read["limit"] = true
	v := f.fields["limit"]
	if v == nil {
		return l
	}
	parts, ok := v.(map[string]any)
	if !ok {
		f.fault("dict_type", []any{"limit"}, "Input should be a valid dictionary", v)
		return l
	}
	for name, list := range map[string]*[]string{"models": &l.Models, "tags": &l.Tags} {
		if part, ok := parts[name]; ok {
			*list = f.words([]any{"limit", name}, part, maxLimits)
		}
	}
	if l.None() {
		// Nothing named would be everything: who writes that means something else.
		f.fault("value_error", []any{"limit"}, "Value error, a limit names models or tags; null is no limit", v)
	}
	return l
}

func momentOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return timestampOrNull(&t)
}

// loggedIn returns the caller if that is a person who logged in: a program must
// not make itself other keys, nor end its owner's sessions.
func (s *Server) loggedIn(r *http.Request) (access.Principal, error) {
	p, _ := access.FromContext(r.Context())
	switch {
	case p.Kind == access.Nobody || s.identity.Accounts == nil:
		return p, errNoLogin
	case p.Kind != access.Person:
		return p, fleet.E(fleet.Forbidden, nil, "Only somebody who is logged in may do this")
	}
	return p, nil
}

// accounts returns the accounts, for a handler that is no use without.
func (s *Server) accounts() (*access.Service, error) {
	if s.identity.Accounts == nil {
		return nil, errNoLogin
	}
	return s.identity.Accounts, nil
}

// accountInPath returns the accounts, and the id of the one that a request is about.
func (s *Server) accountInPath(r *http.Request) (*access.Service, int64, error) {
	id, err := pathID(r)
	if err != nil {
		return nil, 0, err
	}
	a, err := s.accounts()
	return a, id, err
}

type sessionBody struct {
	ID        string  `json:"id"`
	CreatedAt string  `json:"created_at"`
	SeenAt    *string `json:"seen_at"`
	ExpiresAt string  `json:"expires_at"`
	Address   *string `json:"address"`
	Agent     *string `json:"agent"`
	Current   bool    `json:"current"`
}

// listSessions answers the caller's open sessions. Those at a provider are the
// provider's to list.
func (s *Server) listSessions(w http.ResponseWriter, r *http.Request) error {
	p, err := s.loggedIn(r)
	if err != nil {
		return err
	}
	list := []sessionBody{}
	for _, o := range s.identity.Accounts.Sessions(p.Subject) {
		list = append(list, sessionBody{
			ID: o.ID, CreatedAt: timestamp(o.CreatedAt), SeenAt: momentOrNull(o.SeenAt), ExpiresAt: timestamp(o.ExpiresAt),
			Address: textOrNull(o.Client.Address), Agent: textOrNull(o.Client.Agent), Current: o.ID == p.Session,
		})
	}
	s.write(w, r, http.StatusOK, map[string]any{"sessions": list})
	return nil
}

func (s *Server) endOneSession(w http.ResponseWriter, r *http.Request) error {
	p, err := s.loggedIn(r)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if len(id) < 100 {
		audited(r.Context()).about("session", id, "")
	}
	if err := s.identity.Accounts.EndSession(r.Context(), p.Subject, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// endOtherSessions ends all of the caller's sessions but this one.
func (s *Server) endOtherSessions(w http.ResponseWriter, r *http.Request) error {
	p, err := s.loggedIn(r)
	if err != nil {
		return err
	}
	if err := s.identity.Accounts.EndSessions(r.Context(), p.Subject, p.Session); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) changePassword(w http.ResponseWriter, r *http.Request) error {
	p, err := s.loggedIn(r)
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	old, password := f.text("old", rule{most: 1024}), f.text("password", rule{})
	if err := f.err(); err != nil {
		return err
	}
	if s.identity.mode() != modeLocal {
		return fleet.E(fleet.InvalidOperation, nil, "The password is the identity provider's to change")
	}
	if err := s.identity.Accounts.ChangePassword(r.Context(), p, old, password, s.identity.client(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type tokenBody struct {
	ID        int64      `json:"id"`
	Name      string     `json:"name"`
	Hint      string     `json:"hint"`
	Roles     []string   `json:"roles"`
	Limit     *limitBody `json:"limit"`
	CreatedAt string     `json:"created_at"`
	ExpiresAt string     `json:"expires_at"`
	UsedAt    *string    `json:"used_at"`
	Subject   string     `json:"subject"`
}

func tokenOf(t access.TokenInfo) tokenBody {
	return tokenBody{
		ID: t.ID, Name: t.Name, Hint: t.Hint, Roles: append([]string{}, t.Roles...), Limit: limitOf(t.Limit),
		CreatedAt: timestamp(t.CreatedAt), ExpiresAt: timestamp(t.ExpiresAt), UsedAt: timestampOrNull(t.UsedAt), Subject: t.Subject,
	}
}

func (s *Server) writeTokens(w http.ResponseWriter, r *http.Request, tokens []access.TokenInfo) {
	list := make([]tokenBody, 0, len(tokens))
	for _, t := range tokens {
		list = append(list, tokenOf(t))
	}
	s.write(w, r, http.StatusOK, map[string]any{"tokens": list})
}

func (s *Server) listOwnTokens(w http.ResponseWriter, r *http.Request) error {
	p, err := s.loggedIn(r)
	if err != nil {
		return err
	}
	s.writeTokens(w, r, s.identity.Accounts.Tokens(p.Subject))
	return nil
}

// maxDays is how long an API token may be good.
const maxDays = 366

func (s *Server) createToken(w http.ResponseWriter, r *http.Request) error {
	p, err := s.loggedIn(r)
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	n := access.NewToken{Name: f.text("name", rule{least: 1, most: 100}), Roles: f.roles(), Limit: f.limit()}
	days := f.integer("days")
	if f.has("days") && (days < 1 || days > maxDays) {
		f.fault("value_error", []any{"days"}, "Value error, from 1 to 366", f.fields["days"])
	}
	if err := f.err(); err != nil {
		return err
	}
	n.Lifetime = time.Duration(days) * 24 * time.Hour
	key, t, err := s.identity.Accounts.CreateToken(r.Context(), p, n)
	if err != nil {
		return err
	}
	e := audited(r.Context())
	e.about("token", t.ID, t.Name)
	e.detail("roles", t.Roles)
	s.write(w, r, http.StatusCreated, struct {
		tokenBody
		Secret string `json:"secret"`
	}{tokenOf(t), key})
	return nil
}

func (s *Server) revokeOwnToken(w http.ResponseWriter, r *http.Request) error {
	p, err := s.loggedIn(r)
	if err != nil {
		return err
	}
	return s.revoke(w, r, p.Subject)
}

func (s *Server) revoke(w http.ResponseWriter, r *http.Request, subject string) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := s.identity.Accounts.RevokeToken(r.Context(), subject, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) listAllTokens(w http.ResponseWriter, r *http.Request) error {
	a, err := s.accounts()
	if err != nil {
		return err
	}
	s.writeTokens(w, r, a.Tokens(""))
	return nil
}

func (s *Server) revokeAnyToken(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.accounts(); err != nil {
		return err
	}
	return s.revoke(w, r, "")
}

type personBody struct {
	ID        int64      `json:"id"`
	Subject   string     `json:"subject"`
	External  bool       `json:"external"`
	Username  *string    `json:"username"`
	Name      string     `json:"name"`
	Email     *string    `json:"email"`
	Roles     []string   `json:"roles"`
	Limit     *limitBody `json:"limit"`
	Disabled  bool       `json:"disabled"`
	CreatedAt string     `json:"created_at"`
	SeenAt    *string    `json:"seen_at"`
	Sessions  int        `json:"sessions"`
	Tokens    int        `json:"tokens"`
}

func personOf(a access.Account) personBody {
	return personBody{
		ID: a.ID, Subject: a.Subject, External: a.External, Username: textOrNull(a.Username), Name: a.Name, Email: textOrNull(a.Email),
		Roles: append([]string{}, a.Roles...), Limit: limitOf(a.Limit), Disabled: a.Disabled, CreatedAt: timestamp(a.CreatedAt),
		SeenAt: timestampOrNull(a.SeenAt), Sessions: a.Sessions, Tokens: a.Tokens,
	}
}

func (s *Server) listPeople(w http.ResponseWriter, r *http.Request) error {
	a, err := s.accounts()
	if err != nil {
		return err
	}
	people, err := a.Accounts(r.Context())
	if err != nil {
		return err
	}
	list := make([]personBody, 0, len(people))
	for _, p := range people {
		list = append(list, personOf(p))
	}
	s.write(w, r, http.StatusOK, map[string]any{"people": list})
	return nil
}

func (s *Server) createPerson(w http.ResponseWriter, r *http.Request) error {
	a, err := s.accounts()
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	n := access.NewAccount{
		Username: f.text("username", rule{least: 1, most: 64}), Name: optional(f.textOrNull("name", rule{most: 255})),
		Email: optional(f.textOrNull("email", rule{most: 255})), Password: f.text("password", rule{}), Roles: f.roles(), Limit: f.limit(),
	}
	if err := f.err(); err != nil {
		return err
	}
	p, err := a.CreateAccount(r.Context(), n)
	if err != nil {
		return err
	}
	e := audited(r.Context())
	e.about("person", p.ID, p.Username)
	e.detail("roles", p.Roles)
	s.write(w, r, http.StatusCreated, personOf(p))
	return nil
}

func (s *Server) getPerson(w http.ResponseWriter, r *http.Request) error {
	a, id, err := s.accountInPath(r)
	if err != nil {
		return err
	}
	p, err := a.Account(r.Context(), id)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, personOf(p))
	return nil
}

// updatePerson changes what is given. A limit of null takes the limit away; of
// the others null means unchanged.
func (s *Server) updatePerson(w http.ResponseWriter, r *http.Request) error {
	a, id, err := s.accountInPath(r)
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	e := audited(r.Context())
	c := access.AccountChange{Name: f.textOrNull("name", rule{most: 255}), Email: f.textOrNull("email", rule{most: 255})}
	if f.fields["roles"] != nil {
		c.Roles = new(f.roles())
		e.detail("roles", *c.Roles)
	}
	if f.has("limit") {
		c.Limit = new(f.limit())
		e.detail("limit", limitOf(*c.Limit))
	}
	if f.fields["disabled"] != nil {
		c.Disabled = new(f.boolean("disabled"))
		e.detail("disabled", *c.Disabled)
	}
	if err := f.err(); err != nil {
		return err
	}
	p, err := a.ChangeAccount(r.Context(), id, c)
	if err != nil {
		return err
	}
	e.about("person", p.ID, nameOf(p))
	s.write(w, r, http.StatusOK, personOf(p))
	return nil
}

func nameOf(a access.Account) string {
	if a.Username != "" {
		return a.Username
	}
	return a.Name
}

func (s *Server) deletePerson(w http.ResponseWriter, r *http.Request) error {
	a, id, err := s.accountInPath(r)
	if err != nil {
		return err
	}
	p, err := a.Account(r.Context(), id)
	if err != nil {
		return err
	}
	audited(r.Context()).about("person", id, nameOf(p))
	if err := a.DeleteAccount(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// resetPassword gives somebody another password, and ends their sessions; the
// caller's own goes on.
func (s *Server) resetPassword(w http.ResponseWriter, r *http.Request) error {
	a, id, err := s.accountInPath(r)
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	password := f.text("password", rule{})
	if err := f.err(); err != nil {
		return err
	}
	who, _ := access.FromContext(r.Context())
	if err := a.SetPassword(r.Context(), id, password, who.Session); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) endPersonsSessions(w http.ResponseWriter, r *http.Request) error {
	a, id, err := s.accountInPath(r)
	if err != nil {
		return err
	}
	p, err := a.Account(r.Context(), id)
	if err != nil {
		return err
	}
	audited(r.Context()).label = nameOf(p)
	if err := a.EndSessions(r.Context(), p.Subject, ""); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
