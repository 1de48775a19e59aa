package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// remote is one gateway.
type remote struct {
	carrier *Carrier
	number  int
	url     string
	client  *http.Client
	slots   chan struct{} // tokens: requests under way at once
	wakeup  chan struct{} // has room for one: there are farewells

	mu       sync.Mutex
	failures int           // requests in a row that had no answer
	shut     chan struct{} // nil: requests are let through; else closed when they are again
	seen     bool          // it was looked at
	missed   int           // looks in a row that had no answer
	lost     bool          // so many that its streams were given up
	goodbyes map[string]struct{}
	next     []*Carried // whose turn to be looked at comes
}

const (
	requestsAtOnce = 256 // to one gateway
	breakAfter     = 8   // requests without an answer; then they wait until it answers again
	loseAfter      = 3   // looks without an answer; then its streams are given up
	lookTimeout    = 2 * time.Second
	goodbyesAtOnce = 32

	// idleConnection is shorter than the 5 s after which the gateway of the
	// reference system closes a connection: a request that crosses with that is lost.
	idleConnection = 3 * time.Second
	maxGoodbyes    = 100_000
)

func newRemote(c *Carrier, number int, url string) *remote {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.DisableCompression = nil, true // it is named by the settings, and close by
	t.MaxIdleConnsPerHost, t.MaxIdleConns = requestsAtOnce, requestsAtOnce
	t.IdleConnTimeout = idleConnection
	g := &remote{
		carrier: c, number: number, url: url, slots: make(chan struct{}, requestsAtOnce), wakeup: make(chan struct{}, 1), goodbyes: map[string]struct{}{},
		client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	c.metrics.up.WithLabelValues(strconv.Itoa(number)).Set(0)
	return g
}

// post posts a body to /internal/send. It returns ErrGone for a stream that the
// gateway does not know. While the gateway does not answer anybody it waits until
// it does, or is given up.
func (g *remote) post(ctx context.Context, kind string, body []byte) (err error) {
	defer func() { g.carrier.metrics.sends.WithLabelValues(kind, resultOfSend(err)).Inc() }()
	if err := g.admitted(ctx); err != nil {
		return err
	}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return g.try(ctx, body)
}

// admitted waits until requests are let through.
func (g *remote) admitted(ctx context.Context) error {
	for {
		g.mu.Lock()
		shut, lost := g.shut, g.lost
		g.mu.Unlock()
		switch {
		case shut == nil:
			return nil
		case lost:
			return ErrLost
		}
		select {
		case <-shut:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try posts once.
func (g *remote) try(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, g.carrier.opts.Timeout)
	defer cancel()
	answer, _, err := g.request(ctx, http.MethodPost, "/internal/send", body)
	if err != nil {
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			g.unanswered()
		}
		return err
	}
	g.answered()
	switch {
	case answer == http.StatusOK:
		return nil
	case answer == http.StatusNotFound:
		return ErrGone
	}
	return fmt.Errorf("gateway: it answered with status %d", answer)
}

// request sends a request and returns the status of its answer, and which instance
// of the gateway it is from, if it says so. An error says nothing of the URL.
func (g *remote) request(ctx context.Context, method, path string, body []byte) (status int, instance string, err error) {
	r, err := http.NewRequestWithContext(ctx, method, g.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", withoutURL(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if g.carrier.opts.Secret != "" {
		r.Header.Set("Authorization", "Bearer "+g.carrier.opts.Secret)
	}
	answer, err := g.client.Do(r)
	if err != nil {
		return 0, "", withoutURL(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // so that the connection is used again
	return answer.StatusCode, answer.Header.Get(instanceHeader), nil
}

func (g *remote) unanswered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failures++; g.failures >= breakAfter && g.shut == nil && !g.lost {
		g.shut = make(chan struct{})
	}
}

// answered lets requests through again.
func (g *remote) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failures = 0
	if g.shut != nil && !g.lost { // one that was given up is let in again by a look
		close(g.shut)
		g.shut = nil
	}
}

// farewell notes that a stream is to be closed at the gateway. It reports false
// when so many are that this one is left to the gateway, whose own write fails in
// time.
func (g *remote) farewell(token string) bool {
	g.mu.Lock()
	noted := len(g.goodbyes) < maxGoodbyes
	if noted {
		g.goodbyes[token] = struct{}{}
	}
	g.mu.Unlock()
	select {
	case g.wakeup <- struct{}{}:
	default:
	}
	return noted
}

// owed returns how many streams are still to be closed, while the gateway answers.
func (g *remote) owed() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.missed > 0 {
		return 0
	}
	return len(g.goodbyes)
}

// run looks after the gateway until ctx ends.
func (g *remote) run(ctx context.Context) {
	defer g.client.CloseIdleConnections()
	tick := time.NewTicker(g.carrier.opts.Probe)
	defer tick.Stop()
	g.look(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wakeup:
			g.sayGoodbyes(ctx)
		case <-tick.C:
			g.look(ctx)
		}
	}
}

// look asks the gateway whether it is there, and whether it still knows its
// streams: after a restart it knows none.
func (g *remote) look(ctx context.Context) {
	probe, cancel := context.WithTimeout(ctx, lookTimeout)
	had := g.streams(0)
	_, instance, err := g.request(probe, http.MethodGet, "/healthz", nil)
	cancel()
	if ctx.Err() != nil {
		return
	}
	up := g.carrier.metrics.up.WithLabelValues(strconv.Itoa(g.number))
	g.mu.Lock()
	g.seen = true
	if err != nil {
		g.carrier.lessLeft() // what is owed to it is not waited for
		g.missed++
		giveUp := g.missed >= loseAfter && !g.lost
		if giveUp {
			g.lost = true
			if g.shut != nil { // who waits is told
				close(g.shut)
			}
			g.shut = make(chan struct{})
			close(g.shut)
		}
		g.mu.Unlock()
		up.Set(0)
		if giveUp {
			streams := g.streams(0)
			g.carrier.log.Error("a gateway does not answer; its streams are given up", "gateway", g.number, "streams", len(streams), "err", err)
			for _, s := range streams {
				if !s.elsewhere() {
					s.fail(ErrLost)
				}
			}
		}
		return
	}
	back := g.lost
	g.missed, g.lost = 0, false
	g.failures, g.shut = 0, reopened(g.shut, back)
	g.mu.Unlock()
	up.Set(1)
	if back {
		g.carrier.log.Info("a gateway answers again", "gateway", g.number)
	}
	if instance != "" {
		g.compare(instance, had)
	}
	g.sayGoodbyes(ctx)
	g.sample(ctx)
}

// compare ends the streams that an earlier instance of the gateway had, and notes
// whose the others are.
func (g *remote) compare(instance string, streams []*Carried) {
	for _, s := range streams {
		s.mu.Lock()
		here := s.gateway == g.number
		s.mu.Unlock()
		switch {
		case s.instance == instance:
			s.at(g.number)
		case s.instance != "" && here:
			s.fail(ErrGone)
		}
	}
}

// reopened closes what others wait for, if it is not closed.
func reopened(shut chan struct{}, closed bool) chan struct{} {
	if shut != nil && !closed {
		close(shut)
	}
	return nil
}

// streams returns the streams of the gateway that are at least that old.
func (g *remote) streams(age time.Duration) (list []*Carried) {
	c := g.carrier
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.open {
		s.mu.Lock()
		if (s.gateway == g.number || s.gateway == 0 && age == 0) && time.Since(s.opened) >= age {
			list = append(list, s)
		}
		s.mu.Unlock()
	}
	return list
}

// sample asks about one stream, and about all if that one is unknown, and about
// those that were never asked about: a client that left while its callback was
// under way is told of by nobody. A stream whose callback may still be under way is
// not asked about: the protocol has asking be an empty event then.
func (g *remote) sample(ctx context.Context) {
	for len(g.next) > 0 && g.next[0].isOver() {
		g.next = g.next[1:]
	}
	if len(g.next) == 0 {
		g.next = g.streams(g.carrier.opts.Young)
	}
	if len(g.next) > 0 {
		s := g.next[0]
		g.next = g.next[1:]
		switch known, err := g.knows(ctx, s); {
		case err != nil:
			return // the next look says more
		case !known:
			g.next = nil
			each(ctx, g.streams(g.carrier.opts.Young), g.ask)
			return
		}
	}
	each(ctx, g.unseen(), g.ask)
}

// each calls f for some at a time, until one call fails.
func each[T any](ctx context.Context, list []T, f func(context.Context, T) error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	room := make(chan struct{}, goodbyesAtOnce)
	for _, it := range list {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		calls.Go(func() {
			defer func() { <-room }()
			if f(ctx, it) != nil {
				stop() // a gateway that does not answer one would keep us for all
			}
		})
	}
}

// unseen returns the streams that the gateway has or may have, and was not yet
// asked about.
func (g *remote) unseen() (list []*Carried) {
	c := g.carrier
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.open {
		s.mu.Lock()
		if (s.gateway == g.number && !s.seen || s.gateway == 0 && !s.denied[g.number]) && time.Since(s.opened) >= c.opts.Young {
			list = append(list, s)
		}
		s.mu.Unlock()
	}
	return list
}

// ask is knows without its answer.
func (g *remote) ask(ctx context.Context, s *Carried) error {
	_, err := g.knows(ctx, s)
	return err
}

// knows asks whether the gateway has a stream, and ends it here if no gateway has.
// It does not wait for the gateway to be let in again, which only a look does.
func (g *remote) knows(ctx context.Context, s *Carried) (bool, error) {
	err := g.try(ctx, encode(sendBody{Token: s.token}))
	g.carrier.metrics.sends.WithLabelValues("probe", resultOfSend(err)).Inc()
	switch {
	case err == nil:
		s.mu.Lock()
		s.seen, s.gateway, s.denied = true, g.number, nil
		s.mu.Unlock()
		return true, nil
	case !errors.Is(err, ErrGone):
		return false, err
	}
	s.mu.Lock()
	if s.gateway == 0 {
		if s.denied == nil {
			s.denied = map[int]bool{}
		}
		s.denied[g.number] = true
	}
	own, unknown := s.gateway == g.number, s.gateway == 0
	s.mu.Unlock()
	switch {
	case own:
		s.close(ErrGone, false)
	case unknown && !s.elsewhere():
		s.fail(ErrGone) // one that was lost may have it when it is back
	}
	return false, nil
}

func (g *remote) isLost() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lost
}

// sayGoodbyes closes what is to be closed, until the gateway does not answer; the
// rest is for the next look.
func (g *remote) sayGoodbyes(ctx context.Context) {
	g.mu.Lock()
	tokens := make([]string, 0, len(g.goodbyes))
	for t := range g.goodbyes {
		tokens = append(tokens, t)
	}
	g.mu.Unlock()
	rand.Shuffle(len(tokens), func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
	each(ctx, tokens, func(ctx context.Context, token string) error {
		err := g.try(ctx, encode(sendBody{Token: token, Close: true}))
		g.carrier.metrics.sends.WithLabelValues("close", resultOfSend(err)).Inc()
		if err != nil && !errors.Is(err, ErrGone) {
			return err
		}
		g.mu.Lock()
		delete(g.goodbyes, token)
		g.mu.Unlock()
		g.carrier.memory.remove(token)
		g.carrier.lessLeft()
		return nil
	})
}

// resultOfSend is the metric label of a request.
func resultOfSend(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrGone):
		return "unknown"
	case errors.Is(err, ErrLost):
		return "lost"
	case isTimeout(err):
		return "timeout"
	}
	return "error"
}
