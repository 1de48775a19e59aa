// Package sim plays a fleet of ESP32 boards: for a demo, as a load, and as the
// devices of a test. device.go decides what a board says and is a function of
// its seed; api.go makes the boards known to the server; link.go speaks MQTT;
// keeper.go replaces a board's secret when it is told to, with the difficulties of
// kinds.go, and tally.go says what became of all of them.
package sim

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"signalbox/internal/fleet"
)

// Config says what to simulate.
type Config struct {
	Devices int     // how many boards, from 1
	Rate    float64 // lines a second of each board, on average
	Seed    uint64  // equal seeds give equal lines

	// MQTT is the broker's URL: mqtt, mqtts, ws or wss.
	MQTT string
	// Login is how the boards prove who they are. Server gives out what they
	// need for that, so Token must be an editor's there.
	Login Login
	// Password is what each board gives with its client id as the user name,
	// with LoginNone; "" connects without either.
	Password string
	// Topic is where the boards publish: all of them there, or with
	// PerClientTopic each below it, at <Topic>/<client id>.
	Topic          string
	PerClientTopic bool

	// Server is the URL of Signalbox, where models and devices are created
	// that are missing, as bearer of Token if it is not "".
	Server string
	Token  string
	Model  string // the code of the model of the devices that are created

	// With a Login the boards replace their secrets when they are told to.
	Shares Shares        // how many of them make that difficult
	Think  time.Duration // what each takes before each step of it
	State  string        // file in which the boards keep their secrets over restarts; "" for none
	Report string        // file for the Report, when the simulation ends; "" for none

	Duration time.Duration // how long to run; 0 until the context ends
	Log      *slog.Logger  // nil is slog.Default()
}

// Login is how a board proves who it is. Whoever does may publish on their own
// topic only.
type Login string

// The ways to do that.
const (
	LoginNone   Login = "none"   // not at all, or by Config.Password
	LoginSecret Login = "secret" // by its client secret
	LoginToken  Login = "token"  // by an access token, for each connection another one
)

// validate reports the first setting that cannot work, as fleet.Invalid.
func (c *Config) validate() error {
	isURL := func(s string) bool {
		u, err := url.Parse(s)
		return err == nil && u.Scheme != "" && u.Host != ""
	}
	switch {
	case c.Devices < 1:
		return fleet.E(fleet.Invalid, nil, "the number of devices must be at least 1, not %d", c.Devices)
	case !(c.Rate > 0 && c.Rate <= 10_000):
		return fleet.E(fleet.Invalid, nil, "the rate must be above 0 and at most 10000 lines a second, not %v", c.Rate)
	case !isURL(c.MQTT):
		return fleet.E(fleet.Invalid, nil, "%q is not the URL of an MQTT broker", c.MQTT)
	case !isURL(c.Server):
		return fleet.E(fleet.Invalid, nil, "%q is not the URL of a server", c.Server)
	case c.Topic == "" || c.Model == "":
		return fleet.E(fleet.Invalid, nil, "a topic and a model are needed")
	case c.Login != "" && c.Login != LoginNone && c.Login != LoginSecret && c.Login != LoginToken:
		return fleet.E(fleet.Invalid, nil, "a login must be none, secret or token, not %q", c.Login)
	case c.Duration < 0 || c.Think < 0:
		return fleet.E(fleet.Invalid, nil, "the duration must not be negative")
	case (c.Login == "" || c.Login == LoginNone) && (c.Shares != Shares{} || c.Think > 0 || c.State != "" || c.Report != ""):
		return fleet.E(fleet.Invalid, nil, "devices that do not log in have no secret that could be rotated: a login is needed, token or secret")
	}
	return c.Shares.validate()
}

// Run makes the boards known to the server and lets them live until ctx ends or
// the duration is over; then it returns nil, with every board disconnected and
// no goroutine left. A broker that is away is tried again for as long as that. It
// fails with fleet.Invalid for a wrong setting, and with fleet.Unavailable or
// fleet.External if the server cannot be reached or does not take the devices.
func Run(ctx context.Context, cfg Config) error {
	_, err := run(ctx, cfg)
	return err
}

// totals counts what the boards did.
type totals struct {
	published atomic.Int64 // lines handed to the broker, those of repeated batches once
	acked     atomic.Int64 // lines the broker has acknowledged
	errors    atomic.Int64 // connections that failed and batches that were not acknowledged
	running   atomic.Int64 // boards that have connected at least once
}

func run(ctx context.Context, cfg Config) (*totals, error) {
	t := &totals{}
	if err := cfg.validate(); err != nil {
		return t, err
	}
	log := cfg.Log
	if log == nil {
		log = slog.Default()
	}
	if cfg.Login == "" {
		cfg.Login = LoginNone
	}
	if cfg.Login != LoginNone {
		cfg.PerClientTopic = true
	}
	if cfg.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.Duration)
		defer cancel()
	}

	kept, err := openKept(cfg.State)
	if err != nil {
		return t, err
	}
	api, closeAPI := newAPI(cfg)
	defer closeAPI()
	all, err := api.provision(ctx, cfg, log)
	if ctx.Err() != nil {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("make the devices known: %w", err)
	}

	// All at once would be a storm that no fleet makes; one by one takes minutes.
	const atATime, apart, withinAtMost = 32, 5 * time.Millisecond, 2 * time.Second
	begin := time.Now()
	spread := min(time.Duration(cfg.Devices)*apart, withinAtMost)
	connecting := make(chan struct{}, atATime)
	kinds := cfg.Shares.kinds(cfg.Seed, cfg.Devices)
	able := cfg.Devices // to be connected at all
	for _, k := range kinds {
		if k == Off {
			able--
		}
	}
	tally := &tally{kept: kept, steps: map[string]StepReport{}}
	if cfg.Login != LoginNone {
		for i, b := range all {
			tally.keepers = append(tally.keepers, newKeeper(&cfg, api, b, i+1, kinds[i], tally, log))
		}
	}
	var boards sync.WaitGroup
	if len(tally.keepers) > 0 {
		boards.Go(func() { tally.say(ctx, log) })
	}
	for i, b := range all {
		var keeper *keeper
		if len(tally.keepers) > 0 {
			keeper = tally.keepers[i]
			boards.Go(func() { keeper.run(ctx) })
		}
		boards.Go(func() {
			if !sleep(ctx, spread*time.Duration(i)/time.Duration(cfg.Devices)) {
				return
			}
			l := &link{cfg: &cfg, api: api, board: b, keeper: keeper, connecting: connecting, totals: t, log: log}
			l.live(ctx, NewDevice(cfg.Seed, i+1, cfg.Rate), func() {
				if t.running.Add(1) == int64(able) {
					log.Info("all devices are running", "devices", able, "lines_per_second", cfg.Rate*float64(able),
						"took", time.Since(begin).Round(time.Millisecond).String())
				}
			})
		})
	}
	boards.Wait()
	if err := tally.end(context.WithoutCancel(ctx), cfg.Report, log); err != nil {
		return t, err
	}
	log.Info("simulation ended", "devices", cfg.Devices, "lines_published", t.published.Load(), "lines_acked", t.acked.Load(),
		"errors", t.errors.Load(), "ran", time.Since(begin).Round(time.Millisecond).String())
	return t, nil
}

// sleep waits for d or the end of ctx, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}
