package web

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// Identity is how people prove who they are.
type Identity struct {
	Accounts *access.Service // people, API tokens, revocations and the audit

	// Provider is where people log in. Nil: here, as soon as somebody has an
	// account; until then everybody is access.Local.
	Provider access.Provider
	ClientID string // ours at the provider

	BaseURL  string      // under which people reach Signalbox, without a slash at the end
	Insecure bool        // other machines reach a listener, and nobody need log in
	Cookies  Cookies     // of what browsers keep
	Box      *secret.Box // seals what they need not read

	// RefreshAge is how long a browser keeps a refresh token that does not say
	// when it ends.
	RefreshAge time.Duration

	// Proxies are the networks whose word about where a request comes from
	// (X-Forwarded-For) is taken.
	Proxies []netip.Prefix

	// Renewed is told when a request moved the end of a session ahead: what is
	// open for it may go on. May be nil.
	Renewed func(access.Principal)
}

// Cookies are the names and attributes of the cookies of a login.
type Cookies struct {
	Access      string // "" is access_token
	Refresh     string // "" is refresh_token
	Secure      bool
	SameSite    http.SameSite // 0 is Lax
	Partitioned bool
}

// The cookies whose names are fixed.
const (
	idCookie    = "id_token"
	stateCookie = "login_state"
)

// The modes: whether people log in, and where.
const (
	modeOff   = "off"
	modeLocal = "local"
	modeOIDC  = "oidc"
)

// verifiedTokens bounds how many verified tokens are remembered.
const verifiedTokens = 10_000

// identity is an Identity at work.
type identity struct {
	Identity
	log      *slog.Logger
	verified *lru.Cache[[sha256.Size]byte, access.Claims]

	validations *prometheus.CounterVec
	duration    prometheus.Observer
	exchanges   *prometheus.CounterVec
	refreshes   *prometheus.CounterVec
}

func newIdentity(o *Identity, log *slog.Logger, reg prometheus.Registerer) *identity {
	verified, err := lru.New[[sha256.Size]byte, access.Claims](verifiedTokens)
	if err != nil {
		panic(err) // the size is a constant
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return promauto.With(reg).NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"status"})
	}
	i := &identity{
		log: log, verified: verified,
		validations: counter("auth_validation_total", "Requests by what came of the proof of who sent them: success, or why it was not believed."),
		duration: promauto.With(reg).NewHistogram(prometheus.HistogramOpts{
			Name: "auth_validation_duration_seconds", Help: "Duration of finding out who sent a request.", Buckets: []float64{.00001, .0001, .001, .01, .1, 1, 10},
		}),
		exchanges: counter("oidc_token_exchange_total", "Logins at the identity provider that came back with a code."),
		refreshes: counter("auth_token_refresh_total", "Requests that needed new tokens of the identity provider."),
	}
	if o != nil {
		i.Identity = *o
	}
	c := &i.Cookies
	c.Access, c.Refresh = cmp.Or(c.Access, "access_token"), cmp.Or(c.Refresh, "refresh_token")
	c.SameSite = cmp.Or(c.SameSite, http.SameSiteLaxMode)
	return i
}

// mode returns whether people log in, and where.
func (i *identity) mode() string {
	switch {
	case i.Provider != nil:
		return modeOIDC
	case i.Accounts != nil && i.Accounts.HasPeople():
		return modeLocal
	}
	return modeOff
}

// identify returns who sent a request. It looks at the cookie before the
// Authorization header, or with bearerFirst behind it. Where the cookie's token
// has expired it gets a new one, and where the session is over it clears the
// cookies: both are said in the headers of w. Errors: those of access.Deny.
func (i *identity) identify(w http.ResponseWriter, r *http.Request, bearerFirst bool) (access.Principal, error) {
	if i.mode() == modeOff {
		if !i.ownName(r.Host) {
			return access.Principal{}, errName
		}
		return access.Local(), nil
	}
	start := time.Now()
	token, fromCookie := i.token(r, bearerFirst)
	p, err := i.believe(w, r, token, fromCookie)
	if reason, _ := access.ReasonOf(err); (reason == access.Expired && fromCookie || reason == access.Missing) && i.Provider != nil {
		p, err = i.refresh(w, r, err)
	} else if fromCookie && (reason == access.Revoked || reason == access.Expired) {
		i.clear(w)
	}
	i.duration.Observe(time.Since(start).Seconds())
	i.validations.WithLabelValues(label(err)).Inc()
	return p, err
}

var errName = fleet.E(fleet.Forbidden, nil, "Signalbox is not known under this name: BASEURL says under which it is")

// ownName reports whether a request that nobody need prove anything for was
// meant for us. A page of another site can have its own name lead to this machine
// (DNS rebinding); its browser then takes us for that site, and lets the page read
// and do everything. What is open to other machines is open to such pages anyway.
func (i *identity) ownName(host string) bool {
	if i.Accounts == nil || i.Insecure {
		return true
	}
	u, err := url.Parse("http://" + host)
	if err != nil || u.Host != host {
		return false
	}
	name := u.Hostname()
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.Unmap().IsLoopback()
	}
	base, err := url.Parse(i.BaseURL)
	return !strings.Contains(name, ".") || err == nil && strings.EqualFold(name, base.Hostname()) // who has no dot is of this network
}

// label is the metric label of what came of it.
func label(err error) string {
	if err == nil {
		return "success"
	}
	if reason, ok := access.ReasonOf(err); ok {
		return reason.String()
	}
	return "error"
}

// token returns the token of a request, "" if there is none.
func (i *identity) token(r *http.Request, bearerFirst bool) (token string, fromCookie bool) {
	bearer := secret.Bearer(r.Header)
	if c, err := r.Cookie(i.Cookies.Access); err == nil && c.Value != "" && (bearer == "" || !bearerFirst) {
		return c.Value, true
	}
	return bearer, false
}

// believe returns whom a token is of.
func (i *identity) believe(w http.ResponseWriter, r *http.Request, token string, fromCookie bool) (access.Principal, error) {
	switch {
	case token == "":
		return access.Principal{}, access.Deny(access.Missing, nil)
	case strings.HasPrefix(token, access.TokenPrefix):
		return i.Accounts.APIToken(token)
	case strings.HasPrefix(token, access.SessionPrefix):
		if i.Provider != nil { // it is from before
			return access.Principal{}, access.Deny(access.Malformed, nil)
		}
		if !fromCookie {
			return i.Accounts.Session(token)
		}
		p, renewed, err := i.Accounts.Renew(r.Context(), token)
		if renewed {
			i.keepSession(w, token, p)
			i.renewed(p)
		}
		return p, err
	case i.Provider == nil:
		return access.Principal{}, access.Deny(access.Malformed, nil)
	}
	claims, err := i.verify(r.Context(), token)
	if err != nil {
		return access.Principal{}, err
	}
	return i.known(i.principal(claims))
}

// verify is Provider.Verify, which is asked once for each token. A token that
// was verified is good until it expires, also when its key is withdrawn meanwhile.
func (i *identity) verify(ctx context.Context, token string) (access.Claims, error) {
	key := sha256.Sum256([]byte(token))
	if c, ok := i.verified.Get(key); ok && time.Now().Before(c.Expires) {
		return c, nil
	}
	c, err := i.Provider.Verify(ctx, token)
	if err == nil {
		i.verified.Add(key, c)
	}
	return c, err
}

// principal returns who the claims of a token are about: a device, by the client
// that the token was given to; a program, if it was given to another client than
// ours without a session of somebody; or else a person.
func (i *identity) principal(c access.Claims) access.Principal {
	p := access.Principal{
		Kind: access.Person, Subject: c.Subject, Email: c.Email, Name: c.Name,
		Session: cmp.Or(c.Session, "sub:"+c.Subject), Issued: c.IssuedAt, Expires: c.Expires,
	}
	if _, _, device := fleet.ParseClientID(c.ClientID); device {
		p.Kind, p.Name = access.Device, c.ClientID
		return p // whatever roles its token has
	}
	if c.ClientID != "" && c.ClientID != i.ClientID && c.Session == "" {
		p.Kind, p.Name = access.Token, cmp.Or(c.Name, c.ClientID)
	}
	p.Roles, p.Limit = access.FromRoles(c.Roles)
	return p
}

// known returns a principal of the provider as Signalbox knows it by now.
func (i *identity) known(p access.Principal) (access.Principal, error) {
	if p.Kind == access.Device {
		return p, nil // it has no rights here that could be taken away
	}
	if p.Subject == "" {
		return access.Principal{}, access.Deny(access.Incomplete, nil)
	}
	return i.Accounts.Check(p)
}

// check returns a principal for whom something is still open, as it is now.
func (i *identity) check(p access.Principal) (access.Principal, error) {
	if p.Kind != access.Nobody {
		return i.Accounts.Check(p)
	}
	if i.mode() != modeOff { // somebody has an account by now
		return access.Principal{}, access.Deny(access.Revoked, nil)
	}
	return p, nil
}

func (i *identity) renewed(p access.Principal) {
	if i.Renewed != nil {
		i.Renewed(p)
	}
}

// refreshToken is what the refresh cookie holds, sealed. The time of the login
// makes a logout everywhere hold for browsers that were away meanwhile: the
// provider may give them a new access token, which says nothing of it.
type refreshToken struct {
	Token   string    `json:"t"`
	Subject string    `json:"s"`
	Since   time.Time `json:"i"` // when they logged in
}

// refresh gets new tokens with the refresh cookie, and tells the browser. why is
// the error if there is no such cookie.
func (i *identity) refresh(w http.ResponseWriter, r *http.Request, why error) (access.Principal, error) {
	c, err := r.Cookie(i.Cookies.Refresh)
	if err != nil || c.Value == "" {
		return access.Principal{}, why
	}
	p, err := i.exchangeRefresh(w, r, c.Value)
	status := "success"
	if err != nil {
		status = "failed"
		if fleet.KindOf(err) == fleet.Unauthenticated { // else it may be good yet
			i.clear(w)
		}
	}
	i.refreshes.WithLabelValues(status).Inc()
	return p, err
}

func (i *identity) exchangeRefresh(w http.ResponseWriter, r *http.Request, sealed string) (access.Principal, error) {
	var kept refreshToken
	text, err := i.Box.Open(sealed, i.Cookies.Refresh)
	if err == nil {
		err = json.Unmarshal([]byte(text), &kept)
	}
	if err != nil {
		return access.Principal{}, access.Deny(access.Refused, err)
	}
	tokens, err := i.Provider.Refresh(r.Context(), kept.Token)
	if err != nil {
		if fleet.KindOf(err) == fleet.Unauthenticated {
			err = access.Deny(access.Refused, err) // whatever is wrong with what came, the session is over
		}
		return access.Principal{}, err
	}
	if tokens.Claims.Subject != kept.Subject {
		return access.Principal{}, access.Deny(access.Refused, errors.New("the refresh brought tokens of another subject"))
	}
	p := i.principal(tokens.Claims)
	then := p
	then.Issued = kept.Since
	if _, err := i.known(then); err != nil {
		return access.Principal{}, err
	}
	if p, err = i.known(p); err != nil {
		return access.Principal{}, err
	}
	if p.Kind == access.Person {
		// What the person's API tokens may, too. While it cannot be stored the person
		// goes on all the same.
		if err := i.Accounts.Told(r.Context(), p, i.client(r)); fleet.KindOf(err) == fleet.Unauthenticated && err != nil {
			return access.Principal{}, err
		} else if err != nil {
			i.log.WarnContext(r.Context(), "what the identity provider says of somebody could not be stored: their API tokens may what they could before", "subject", p.Subject, "err", err)
		}
	}
	i.keepTokens(w, tokens, kept.Since)
	i.renewed(p)
	return p, nil
}

// keepTokens has the browser keep the tokens of a provider.
func (i *identity) keepTokens(w http.ResponseWriter, t access.Tokens, since time.Time) {
	age := time.Until(t.Claims.Expires)
	i.setCookie(w, i.Cookies.Access, t.Access, age)
	if t.ID != "" {
		i.setCookie(w, idCookie, t.ID, age)
	}
	if t.Refresh == "" {
		return
	}
	text, err := json.Marshal(refreshToken{t.Refresh, t.Claims.Subject, since})
	if err != nil {
		panic(err) // of texts and a time
	}
	age = i.RefreshAge
	if exp, ok := expiryOf(t.Refresh); ok {
		age = time.Until(exp)
	}
	i.setCookie(w, i.Cookies.Refresh, i.Box.Seal(string(text), i.Cookies.Refresh), age)
}

// keepSession has the browser keep a session of ours.
func (i *identity) keepSession(w http.ResponseWriter, secret string, p access.Principal) {
	i.setCookie(w, i.Cookies.Access, secret, time.Until(p.Expires))
}

// longestCookie is from how many bytes on browsers may not keep a cookie (RFC
// 6265, section 6.1).
const longestCookie = 4096

// longestAge is as long as browsers keep a cookie anyway (RFC 6265bis, section
// 5.5). More, as a token may say, is beyond an int of 32 bits.
const longestAge = 400 * 24 * time.Hour

func (i *identity) setCookie(w http.ResponseWriter, name, value string, age time.Duration) {
	if len(name)+len(value) > longestCookie {
		i.log.Warn("a cookie is too long for browsers to keep: have the provider put less into its tokens", "cookie", name, "bytes", len(value))
	}
	http.SetCookie(w, i.cookie(name, value, int(min(max(age, time.Second), longestAge)/time.Second)))
}

func (i *identity) cookie(name, value string, maxAge int) *http.Cookie {
	c := i.Cookies
	return &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: c.Secure, SameSite: c.SameSite, Partitioned: c.Partitioned}
}

// clear has the browser forget its login.
func (i *identity) clear(w http.ResponseWriter) {
	for _, name := range []string{i.Cookies.Access, i.Cookies.Refresh, idCookie} {
		http.SetCookie(w, i.cookie(name, "", -1))
	}
}

// expiryOf returns when a token ends, if it is a JWT that says so. It is not
// verified: only the provider who gave it reads it.
func expiryOf(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 || claims.Expires > 1<<40 {
		return time.Time{}, false // Keycloak's offline tokens have 0, or none
	}
	return time.Unix(int64(claims.Expires), 0), true
}

const maxAgent = 200

// client returns where a request comes from.
func (i *identity) client(r *http.Request) access.Client {
	agent := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return -1
		}
		return c
	}, r.UserAgent())
	return access.Client{Address: i.Address(r), Agent: strings.ToValidUTF8(agent[:min(len(agent), maxAgent)], "")}
}

// Address returns the address of who sent a request: of the peer, or, as far as
// that is a proxy to be trusted, of whom it says it had the request from.
func (i *Identity) Address(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr := peer.Addr().Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for n := len(hops) - 1; n >= 0 && i.isProxy(addr); n-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[n]))
		if err != nil {
			break
		}
		addr = hop.Unmap().WithZone("")
	}
	return addr.String()
}

func (i *Identity) isProxy(a netip.Addr) bool {
	for _, network := range i.Proxies {
		if network.Contains(a) {
			return true
		}
	}
	return false
}

// newCrossOrigin refuses requests of other sites' pages that change something,
// but for those of the origins and of our own.
func newCrossOrigin(base string, origins []string) *http.CrossOriginProtection {
	c := http.NewCrossOriginProtection()
	if u, err := url.Parse(base); err == nil && u.Host != "" {
		origins = append([]string{u.Scheme + "://" + u.Host}, origins...)
	}
	for _, origin := range origins {
		if origin != "*" { // whoever may read what is public
			_ = c.AddTrustedOrigin(origin) // what is no origin trusts nobody
		}
	}
	return c
}
