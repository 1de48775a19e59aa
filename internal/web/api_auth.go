package web

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// showMode answers whether people log in, and where.
func (s *Server) showMode(w http.ResponseWriter, r *http.Request) error {
	mode := s.identity.mode()
	s.write(w, r, http.StatusOK, map[string]any{
		"mode": mode, "insecure": s.identity.insecure(), "setup": mode == modeOff && s.identity.Accounts != nil && s.identity.Accounts.SetupSecret() != "",
	})
	return nil
}

func (i *identity) insecure() bool { return i.Insecure && i.mode() == modeOff }

// self answers who the caller is.
func (s *Server) self(w http.ResponseWriter, r *http.Request) error {
	p, _ := access.FromContext(r.Context())
	s.writeSelf(w, r, p)
	return nil
}

func (s *Server) writeSelf(w http.ResponseWriter, r *http.Request, p access.Principal) {
	expires := &p.Expires
	if p.Expires.IsZero() {
		expires = nil
	}
	s.write(w, r, http.StatusOK, struct {
		Subject   string      `json:"subject"`
		Email     *string     `json:"email"`
		Name      *string     `json:"name"`
		Roles     []string    `json:"roles"`
		Kind      access.Kind `json:"kind"`
		Limit     *limitBody  `json:"limit"`
		Mode      string      `json:"mode"`
		Insecure  bool        `json:"insecure"`
		Session   *string     `json:"session"`
		ExpiresAt *string     `json:"expires_at"`
	}{
		p.Subject, textOrNull(p.Email), textOrNull(p.Name), append([]string{}, p.Roles...), p.Kind, limitOf(p.Limit),
		s.identity.mode(), s.identity.insecure(), textOrNull(p.Session), timestampOrNull(expires),
	})
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

var (
	errNoLogin  = fleet.E(fleet.Invalid, nil, "Authentication is not enabled")
	errRedirect = fleet.E(fleet.Invalid, nil, "Invalid redirect URL - external redirects not allowed")
)

// maxRedirect bounds where a login leads, in bytes: browsers keep it in a cookie.
const maxRedirect = 2000

// ownPath returns what a redirect is to within our own pages: a path, with a
// query and a fragment if it has them. A browser must not be able to read it as
// another site's address, whatever it makes of slashes and backslashes (WHATWG
// URL, section 4.4: a backslash is a slash, and tabs and newlines are nothing).
func ownPath(redirect, base string) (string, error) {
	if len(redirect) > maxRedirect || strings.ContainsFunc(redirect, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '\\' || c == '\uFFFD' }) {
		return "", errRedirect
	}
	u, err := url.Parse(redirect)
	if err != nil || u.Opaque != "" || u.User != nil {
		return "", errRedirect
	}
	if u.Scheme != "" || u.Host != "" {
		own, err := url.Parse(base)
		if err != nil || !strings.EqualFold(u.Scheme, own.Scheme) || !strings.EqualFold(u.Host, own.Host) {
			return "", errRedirect
		}
		u.Scheme, u.Host = "", ""
		if u.Path == "" {
			u.Path = "/"
		}
	}
	path := u.String()
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") {
		return "", errRedirect
	}
	return path, nil
}

// stateAge is how long a login at the provider may take, and maxLogins how many
// a browser may have begun at once, in several tabs.
const (
	stateAge  = 10 * time.Minute
	maxLogins = 5
)

// loginState is a login that a browser has begun. The cookie holds a list of
// them, sealed: an answer of the provider is taken only from the browser that asked.
type loginState struct {
	State    string    `json:"s"`
	Verifier string    `json:"v"`
	Nonce    string    `json:"n"`
	Redirect string    `json:"r"`
	Begun    time.Time `json:"t"`
}

// logins returns the logins that the browser has begun and that may still end.
func (i *identity) logins(r *http.Request) (open []loginState) {
	c, err := r.Cookie(stateCookie)
	if err != nil {
		return nil
	}
	text, err := i.Box.Open(c.Value, stateCookie)
	if err != nil || json.Unmarshal([]byte(text), &open) != nil {
		return nil
	}
	return slices.DeleteFunc(open, func(l loginState) bool { return time.Since(l.Begun) >= stateAge })
}

// keepLogins has the browser keep them, the oldest not if that is too much.
func (i *identity) keepLogins(w http.ResponseWriter, open []loginState) {
	// Lax, as it has to come back with the provider's redirect; in a frame of
	// another site not even that does.
	c := &http.Cookie{
		Name: stateCookie, Path: "/api/auth", HttpOnly: true, Secure: i.Cookies.Secure, SameSite: http.SameSiteLaxMode, Partitioned: i.Cookies.Partitioned, MaxAge: -1,
	}
	if i.Cookies.SameSite == http.SameSiteNoneMode {
		c.SameSite = http.SameSiteNoneMode
	}
	for ; len(open) > 0; open = open[1:] {
		text, err := json.Marshal(open)
		if err != nil {
			panic(err) // of texts and times
		}
		c.Value, c.MaxAge = i.Box.Seal(string(text), stateCookie), int(stateAge/time.Second)
		if len(open) <= maxLogins && len(c.Name)+len(c.Value) <= longestCookie-200 { // the attributes count, too
			break
		}
	}
	if len(open) == 0 {
		c.Value, c.MaxAge = "", -1
	}
	http.SetCookie(w, c)
}

// beginLogin sends a browser to where people log in.
func (s *Server) beginLogin(w http.ResponseWriter, r *http.Request) error {
	i := s.identity
	mode := i.mode()
	if mode == modeOff {
		return errNoLogin
	}
	if !r.URL.Query().Has("redirect") {
		return fleet.E(fleet.Invalid, nil, "Missing required 'redirect' parameter")
	}
	path, err := ownPath(r.URL.Query().Get("redirect"), i.BaseURL)
	if err != nil {
		return err
	}
	if mode == modeLocal {
		redirectTo(w, "/login?redirect="+url.QueryEscape(path))
		return nil
	}
	l := loginState{State: secret.NewText(), Verifier: secret.NewText(), Nonce: secret.NewText(), Redirect: path, Begun: time.Now()}
	to, err := i.Provider.LoginURL(access.Login{State: l.State, Nonce: l.Nonce, Verifier: l.Verifier})
	if err != nil {
		return err
	}
	i.keepLogins(w, append(i.logins(r), l))
	redirectTo(w, to)
	return nil
}

// redirectTo answers 302. No cache may keep it: it may set cookies.
func redirectTo(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusFound)
}

// login lets somebody with an account of Signalbox in.
func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	username, password := f.text("username", rule{most: 255}), f.text("password", rule{most: 1024})
	if err := f.err(); err != nil {
		return err
	}
	i := s.identity
	if i.mode() != modeLocal {
		return errNoLogin
	}
	e := audited(r.Context())
	e.detail("username", username)
	key, p, err := i.Accounts.SignIn(r.Context(), username, password, i.client(r))
	if err != nil {
		e.action = loginFailed
		if reason, _ := access.ReasonOf(err); reason == access.Refused {
			return fleet.E(fleet.Unauthenticated, err, "Wrong user name or password")
		}
		return err
	}
	e.by(p)
	i.keepSession(w, key, p)
	s.writeSelf(w, r, p)
	return nil
}

// setup makes the first account and lets its owner in.
func (s *Server) setup(w http.ResponseWriter, r *http.Request) error {
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	proof := f.text("setup", rule{most: 255})
	n := access.NewAccount{
		Username: f.text("username", rule{least: 1, most: 64}), Password: f.text("password", rule{}), Name: optional(f.textOrNull("name", rule{most: 255})),
	}
	if err := f.err(); err != nil {
		return err
	}
	i := s.identity
	if i.Accounts == nil || i.Provider != nil {
		return errNoLogin
	}
	key, p, err := i.Accounts.Setup(r.Context(), proof, n, i.client(r))
	if err != nil {
		return err
	}
	e := audited(r.Context())
	e.by(p)
	e.about("person", strings.TrimPrefix(p.Subject, "local:"), n.Username) // by its id, as elsewhere
	i.keepSession(w, key, p)
	s.writeSelf(w, r, p)
	return nil
}

func optional(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// endLogin is where the provider sends a browser back to.
func (s *Server) endLogin(w http.ResponseWriter, r *http.Request) error {
	i := s.identity
	if i.mode() != modeOIDC {
		return errNoLogin
	}
	query := r.URL.Query()
	open := i.logins(r)
	at := -1
	for n, l := range open {
		if secret.Equal(query.Get("state"), l.State) {
			at = n
		}
	}
	switch {
	case query.Get("error") != "" && at >= 0:
		i.keepLogins(w, slices.Delete(open, at, at+1))
		return fleet.E(fleet.Unauthenticated, access.Deny(access.Refused, nil), "The identity provider refused the login")
	case query.Get("code") == "":
		return fleet.E(fleet.Invalid, nil, "Missing 'code' parameter in callback")
	case query.Get("state") == "":
		return fleet.E(fleet.Invalid, nil, "Missing 'state' parameter in callback")
	case at < 0:
		return fleet.E(fleet.Invalid, access.Deny(access.Mismatch, nil), "Invalid or expired authentication state")
	}
	l := open[at]
	i.keepLogins(w, slices.Delete(open, at, at+1)) // it is good once
	p, tokens, err := s.enter(r, query.Get("code"), access.Login{State: l.State, Nonce: l.Nonce, Verifier: l.Verifier})
	e := audited(r.Context())
	e.by(p)
	if err != nil {
		e.action = loginFailed
		i.exchanges.WithLabelValues("failed").Inc()
		if fleet.KindOf(err) == fleet.Unauthenticated {
			return fleet.E(fleet.Unauthenticated, err, "Failed to exchange authorization code")
		}
		return err
	}
	i.exchanges.WithLabelValues("success").Inc()
	i.keepTokens(w, tokens, time.Now())
	redirectTo(w, l.Redirect)
	return nil
}

// enter turns a code into somebody who may come in, or may not: they are known in
// either case, unless the provider does not know them. Who has no role comes in as
// well, and is told so on every page.
func (s *Server) enter(r *http.Request, code string, l access.Login) (p access.Principal, t access.Tokens, err error) {
	i := s.identity
	if t, err = i.Provider.Exchange(r.Context(), code, l); err != nil {
		return p, t, err
	}
	claimed := i.principal(t.Claims)
	if claimed.Kind != access.Person {
		return claimed, t, access.Deny(access.WrongUse, nil)
	}
	if p, err = i.known(claimed); err != nil {
		return claimed, t, err
	}
	return p, t, i.Accounts.Entered(r.Context(), p, i.client(r))
}

// logout ends the session of a browser that comes by a link.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	redirect := r.URL.Query().Get("redirect")
	if redirect == "" {
		redirect = "/"
	}
	path, err := ownPath(redirect, s.identity.BaseURL)
	if err != nil {
		return err
	}
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
		return errCrossOrigin // an image of another site's page
	}
	to, err := s.endSession(w, r, path)
	if err != nil {
		return err
	}
	if to == "" {
		to = path
	}
	redirectTo(w, to)
	return nil
}

// logoutHere ends the caller's session, and says where the provider's own ends.
func (s *Server) logoutHere(w http.ResponseWriter, r *http.Request) error {
	to, err := s.endSession(w, r, "/")
	if err != nil {
		return err
	}
	if to == "" {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	s.write(w, r, http.StatusOK, map[string]string{"redirect": to})
	return nil
}

// endSession ends the session that a request is of, if any, clears the cookies
// and returns where the provider ends its own, "" if there is none.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request, path string) (to string, err error) {
	i := s.identity
	if i.mode() == modeOff {
		audited(r.Context()).silent = true
		return "", nil
	}
	// What an expired token does not say any more, new ones do: whose session it
	// is, and to the provider that the browser is this person's.
	got := &cookieJar{ResponseWriter: w}
	p, err := i.identify(got, r, false)
	switch {
	case err == nil && p.Kind == access.Person:
		audited(r.Context()).by(p)
		if s.streams != nil {
			s.streams.LogOut(p)
		}
		if err := i.Accounts.SignOut(r.Context(), p); err != nil {
			return "", err
		}
	default: // nobody, or somebody without a session: there is nothing to end but the cookies
		audited(r.Context()).silent = true
	}
	i.clear(w)
	if i.Provider == nil {
		return "", nil
	}
	idToken := got.value(idCookie)
	if c, err := r.Cookie(idCookie); err == nil && idToken == "" {
		idToken = c.Value
	}
	return i.Provider.LogoutURL(idToken, i.BaseURL+path), nil
}

// cookieJar keeps the headers of an answer from the answer.
type cookieJar struct {
	http.ResponseWriter
	header http.Header
}

// Header implements http.ResponseWriter.
func (j *cookieJar) Header() http.Header {
	if j.header == nil {
		j.header = http.Header{}
	}
	return j.header
}

// value returns a cookie that was set.
func (j *cookieJar) value(name string) string {
	for _, line := range j.header["Set-Cookie"] {
		if c, err := http.ParseSetCookie(line); err == nil && c.Name == name {
			return c.Value
		}
	}
	return ""
}

// maxLogoutBody bounds the form of a back-channel logout, in bytes.
const maxLogoutBody = 64 << 10

// backchannelLogout is how the provider tells that it ended a session (OpenID
// Connect Back-Channel Logout 1.0, sections 2.5 to 2.8).
func (s *Server) backchannelLogout(w http.ResponseWriter, r *http.Request) error {
	i := s.identity
	if i.mode() != modeOIDC {
		return errNoLogin
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLogoutBody)
	if err := r.ParseForm(); err != nil {
		return fleet.E(fleet.Invalid, err, "The request is no form, or too long")
	}
	out, err := i.Provider.VerifyLogout(r.Context(), r.PostForm.Get("logout_token"))
	if err != nil {
		if fleet.KindOf(err) == fleet.Unauthenticated {
			return fleet.E(fleet.Invalid, err, "Invalid logout token")
		}
		return err
	}
	if !s.spent.first(out.ID, out.Expires) {
		return fleet.E(fleet.Invalid, access.Deny(access.WrongUse, nil), "Invalid logout token")
	}
	session := out.Session
	if err := i.Accounts.Revoke(r.Context(), access.Revocation{Subject: out.Subject, Session: session, Until: time.Now().Add(i.RefreshAge)}); err != nil {
		s.spent.forget(out.ID) // the provider may try again
		return err
	}
	e := audited(r.Context())
	e.by(access.Principal{Kind: access.Person, Subject: out.Subject})
	e.detail("by", "provider")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return nil
}

// once remembers what may come once, each until it is no good any more.
type once struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

// first reports whether id has not come before.
func (o *once) first(id string, until time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	for old, end := range o.seen {
		if now.After(end.Add(time.Hour)) { // the provider's clock may differ
			delete(o.seen, old)
		}
	}
	if _, again := o.seen[id]; again {
		return false
	}
	if o.seen == nil {
		o.seen = map[string]time.Time{}
	}
	o.seen[id] = until
	return true
}

func (o *once) forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.seen, id)
}
