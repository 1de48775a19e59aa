package sim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"signalbox/internal/fleet"
)

// What boards are told on. The second is of one board alone, see keeper.topics.
const (
	updatesTopic      = "iotsupport/updates/+"
	provisioningTopic = "iotsupport/updates/provisioning"
)

const maxDeviceAnswer = 1 << 20 // bytes of an answer to a device

var errLost = errors.New("the answer was lost")

// keeper is the part of a board that keeps its secret, and replaces it when it is
// told that there is another one. It knows what a device knows: what it was
// provisioned with, what it hears and what it is answered.
type keeper struct {
	cfg *Config
	api *api
	board
	name  string // its entity id
	kind  Kind
	net   *network
	http  *http.Client // over net
	tally *tally
	log   *slog.Logger
	told  chan struct{} // has room for one: there is a new secret
	rng   *rand.Rand    // of run

	mu    sync.Mutex
	creds credentials // ClientSecret is the one that the board has; "" until it was provisioned
	token *oauth2.Token
	lost  string // the secret whose first answer was lost
	used  bool   // the board has used the secret that it has
	story story
}

// story is what became of a board.
type story struct {
	notices        int
	fetches        int  // of another secret
	rotations      int  // of those, that were used
	waiting        bool // it heard of a secret that it does not use so far
	refused        bool // the token endpoint knows nothing of what the board has
	revoked        bool // and that is meant so; found out at the end, as is the next
	unknown        bool // the token endpoint does not answer
	toldAt, doneAt time.Time
}

func newKeeper(cfg *Config, api *api, b board, n int, kind Kind, t *tally, log *slog.Logger) *keeper {
	net := newNetwork(kind, cfg.Seed, n, api.http.Transport)
	return &keeper{
		cfg: cfg, api: api, board: b, name: EntityID(n), kind: kind, net: net, http: &http.Client{Transport: net, Timeout: requestTimeout},
		tally: t, log: log, told: make(chan struct{}, 1), rng: rand.New(rand.NewPCG(cfg.Seed, 2<<32+uint64(n))),
	}
}

// provision gives the board what it is delivered with, once.
func (k *keeper) provision(ctx context.Context) error {
	if k.secret() != "" {
		return nil
	}
	c, err := k.api.credentials(ctx, k.board)
	if err != nil {
		return err
	}
	if c.BaseURL == "" {
		c.BaseURL = k.api.base
	}
	if kept := k.tally.kept.get(k.clientID); kept != "" {
		c.ClientSecret = kept
	}
	k.mu.Lock()
	k.creds = *c
	k.mu.Unlock()
	return k.tally.kept.put(k.clientID, c.ClientSecret)
}

func (k *keeper) secret() string { k.mu.Lock(); defer k.mu.Unlock(); return k.creds.ClientSecret }

// topics returns what the board subscribes to, with the QoS.
func (k *keeper) topics() map[string]byte {
	if k.kind == OldFirmware {
		return map[string]byte{updatesTopic: 1}
	}
	// On its own topic it is told for certain, and again when it comes back: on that
	// of all, which costs the broker a delivery to every device, it need not be.
	return map[string]byte{updatesTopic: 0, k.ownTopic(): 1}
}

func (k *keeper) ownTopic() string { return "iotsupport/" + k.clientID + "/rotation" }

// hear takes a message of the broker. It does not wait.
func (k *keeper) hear(topic string, payload []byte) {
	var m struct {
		ClientID string `json:"client_id"`
	}
	switch {
	case topic == provisioningTopic && json.Unmarshal(payload, &m) == nil && m.ClientID == k.clientID:
	case topic == k.ownTopic() && len(payload) > 0: // without one: it is over
	default:
		return
	}
	k.mu.Lock()
	k.story.notices++
	if !k.story.waiting {
		k.story.waiting, k.story.toldAt = true, time.Now()
	}
	k.mu.Unlock()
	select {
	case k.told <- struct{}{}:
	default:
	}
}

// run replaces the secret whenever the board hears of another one, until ctx
// ends.
func (k *keeper) run(ctx context.Context) {
	for {
		select {
		case <-k.told:
			k.rotate(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// rotate is the way of the firmware from the notice to the use of the new secret.
func (k *keeper) rotate(ctx context.Context) {
	if !k.until(ctx, "fetch", k.fetch) {
		return
	}
	k.mu.Lock()
	if k.used && k.kind != NeverProves { // it came twice
		k.story.waiting = false
	}
	waiting := k.story.waiting
	k.mu.Unlock()
	switch {
	case !waiting:
		return
	case k.kind == NeverProves:
		k.until(ctx, "config", k.config)
		return
	case k.kind == OldFirmware:
		if !sleep(ctx, restart) {
			return
		}
	default:
		if !k.until(ctx, "proof", k.prove) {
			return
		}
	}
	token := func(ctx context.Context) error { _, err := k.mint(ctx); return err }
	if !k.until(ctx, "token", token) || !k.until(ctx, "config", k.config) {
		return
	}
	k.mu.Lock()
	k.used, k.story.waiting, k.story.doneAt = true, false, time.Now()
	k.story.rotations = k.story.fetches
	k.mu.Unlock()
}

// until takes a step of a rotation, again after every failure, and reports
// whether it succeeded. It gives up when ctx ends, and when the board is told
// anew: then all begins again.
func (k *keeper) until(ctx context.Context, name string, step func(context.Context) error) bool {
	for pause := time.Second; ; pause = min(2*pause, 8*time.Second) {
		think := k.cfg.Think
		if k.kind == Slow {
			think = slowLeast + time.Duration(k.rng.Int64N(int64(slowMost-slowLeast)))
		}
		if !sleep(ctx, think) {
			return false
		}
		begin := time.Now()
		err := step(ctx)
		if ctx.Err() != nil {
			return false
		}
		k.tally.took(name, time.Since(begin), err)
		if err == nil {
			return true
		}
		k.log.Debug("a step of a rotation failed and is taken again", "step", name, "client_id", k.clientID, "err", err)
		if len(k.told) > 0 || !sleep(ctx, pause/2+time.Duration(k.rng.Int64N(int64(pause)))) {
			return false
		}
	}
}

// fetch asks for the secret that the board is to use from now on.
func (k *keeper) fetch(ctx context.Context) error {
	select { // what was told until now is what we ask for
	case <-k.told:
	default:
	}
	var c credentials
	if err := k.ask(ctx, http.MethodGet, "/api/iot/provisioning", nil, &c); err != nil {
		return err
	}
	if c.ClientID != k.clientID || c.ClientSecret == "" {
		return fleet.E(fleet.External, nil, "the server gave no credentials of %s", k.clientID)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case c.ClientSecret == k.creds.ClientSecret: // it was too late to tell, or came twice
		return nil
	case k.kind == LostResponse && k.lost != c.ClientSecret:
		k.lost = c.ClientSecret
		return errLost
	case k.kind == NeverProves:
		return nil
	}
	// It is in the flash before anything is done with it.
	if err := k.tally.kept.put(k.clientID, c.ClientSecret); err != nil {
		return err
	}
	k.creds.ClientSecret, k.used = c.ClientSecret, false
	k.story.fetches++
	return nil
}

// prove shows that the board has the secret, where the server takes such a proof.
func (k *keeper) prove(ctx context.Context) error {
	var n struct {
		Nonce string `json:"nonce"`
	}
	err := k.ask(ctx, http.MethodPost, "/api/iot/rotation/nonce", nil, &n)
	if err != nil && fleet.KindOf(err) == fleet.NotFound {
		return nil // the token will do
	}
	if err != nil {
		return err
	}
	mac := hmac.New(sha256.New, []byte(k.secret()))
	mac.Write([]byte(n.Nonce))
	return k.ask(ctx, http.MethodPost, "/api/iot/rotation/proof", map[string]string{"nonce": n.Nonce, "hmac": hex.EncodeToString(mac.Sum(nil))}, nil)
}

// config fetches the board's config, as every firmware does with a new token.
func (k *keeper) config(ctx context.Context) error {
	return k.ask(ctx, http.MethodGet, "/api/iot/config", nil, nil)
}

// mint gets an access token with what the board has. fleet.Unauthenticated: it is
// refused.
func (k *keeper) mint(ctx context.Context) (string, error) {
	t, err := k.obtain(ctx, k.http)
	if err != nil {
		return "", err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.token = t
	return t.AccessToken, nil
}

// obtain is mint over any network.
func (k *keeper) obtain(ctx context.Context, over *http.Client) (*oauth2.Token, error) {
	k.mu.Lock()
	c := k.creds
	k.mu.Unlock()
	if c.TokenURL == "" {
		return nil, fleet.E(fleet.External, nil, "the server does not say where %s gets a token", k.clientID)
	}
	config := clientcredentials.Config{ClientID: c.ClientID, ClientSecret: c.ClientSecret, TokenURL: c.TokenURL, AuthStyle: oauth2.AuthStyleInHeader}
	t, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, over))
	refused := false
	if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		refused = r.Response.StatusCode == http.StatusUnauthorized || r.Response.StatusCode == http.StatusBadRequest
	}
	k.mu.Lock()
	if err == nil || refused {
		k.story.refused = refused
	}
	k.mu.Unlock()
	switch {
	case refused:
		return nil, fleet.E(fleet.Unauthenticated, err, "%s is refused a token", k.clientID)
	case err != nil:
		return nil, fleet.E(fleet.Unavailable, err, "%s got no token", k.clientID)
	}
	return t, nil
}

// ask makes a request of the board with its token, and reads the JSON of the
// answer into out unless that is nil. Its errors are of the kinds of api.do, and
// fleet.NotFound.
func (k *keeper) ask(ctx context.Context, method, path string, in, out any) error {
	k.mu.Lock()
	token, base := k.token, k.creds.BaseURL
	k.mu.Unlock()
	if !token.Valid() {
		if _, err := k.mint(ctx); err != nil {
			return err
		}
		k.mu.Lock()
		token = k.token
		k.mu.Unlock()
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	q, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(base, "/")+path, body)
	if err != nil {
		return fleet.E(fleet.External, err, "%q is not the URL of a server", base)
	}
	if in != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	token.SetAuthHeader(q)
	a, err := k.http.Do(q)
	if err != nil {
		return fleet.E(fleet.Unavailable, err, "%s %s: no answer", method, path)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(io.LimitReader(a.Body, maxDeviceAnswer))
	switch {
	case err != nil:
		return fleet.E(fleet.Unavailable, err, "%s %s: the answer broke off", method, path)
	case a.StatusCode == http.StatusNotFound:
		return fleet.E(fleet.NotFound, nil, "%s %s: %s", method, path, a.Status)
	case a.StatusCode == http.StatusUnauthorized: // such as one of a secret that is good no more
		k.mu.Lock()
		k.token = nil
		k.mu.Unlock()
		fallthrough
	case a.StatusCode/100 != 2:
		return fleet.E(kindOf(a.StatusCode), nil, "%s %s: %s", method, path, a.Status)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fleet.E(fleet.External, err, "%s %s: the answer is not what was expected", method, path)
	}
	return nil
}
