package e2e_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// rotator is a device that rotates its secret when it is told to, and does every
// step until it succeeds, whatever happens to the server meanwhile.
type rotator struct {
	s      *server
	d      device
	proves bool          // by an HMAC; otherwise by its next token alone
	broker string        // host:port
	base   func() string // of the API, for one request

	balanced bool // base is that of one of several processes

	notices atomic.Int64
	told    chan struct{}
	passed  chan string   // a step that is done, if anybody wants to know
	resume  chan struct{} // and then it may go on

	mu    sync.Mutex
	held  credentials
	token string
	state string // the last answer to a proof
}

// The steps of an attempt as the device sees them. Before all of them somebody
// asked for it.
const (
	toldStep       = "told"
	fetchedStep    = "fetched"
	nonceStep      = "got a nonce"
	provedStep     = "proved"
	mintedStep     = "minted a token"
	configuredStep = "configured"
)

// rotator starts a device until the test ends.
func (s *server) rotator(d device, proves bool) *rotator {
	s.t.Helper()
	f := s.newRotator(d, proves)
	s.t.Cleanup(f.start(context.Background()))
	return f
}

// newRotator returns a device that was not started.
func (s *server) newRotator(d device, proves bool) *rotator {
	s.t.Helper()
	return &rotator{
		s: s, d: d, proves: proves, broker: s.mqtt, base: func() string { return s.url("") },
		told: make(chan struct{}, 1), held: s.credentials(d.ID),
	}
}

// start has the device live until stop is called or ctx ends.
func (f *rotator) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { f.listen(ctx) })
	running.Go(func() { f.work(ctx) })
	return func() { cancel(); running.Wait() }
}

func (f *rotator) has() credentials { f.mu.Lock(); defer f.mu.Unlock(); return f.held }

// listen keeps a connection to the broker.
func (f *rotator) listen(ctx context.Context) {
	for ctx.Err() == nil {
		f.session(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (f *rotator) session(ctx context.Context) {
	token, err := f.mint(ctx)
	if err != nil {
		return
	}
	lost := make(chan struct{})
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + f.broker).SetClientID(f.d.ClientID).SetUsername(f.d.ClientID).SetPassword(token).
		SetProtocolVersion(4).SetCleanSession(true).SetAutoReconnect(false).SetConnectTimeout(10 * time.Second).SetWriteTimeout(10 * time.Second).
		SetConnectionLostHandler(func(mqtt.Client, error) { close(lost) }))
	defer c.Disconnect(0)
	if done := c.Connect(); !done.WaitTimeout(15*time.Second) || done.Error() != nil {
		return
	}
	own := "iotsupport/" + f.d.ClientID + "/rotation"
	hear := func(_ mqtt.Client, m mqtt.Message) {
		var about struct {
			ClientID string `json:"client_id"`
		}
		if len(m.Payload()) == 0 || m.Topic() != own && (json.Unmarshal(m.Payload(), &about) != nil || about.ClientID != f.d.ClientID) {
			return
		}
		f.notices.Add(1)
		select {
		case f.told <- struct{}{}:
		default:
		}
	}
	if done := c.SubscribeMultiple(map[string]byte{"iotsupport/updates/provisioning": 1, own: 1}, hear); !done.WaitTimeout(15*time.Second) || done.Error() != nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-lost:
	}
}

// work rotates whenever it was told to.
func (f *rotator) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.told:
		}
		f.pass(ctx, toldStep)
		if !f.until(ctx, f.fetch) {
			return
		}
		f.pass(ctx, fetchedStep)
		if f.proves {
			var nonce string
			ask := func(ctx context.Context) (err error) { nonce, err = f.nonce(ctx); return err }
			prove := func(ctx context.Context) error {
				err := f.prove(ctx, nonce)
				if err != nil { // it is good once
					_ = ask(ctx) // or again
				}
				return err
			}
			if !f.until(ctx, ask) {
				return
			}
			f.pass(ctx, nonceStep)
			if !f.until(ctx, prove) {
				return
			}
			f.pass(ctx, provedStep)
		} else { // it restarts, and gets its next token in another second: so does each firmware
			select {
			case <-ctx.Done():
				return
			case <-time.After(1500 * time.Millisecond):
			}
		}
		mint := func(ctx context.Context) error { _, err := f.mint(ctx); return err }
		if !f.until(ctx, mint) {
			return
		}
		f.pass(ctx, mintedStep)
		if !f.until(ctx, f.config) {
			return
		}
		f.pass(ctx, configuredStep)
	}
}

// until takes a step until it succeeds.
func (f *rotator) until(ctx context.Context, step func(context.Context) error) bool {
	for ctx.Err() == nil {
		err := step(ctx)
		if err == nil {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return false
}

// pass waits for who wants to know that a step is done.
func (f *rotator) pass(ctx context.Context, step string) {
	if f.passed == nil {
		return
	}
	select {
	case f.passed <- step:
	case <-ctx.Done():
		return
	}
	select {
	case <-f.resume:
	case <-ctx.Done():
	}
}

func (f *rotator) mint(ctx context.Context) (string, error) {
	c := f.has()
	if f.balanced { // the token endpoint is that of any process
		c.TokenURL = f.base() + "/oauth/token"
	}
	token, err := f.s.tokenWith(ctx, c)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.token = token
	return token, nil
}

// ask makes a request with the device's token, and gets another when it is
// refused.
func (f *rotator) ask(ctx context.Context, method, path string, in, out any) error {
	f.mu.Lock()
	token := f.token
	f.mu.Unlock()
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	q, err := http.NewRequestWithContext(ctx, method, f.base()+path, body)
	if err != nil {
		return err
	}
	q.Header.Set("Authorization", "Bearer "+token)
	q.Header.Set("Content-Type", "application/json")
	a, err := f.s.do(q)
	if err != nil {
		return err
	}
	if a.status == http.StatusUnauthorized {
		_, _ = f.mint(ctx) // the next time it is good
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(a.body, out)
}

func (f *rotator) fetch(ctx context.Context) error {
	secret, err := f.offered(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held.ClientSecret = secret
	return nil
}

// offered returns the secret that the server would have the device use.
func (f *rotator) offered(ctx context.Context) (string, error) {
	var c credentials
	err := f.ask(ctx, "GET", "/api/iot/provisioning", nil, &c)
	if err == nil && c.ClientSecret == "" {
		err = fmt.Errorf("no secret in the answer")
	}
	return c.ClientSecret, err
}

func (f *rotator) nonce(ctx context.Context) (string, error) {
	var n struct {
		Nonce string `json:"nonce"`
	}
	err := f.ask(ctx, "POST", "/api/iot/rotation/nonce", nil, &n)
	return n.Nonce, err
}

func (f *rotator) prove(ctx context.Context, nonce string) error {
	mac := hmac.New(sha256.New, []byte(f.has().ClientSecret))
	mac.Write([]byte(nonce))
	var answer struct {
		State string `json:"rotation_state"`
	}
	err := f.ask(ctx, "POST", "/api/iot/rotation/proof", map[string]string{"nonce": nonce, "hmac": hex.EncodeToString(mac.Sum(nil))}, &answer)
	if err == nil {
		f.mu.Lock()
		f.state = answer.State
		f.mu.Unlock()
	}
	return err
}

func (f *rotator) config(ctx context.Context) error {
	return f.ask(ctx, "GET", "/api/iot/config", nil, nil)
}

// settled waits until the attempt with that number is done, and checks that the
// device can authenticate with what it has, and nobody with what it had.
func (f *rotator) settled(t *testing.T, s *server, number int64, old credentials) {
	t.Helper()
	var r rotationStory
	within(t, 2*time.Minute, fmt.Sprintf("attempt %d is done", number), func() bool {
		r = s.rotation(f.d.ID)
		return r.State == "OK" && r.Step == "idle" && r.Attempt >= number
	})
	if r.Stuck || r.Failures != 0 || r.Attempt != number || int64(len(r.Attempts)) != number || r.Attempts[0].Outcome != "done" {
		t.Errorf("it ended in %+v", r)
	}
	now := f.has()
	if now.ClientSecret == old.ClientSecret {
		t.Error("the device has its old secret still")
	}
	if f.balanced {
		now.TokenURL, old.TokenURL = s.url("/oauth/token"), s.url("/oauth/token")
	}
	if _, err := s.token(now); err != nil {
		t.Errorf("the device cannot authenticate: %v", err)
	}
	refused := func() bool { _, err := s.token(old); return err != nil }
	if f.balanced { // a process looks for what the others withdrew four times a second
		eventually(t, "the old secret is refused", refused)
	} else if !refused() {
		t.Error("the old secret is good still")
	}
}

// rotating asks for a rotation, until there is an answer.
func (s *server) rotate(id int64) (answer string) {
	s.t.Helper()
	var r struct{ Status string }
	s.want(http.StatusOK, "POST", fmt.Sprintf("/api/devices/%d/rotate", id), nil).into(s.t, &r)
	return r.Status
}

// A server that is killed right after it said anything to anybody of an attempt
// has not said what is not so, and goes on: the attempt is done once, and the
// device can authenticate.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel() // it mostly waits
	f := func(name string, settings ...string) {
		t.Run(name, func(t *testing.T) {
			s := start(t, append(settings, "MQTT_AUTH=token")...)
			for _, proves := range []bool{true, false} {
				steps := []string{"asked", toldStep, fetchedStep, nonceStep, provedStep, mintedStep, configuredStep}
				if !proves {
					steps = slices.DeleteFunc(steps, func(step string) bool { return step == nonceStep || step == provedStep })
				}
				for _, at := range steps {
					if !t.Run(fmt.Sprintf("%s, proof by HMAC %v", at, proves), func(t *testing.T) { killedAt(t, s, at, proves) }) {
						return
					}
				}
			}
		})
	}
	f("built-in")
	_, settings := keycloak(t)
	f("keycloak", settings...)
}

func killedAt(t *testing.T, s *server, at string, proves bool) {
	d := s.device("")
	f := s.newRotator(d, proves)
	f.passed, f.resume = make(chan string), make(chan struct{})
	old := f.held
	defer f.start(t.Context())()

	if answer := s.rotate(d.ID); answer != "queued" {
		t.Fatalf("the answer is %q", answer)
	}
	killed := false
	kill := func() {
		s.kill()
		s.launch()
		killed = true
	}
	if at == "asked" {
		kill()
		if r := s.rotation(d.ID); r.State == "OK" && r.Attempt == 0 {
			t.Errorf("what was queued is not: %+v", r)
		}
	}
	for step := ""; step != configuredStep; {
		select {
		case step = <-f.passed:
		case <-time.After(2 * time.Minute):
			t.Fatalf("nothing comes after %q: %+v", step, s.rotation(d.ID))
		}
		if step == at && !killed {
			kill()
			f.promised(t, step)
		}
		f.resume <- struct{}{}
	}
	if !killed {
		t.Fatalf("the step %q did not come", at)
	}
	f.settled(t, s, 1, old)
}

// promised checks that what the server said by a step is so after it was killed.
func (f *rotator) promised(t *testing.T, step string) {
	t.Helper()
	r := f.s.rotation(f.d.ID)
	switch step {
	case toldStep:
		if r.Attempt != 1 {
			t.Errorf("the device was told of an attempt that is not: %+v", r)
		}
	case provedStep:
		if f.state == "OK" && r.State != "OK" {
			t.Errorf("the device was told that it is done, and it is not: %+v", r)
		}
		fallthrough
	default: // it was given a secret: that is the one
		within(t, patience, "the device gets an answer", func() bool {
			secret, err := f.offered(t.Context())
			if err == nil && secret != f.has().ClientSecret {
				t.Error("the device is given another secret than before")
			}
			return err == nil
		})
		if _, err := f.s.token(f.has()); err != nil {
			t.Errorf("the secret that the device was given is refused: %v", err)
		}
	}
}

// A server that is killed at any moment of rotations goes on with all of them.
func TestKilledWhileRotating(t *testing.T) {
	t.Parallel() // it mostly waits
	f := func(name string, settings ...string) {
		t.Run(name, func(t *testing.T) {
			const devices, kills = 6, 8
			s := start(t, append(settings, "MQTT_AUTH=token", "ROTATION_IN_FLIGHT=4")...)
			var all []*rotator
			for i := range devices {
				all = append(all, s.rotator(s.device(""), i%2 == 0))
			}
			for range kills {
				before := map[*rotator]credentials{}
				numbers := map[*rotator]int64{}
				for _, f := range all {
					before[f], numbers[f] = f.has(), s.rotation(f.d.ID).Attempt+1
				}
				for _, f := range all {
					if answer := s.rotate(f.d.ID); answer != "queued" {
						t.Fatalf("the answer is %q", answer)
					}
				}
				time.Sleep(rand.N(1500 * time.Millisecond)) // the moment is random: that is the test
				s.kill()
				s.launch()
				for _, f := range all {
					f.settled(t, s, numbers[f], before[f])
				}
			}
			for _, f := range all {
				t.Logf("%d notices for %d attempts", f.notices.Load(), kills)
			}
		})
	}
	f("built-in")
	_, settings := keycloak(t)
	f("keycloak", settings...)
}
