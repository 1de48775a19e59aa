package keycloak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"signalbox/internal/fleet"
)

const (
	maxAnswer    = 16 << 20         // bytes of one answer
	maxComplaint = 64 << 10         // bytes of an error's answer that are read
	maxWait      = 10 * time.Second // between two attempts
	maxPatience  = 30 * time.Second // for which a server may ask by Retry-After
	tokenSpare   = 30 * time.Second // before its end a token is not used any more
)

// failure is why a request did not succeed.
type failure struct {
	status  int           // of the answer; 0 if there was none
	passing bool          // it may go away by itself
	unknown bool          // the request may have taken effect
	login   bool          // it is of the token endpoint
	after   time.Duration // that the server asks to wait
	cause   error
}

func (f *failure) Error() string {
	if f.status == 0 {
		return "no answer: " + f.cause.Error()
	}
	text := "HTTP " + strconv.Itoa(f.status)
	if f.cause != nil {
		text += ": " + f.cause.Error()
	}
	return text
}

func (f *failure) Unwrap() error { return f.cause }

// is reports whether err is an answer of the Admin API with the status.
func is(err error, status int) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.status == status && !f.login
}

// public makes an error for other packages. Its text is the end of a sentence
// that those know the beginning of ("Cannot create device because external
// service failed: …"), and no more than helps who has set Keycloak up.
func public(o operation, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*fleet.Error](err); ok {
		return e
	}
	kind, why := fleet.External, "Keycloak answered what it should not"
	f, ok := errors.AsType[*failure](err)
	switch {
	case !ok && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		kind, why = fleet.Unavailable, "Keycloak did not answer in time"
	case !ok:
	case f.login && (f.status == http.StatusBadRequest || f.status == http.StatusUnauthorized):
		why = "Keycloak does not accept the client that Signalbox logs in with"
	case f.status == 0:
		kind, why = fleet.Unavailable, "Keycloak cannot be reached"
	case f.status == http.StatusTooManyRequests || f.status == http.StatusBadGateway || f.status == http.StatusServiceUnavailable || f.status == http.StatusGatewayTimeout:
		kind, why = fleet.Unavailable, "Keycloak cannot answer now"
	case f.status == http.StatusUnauthorized || f.status == http.StatusForbidden:
		why = "Keycloak does not give the right to do that to the client that Signalbox logs in with"
	case f.status/100 != 2:
		why = "Keycloak answered HTTP " + strconv.Itoa(f.status)
	}
	return fleet.E(kind, fmt.Errorf("cannot %s: %w", o.what, err), "%s", why)
}

// request is one call of the Admin API.
type request struct {
	method string
	path   string // below the realm, escaped
	query  url.Values
	body   any        // sent as JSON; nil for none
	into   any        // that the answer is decoded to; nil for one that does not matter
	date   *time.Time // that gets the Date of the answer, or zero; nil if it does not matter
}

// do makes a request, and makes it again while that may help and cannot do
// harm: a POST is repeated only when it surely had no effect. Its error is a
// *failure, or what ctx ended with.
func (s *Issuer) do(ctx context.Context, r request) error {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return err
		}
	}
	renewed := false
	for n := 1; ; n++ {
		err := s.once(ctx, r, body, &renewed)
		f, ok := errors.AsType[*failure](err)
		if err == nil || !ok || !f.passing || f.unknown && r.method == http.MethodPost || n >= s.opts.Attempts {
			return err
		}
		if !s.wait(ctx, n, f.after) {
			return err
		}
	}
}

// wait waits before the attempt after the nth, for as long as the server asks
// if it does. It reports false if that would be in vain.
func (s *Issuer) wait(ctx context.Context, n int, after time.Duration) bool {
	d := min(s.opts.Backoff<<min(n-1, 20), maxWait)
	d = d/2 + rand.N(d/2+1) // so that many do not come back at once
	if after > maxPatience {
		return false
	}
	d = max(d, after)
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// once makes one request; a second one if the first token is not good any more
// and renewed does not say that this has been tried.
func (s *Issuer) once(ctx context.Context, r request, body []byte, renewed *bool) error {
	for {
		bearer, err := s.bearer(ctx)
		if err != nil {
			return err
		}
		err = s.exchange(ctx, r, body, bearer)
		if !is(err, http.StatusUnauthorized) || *renewed {
			return err
		}
		*renewed = true
		s.token.drop(bearer)
	}
}

// exchange makes one request with one token.
func (s *Issuer) exchange(ctx context.Context, r request, body []byte, bearer string) error {
	own, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	target := s.admin + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	q, err := http.NewRequestWithContext(own, r.method, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	q.Header.Set("Accept", "application/json")
	q.Header.Set("User-Agent", "signalbox")
	q.Header.Set("Authorization", "Bearer "+bearer)
	a, err := s.http.Do(q)
	if err != nil {
		return unanswered(ctx, err)
	}
	defer a.Body.Close()
	if a.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(a.Body, maxComplaint)) // the status says enough
		return answered(a, complaint(text))
	}
	if r.date != nil {
		*r.date, _ = http.ParseTime(a.Header.Get("Date"))
	}
	if r.into == nil {
		if kind, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type")); kind == "text/html" {
			return &failure{status: a.StatusCode, passing: true, unknown: true, cause: errors.New("a page, as of a proxy")}
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(a.Body, maxComplaint)) // the connection can be used again
		return nil
	}
	content, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer+1))
	switch {
	case err != nil:
		return unanswered(ctx, err)
	case len(content) > maxAnswer:
		return &failure{status: a.StatusCode, unknown: true, cause: fmt.Errorf("over %d bytes", maxAnswer)}
	}
	if err := json.Unmarshal(content, r.into); err != nil {
		// A proxy's page, perhaps, and the next answer is Keycloak's.
		return &failure{status: a.StatusCode, passing: true, unknown: true, cause: errors.New("not the JSON that is expected")}
	}
	return nil
}

// unanswered is the failure of a request without a complete answer.
func unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // it repeats the URL
	}
	op, ok := errors.AsType[*net.OpError](err)
	return &failure{passing: true, unknown: !ok || op.Op != "dial", cause: err}
}

// answered is the failure of a request whose answer is no success.
func answered(a *http.Response, cause error) *failure {
	f := &failure{status: a.StatusCode, cause: cause}
	f.passing = a.StatusCode/100 == 5 && a.StatusCode != http.StatusNotImplemented || a.StatusCode == http.StatusTooManyRequests || a.StatusCode == http.StatusRequestTimeout
	f.unknown = f.passing && a.StatusCode != http.StatusTooManyRequests
	f.after = retryAfter(a.Header.Get("Retry-After"), time.Now())
	return f
}

// retryAfter reads the header of that name (RFC 9110, section 10.2.3): seconds,
// or a time of day. It is 0 for anything else.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// complaint is what an error's answer says, for the log. Only the fields are
// taken that Keycloak and RFC 6749, section 5.2, have for that: a page of a proxy
// may repeat what was sent.
func complaint(body []byte) error {
	var c struct {
		Message     string `json:"errorMessage"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &c) != nil {
		return fmt.Errorf("%d bytes that are not JSON", len(body))
	}
	var said []string
	for _, text := range []string{c.Error, c.Message, c.Description} {
		if text != "" {
			said = append(said, strconv.QuoteToASCII(text[:min(len(text), 200)]))
		}
	}
	if said == nil {
		return nil
	}
	return errors.New(strings.Join(said, " "))
}

// token is the access token of our own client.
type token struct {
	fetch *clientcredentials.Config
	turn  chan struct{} // held by the one that fetches

	mu    sync.Mutex
	value string
	until time.Time
	tries int   // fetches that have ended
	err   error // of the last of them
}

// get returns the token if there is one that is good.
func (t *token) get() (value string, tries int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.value != "" && time.Now().Before(t.until) {
		return t.value, t.tries
	}
	return "", t.tries
}

// drop makes the token be fetched anew, unless it was.
func (t *token) drop(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.value == value {
		t.value = ""
	}
}

// bearer returns an access token. Callers at one time share one fetch and what
// comes of it.
func (s *Issuer) bearer(ctx context.Context) (string, error) {
	t := &s.token
	value, before := t.get()
	if value != "" {
		return value, nil
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	value, tries := t.get()
	if value != "" {
		return value, nil
	}
	if tries != before {
		t.mu.Lock()
		defer t.mu.Unlock()
		return "", t.err
	}

	value, life, err := s.login(ctx)
	if err != nil && ctx.Err() != nil {
		return "", ctx.Err() // which says nothing to the others
	}
	t.mu.Lock()
	t.value, t.until, t.err = value, time.Now().Add(life-min(tokenSpare, life/2)), err
	t.tries++
	t.mu.Unlock()
	if err != nil {
		err := s.counted(getToken, err)          // the operation that needs the token fails by its own name
		if fleet.KindOf(err) == fleet.External { // to wait will not help
			s.opts.Log.Warn("no access token for the Admin API of Keycloak", "client_id", s.opts.ClientID, "err", err)
		}
	}
	return value, err
}

// login fetches a token (RFC 6749, section 4.4).
func (s *Issuer) login(ctx context.Context) (value string, life time.Duration, err error) {
	own, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, s.http), s.opts.Timeout)
	defer cancel()
	got, err := s.token.fetch.Token(own)
	if err == nil {
		life = time.Minute // a lifetime that is not told is not long
		if !got.Expiry.IsZero() {
			life = max(time.Until(got.Expiry), 0)
		}
		return got.AccessToken, life, nil
	}
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response != nil {
		f := answered(e.Response, complaint(e.Body))
		f.login, f.unknown = true, false // to log in twice does no harm
		return "", 0, f
	}
	err = unanswered(ctx, err)
	if f, ok := errors.AsType[*failure](err); ok {
		f.login, f.unknown = true, false
		f.cause = errors.New("at the token endpoint: " + f.cause.Error())
	}
	return "", 0, err
}
