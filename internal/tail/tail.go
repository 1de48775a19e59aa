// Package tail is the client behind "signalbox tail" and "signalbox logs": over
// the HTTP API of a Signalbox server it prints what devices say, and what they
// said before, each line once.
//
// How it keeps that promise: the server numbers every event of a stream with
// an id, and a reader that connects again under the same request id and tells
// the last id it has seen continues there. A line is printed when its event
// was decoded completely, and the id moves with it. The id speaks for all
// devices of the stream at once; so all of them are subscribed in one request,
// which the server carries out as a whole, before it sends another event.
package tail

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/sse"
)

// Config says what to follow and how to show it.
type Config struct {
	Server  string   // base URL of the server; host:port alone means http
	Token   string   // bearer token, "" for none
	Devices []string // each a key, an entity id or a name
	All     bool     // every device, also those made later; Devices must be empty
	Model   string   // the code of a device model: every device of it, likewise; Devices must be empty

	Level string // as logs.ParseLevel reads it: show only lines at least that severe, and those of unknown level; "" shows all
	Grep  string // show only lines whose message matches this regular expression (RE2); "" shows all
	Word  string // show only lines whose message matches this pattern (logs.Filter); "" shows all
	Tag   string // show only lines with this tag, in any case; "" shows all
	JSON  bool   // print one JSON object per line
	Color string // "auto", "always" or "never"; "" is auto: a terminal, and NO_COLOR not set

	Out io.Writer // the lines and gaps
	Err io.Writer // what befalls the connection

	// HTTPClient makes the requests; nil for one of our own. Its Timeout is
	// ignored, since a stream has no end.
	HTTPClient *http.Client

	pace pace           // zero values are replaced by those of defaultPace
	zone *time.Location // of the times shown; nil is local
}

// pace holds every duration the client waits for.
type pace struct {
	idle    time.Duration // silence after which a stream counts as lost; heartbeats come every 15 s
	call    time.Duration // for one request other than those below and the stream
	page    time.Duration // for a page of the history, which the server may search for 10 s
	minWait time.Duration // before the first reconnection
	maxWait time.Duration // between later ones
}

var defaultPace = pace{
	idle:    45 * time.Second,
	call:    15 * time.Second,
	page:    time.Minute,
	minWait: 500 * time.Millisecond,
	maxWait: 15 * time.Second,
}

func (p pace) orDefault() pace {
	or := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	or(&p.idle, defaultPace.idle)
	or(&p.call, defaultPace.call)
	or(&p.page, defaultPace.page)
	or(&p.minWait, defaultPace.minWait)
	or(&p.maxWait, defaultPace.maxWait)
	return p
}

// backoff returns how long to wait before the attempt: doubling, up to
// maxWait, and random in its upper half so that a crowd does not come back as one.
func (p pace) backoff(attempt int) time.Duration {
	d := min(p.minWait<<min(attempt, 16), p.maxWait)
	return d/2 + mathrand.N(d/2+1)
}

// maxAsked bounds the wait that a server can ask for.
const maxAsked = 5 * time.Minute

// lost is why a connection ended, when another one may do better.
type lost struct {
	why   string
	after time.Duration // the server asked not to be called before
}

func (l *lost) Error() string { return l.why }

// Run follows the devices until ctx ends, and then returns nil; it does the
// same when nobody reads Out any more (EPIPE). Its other errors are
// *fleet.Error: Invalid for a mistake in cfg and for a name that several
// devices bear, NotFound for a device that does not exist or can have no lines
// and when all that were named have been deleted,
// Unauthenticated and Forbidden when the server refuses the token or ends its
// session, or lets it see nothing that was named any more, Unavailable
// when the server cannot be reached at the start; TooMany when the server
// keeps refusing a device that was asked for by name.
func Run(ctx context.Context, cfg Config) error {
	t, err := newTail(cfg)
	if err != nil {
		return err
	}
	defer t.api.close()
	if err = t.choose(ctx); err == nil {
		err = t.run(ctx)
	}
	return outcome(ctx, err)
}

// outcome makes the end of a run the result that is promised.
func outcome(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	if e, ok := errors.AsType[*fleet.Error](err); ok {
		return e
	}
	return err
}

// tail is one run.
type tail struct {
	cfg     Config
	pace    pace
	api     *api
	follow  *follower
	printer *printer
	note    func(format string, args ...any) // one line about the connection

	lastID    string         // where the next connection goes on
	retry     time.Duration  // what the stream asked to wait before a reconnection
	progress  bool           // the present connection brought something
	connected bool           // there has been a stream
	unnamed   map[int64]bool // devices that were looked up and not found
	lostAt    time.Time      // zero while connected
}

func newTail(cfg Config) (*tail, error) {
	switch {
	case len(cfg.Devices) == 0 && !cfg.All && cfg.Model == "":
		return nil, fleet.E(fleet.Invalid, nil, "Name at least one device, or use --all")
	case len(cfg.Devices) > 0 && cfg.All:
		return nil, fleet.E(fleet.Invalid, nil, "Name devices or use --all, not both")
	case cfg.Model != "" && (cfg.All || len(cfg.Devices) > 0):
		return nil, fleet.E(fleet.Invalid, nil, "Name devices, or use --all or --model, not two of these")
	}
	shows, err := cfg.filter()
	if err != nil {
		return nil, err
	}
	outColor, err := useColor(cfg.Color, cfg.Out)
	if err != nil {
		return nil, err
	}
	errColor, _ := useColor(cfg.Color, cfg.Err)
	p := cfg.pace.orDefault()
	a, err := newAPI(cfg.Server, cfg.Token, cfg.HTTPClient, p)
	if err != nil {
		return nil, err
	}
	zone := cfg.zone
	if zone == nil {
		zone = time.Local
	}
	return &tail{
		cfg:     cfg,
		pace:    p,
		api:     a,
		follow:  &follower{api: a, requestID: newRequestID(), all: cfg.All || cfg.Model != "", filter: cfg.wire(), pace: p},
		printer: &printer{json: cfg.JSON, color: outColor, shows: shows, zone: zone},
		note: func(format string, args ...any) {
			line := escape(fmt.Sprintf(format, args...))
			if errColor {
				line = dim + line + reset
			}
			// There is nobody to tell that Err cannot be written.
			io.WriteString(cfg.Err, line+"\n")
		},
	}, nil
}

// wire returns the part of the filter that the server applies; what comes is
// filtered by all of it.
func (cfg *Config) wire() lineFilter {
	const most = 1024 // bytes that the server takes
	f := lineFilter{Level: cfg.Level, Tag: cfg.Tag, Query: cfg.Word, Regex: cfg.Grep}
	if len(f.Regex) > most {
		f.Regex = ""
	}
	return f
}

// newRequestID names the stream: 32 of [a-z0-9].
func newRequestID() string {
	return strings.ToLower((rand.Text() + rand.Text())[:32])
}

// filter returns what reports whether a line is to be shown.
func (cfg *Config) filter() (func(level logs.Level, tag string, message []byte) bool, error) {
	f := logs.Filter{Tag: cfg.Tag, Pattern: cfg.Word}
	if cfg.Level != "" {
		var ok bool
		if f.Level, ok = logs.ParseLevel(cfg.Level); !ok {
			return nil, fleet.E(fleet.Invalid, nil, "Unknown level %q: use error, warn, info, debug or verbose", cfg.Level)
		}
	}
	m, err := f.Matcher()
	if err != nil {
		return nil, err
	}
	if cfg.Grep == "" {
		return m.Match, nil
	}
	// Not by the Filter, which bounds the expression for the server's sake.
	grep, err := regexp.Compile(cfg.Grep)
	if err != nil {
		return nil, fleet.E(fleet.Invalid, err, "--grep is not a regular expression")
	}
	return func(level logs.Level, tag string, message []byte) bool {
		return m.Match(level, tag, message) && grep.Match(message)
	}, nil
}

// choose finds the devices that are meant.
func (t *tail) choose(ctx context.Context) error {
	if t.cfg.Model != "" {
		var models []model
		err := t.insist(ctx, false, func() (err error) {
			models, err = t.api.models(ctx)
			return err
		})
		if err != nil {
			return err
		}
		if t.follow.model, err = findModel(models, t.cfg.Model); err != nil {
			return err
		}
	}
	var devices []device
	err := t.insist(ctx, false, func() (err error) {
		devices, err = t.api.devices(ctx, t.follow.model)
		return err
	})
	if err == nil && !t.follow.all {
		devices, err = pick(devices, t.cfg.Devices)
	}
	if err != nil {
		return err
	}
	t.follow.wanted = devices
	t.printer.know(devices, t.follow.all)
	return nil
}

// run follows the devices that were chosen.
func (t *tail) run(ctx context.Context) error {
	if len(t.follow.wanted) == 0 {
		t.note("there are no devices yet: waiting for the first")
	}
	for attempt := 0; ; attempt++ {
		began := time.Now()
		t.progress, t.retry = false, 0
		err := t.session(ctx)
		l, again := errors.AsType[*lost](err)
		if !again || ctx.Err() != nil {
			return err
		}
		if t.lostAt.IsZero() {
			t.lostAt = time.Now()
			t.note("--- connection lost: %s; reconnecting ---", l.why)
		}
		if t.progress || time.Since(began) > t.pace.maxWait {
			attempt = 0
		}
		wait := t.pace.backoff(attempt)
		if asked := min(max(l.after, t.retry), maxAsked); asked > wait {
			wait = asked + mathrand.N(asked/8+1)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// insist makes a request until it has another answer than that the server is
// too busy. Unless the server was reached before, one that cannot be reached is
// more likely a wrong address; later it is asked again too.
func (t *tail) insist(ctx context.Context, reached bool, request func() error) error {
	var since time.Time // of the trouble
	for attempt := 0; ; attempt++ {
		err := request()
		if ctx.Err() != nil {
			return err
		}
		wait := t.pace.backoff(attempt)
		r, answered := errors.AsType[*refused](err)
		switch {
		case answered && r.busy():
			if since.IsZero() {
				t.note("--- the server is busy: %s; trying again ---", r.Error())
			}
			wait = max(wait, r.after)
		case reached && (answered && r.gateway() || !answered && fleet.KindOf(err) == fleet.Unavailable):
			if since.IsZero() {
				t.note("--- connection lost: %v; trying again ---", err)
			}
		default:
			if reached && err == nil && !since.IsZero() {
				t.note("--- resumed after %v ---", time.Since(since).Round(100*time.Millisecond))
			}
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// session is one connection, from its opening to its end, whose reason it
// returns: a *lost if another may follow.
func (t *tail) session(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	events := make(chan event)
	reports := make(chan report)
	var wg sync.WaitGroup

	stream, err := t.api.open(ctx, cancel, t.follow.requestID, t.lastID)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause // the watchdog, or the caller
		}
		cancel(nil)
		return t.unopened(err)
	}
	t.connected = true
	wg.Go(func() { read(sse.NewDecoder(stream, t.lastID), events) })
	defer wg.Wait()
	defer func() {
		for range events { // lets read end
		}
	}()
	defer stream.Close()
	defer cancel(nil)

	ready := false
	for {
		select {
		case ev := <-events:
			switch {
			case ev.err != nil || ev.rejected != nil:
				t.lastID = ev.id // everything up to it was taken
				t.retry = ev.retry
				if ev.rejected != nil {
					return ev.rejected.reason()
				}
				return t.ended(ctx, ev.err)
			case ev.ready && !ready:
				ready = true
				wg.Go(func() {
					send := func(r report) {
						select {
						case reports <- r:
						case <-ctx.Done():
						}
					}
					if err := t.follow.run(ctx, send); err != nil {
						cancel(err) // read ends with that cause
					}
				})
			case ev.deleted != nil:
				if !t.without(ev.deleted.DeviceID, "was deleted") {
					return errNothingLeft()
				}
			case ev.ended != nil:
				return ev.ended.reason()
			case ev.expiring != nil:
				t.note("--- the session of the token ends at %s, unless it is renewed ---", ev.expiring.At.In(t.printer.zone).Format(time.DateTime))
			case ev.lost != nil:
				if !t.without(ev.lost.DeviceID, "is followed no more: you may not see it any longer") {
					return fleet.E(fleet.Forbidden, nil, "There is nothing left to follow: you may not see what was named any longer")
				}
			default:
				if err := t.take(ctx, ev); err != nil {
					return err
				}
			}
		case r := <-reports:
			for _, d := range r.gone {
				t.note("--- %s was deleted ---", d.label())
			}
			if r.subscribed && !t.lostAt.IsZero() {
				t.note("--- resumed after %v ---", time.Since(t.lostAt).Round(100*time.Millisecond))
				t.lostAt = time.Time{}
			}
		}
	}
}

// without says what became of a device that is not followed any more, and
// reports whether there is something left to follow.
func (t *tail) without(id int64, became string) bool {
	if n, ok := t.printer.names[id]; ok {
		t.note("--- %s %s ---", n.device.label(), became)
	} else {
		t.note("--- device %d %s ---", id, became)
	}
	return t.follow.without(id)
}

// meet looks a device up that was made after the others were listed. If that
// fails, what it says appears under its entity id.
func (t *tail) meet(ctx context.Context, id int64) {
	if _, known := t.printer.names[id]; known || id == 0 || t.unnamed[id] {
		return
	}
	if devices, err := t.api.devices(ctx, t.follow.model); err == nil {
		t.printer.know(devices, t.follow.all)
	}
	if _, known := t.printer.names[id]; !known {
		if t.unnamed == nil {
			t.unnamed = map[int64]bool{}
		}
		t.unnamed[id] = true
	}
}

// take prints an event.
func (t *tail) take(ctx context.Context, ev event) error {
	switch {
	case ev.logs != nil:
		t.meet(ctx, ev.logs.DeviceID)
	case ev.gap != nil:
		t.meet(ctx, ev.gap.DeviceID)
	}
	if ev.bad != nil {
		t.note("--- an event could not be read: %v ---", ev.bad)
	}
	if err := t.write(t.printer.render(ev)); err != nil {
		return err
	}
	t.progress = t.progress || ev.logs != nil || ev.gap != nil
	return nil
}

// write puts text, whole lines, out.
func (t *tail) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := t.cfg.Out.Write(b); err != nil {
		return fleet.E(fleet.External, err, "Cannot write the output")
	}
	return nil
}

// unopened says what a connection means that did not come about.
func (t *tail) unopened(err error) error {
	if r, ok := errors.AsType[*refused](err); ok && r.transient() {
		return &lost{r.Error(), r.after}
	}
	switch kind := fleet.KindOf(err); {
	case kind == fleet.Unavailable, kind == fleet.External && t.connected:
		return &lost{why: err.Error()}
	default:
		return err
	}
}

// ended says what the end of a stream means.
func (t *tail) ended(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause != nil: // we ended it, or the caller
		return cause
	case errors.Is(err, io.EOF):
		return &lost{why: "the server ended the stream"}
	case errors.Is(err, sse.ErrTooLong):
		return fleet.E(fleet.External, err, "The server sent an event that is too long")
	default:
		return &lost{why: err.Error()}
	}
}

// sleep waits, and returns the reason if ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
