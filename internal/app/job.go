package app

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/mqtt"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

// ErrInUse says that the database is a file which a running server has, and
// that this server could not be asked either.
var ErrInUse = errors.New("the database is in use by a running signalbox")

// errInUse says that another process has the lock of a directory. What it says is
// said around it.
var errInUse = errors.New("")

// JobReport is what one run of RotationJob did.
type JobReport struct {
	Timeouts  int      // attempts that timed out
	Rotated   []string // keys of the devices whose attempt began
	Scheduled bool     // it was the time of the schedule
	Queued    int      // devices that were queued for that
	Note      string   // what else is to be known; "": nothing
}

const (
	nudgeTimeout = 5 * time.Second
	askTimeout   = time.Minute
	jobTell      = 30 * time.Second // until the broker must have a message
)

// RotationJob does one cycle of the rotation, for those who have a cron job for
// it: the schedule, time-outs, and the start of what is queued. Where a running
// server carries rotations out, it does no more than that server does not. In
// the end it tells the server at INTERNAL_API_URL, if it can.
//
// Errors: fleet.Invalid for settings with which it cannot run, ErrInUse.
func RotationJob(ctx context.Context, cfg config.Config, log *slog.Logger) (JobReport, error) {
	a := &app{cfg: cfg, log: log}
	report, asked, err := a.rotationJob(ctx)
	a.closeAll()
	if !asked && cfg.InternalAPIURL != "" && fleet.KindOf(err) != fleet.Invalid {
		a.nudgeServer(ctx, report, err)
	}
	return report, err
}

// rotationJob is RotationJob without what is told in the end; asked says that the
// server did it, and so knows.
func (a *app) rotationJob(ctx context.Context) (report JobReport, asked bool, err error) {
	cfg := &a.cfg
	schedule, err := rotationSchedule(cfg)
	if err != nil {
		return report, false, err
	}
	if cfg.DatabaseURL == "" {
		if _, err := os.Stat(cfg.SQLitePath()); errors.Is(err, fs.ErrNotExist) {
			return report, false, fleet.E(fleet.Invalid, nil, "There is no %s: is DATA_DIR right?", cfg.SQLitePath())
		}
		unlock, err := lock(cfg.DataDir)
		if errors.Is(err, errInUse) {
			report, err = a.askServer(ctx)
			return report, true, err
		}
		if err != nil {
			return report, false, fmt.Errorf("DATA_DIR: %w", err)
		}
		a.onClose(unlock)
	}
	db, err := sqlstore.Open(ctx, cfg.Database())
	if err != nil {
		return report, false, err
	}
	a.onClose(db.Close)
	runner, tells, err := a.openJob(ctx, db, &report)
	if err != nil {
		return report, false, err
	}
	all := rotation.NewFleet(rotation.FleetOptions{Store: db, Runner: runner, Schedule: schedule, Log: a.log})
	if !schedule.Never() {
		if err := all.Note(ctx); err != nil {
			return report, false, err
		}
	}
	if report.Scheduled, report.Queued, err = all.Due(ctx); err != nil {
		return report, false, err
	}
	if !tells {
		report.Note = "Without MQTT_URL a device can be told by its server only, which does the rest."
		return report, false, nil
	}
	led, err := runner.Cycle(ctx)
	if err == nil && !led {
		report.Note = "A running server carries rotations out, and does the rest."
	}
	return report, false, err
}

// openJob returns a runner that writes what it does into the report, and
// whether it can tell devices.
func (a *app) openJob(ctx context.Context, db *sqlstore.DB, report *JobReport) (runner *rotation.Runner, tells bool, err error) {
	cfg := &a.cfg
	if _, err := os.Stat(keyFile(cfg)); cfg.SecretKey == "" && err != nil {
		return nil, false, fleet.E(fleet.Invalid, err, "SECRET_KEY: want that of the servers, or their DATA_DIR")
	}
	key, err := secretKey(cfg)
	if err != nil {
		return nil, false, err
	}
	var issuer rotation.Issuer
	if cfg.Keycloak() {
		issuer, err = a.openKeycloak()
	} else {
		var box *secret.Box
		if box, err = secret.NewBox(key, "device credentials"); err == nil {
			issuer, err = local.New(ctx, local.Options{
				Store: db, Box: box, Log: a.log, URL: cfg.BaseURL, TokenURL: cfg.DeviceTokenURL(), Audience: cmp.Or(cfg.OIDCAudience, deviceAudience),
				Lifetime: time.Duration(cfg.DeviceTokenLifetime),
			})
		}
	}
	if err != nil {
		return nil, false, err
	}
	var brokers []broker
	if url := cfg.MQTTURL.Reveal(); url != "" {
		// Under a name of its own: the broker would end the server's connection, and
		// give its messages to us.
		external, err := mqtt.New(mqtt.Config{
			URL: url, Username: cfg.MQTTUsername, Password: cfg.MQTTPassword.Reveal(), ClientID: jobClientID(cfg), Clean: true,
			CAFile: cfg.MQTTCAFile, Topic: cfg.LogsinkTopic, Log: a.log,
		})
		if err != nil {
			return nil, false, err
		}
		a.onClose(external.Close)
		brokers = append(brokers, broker{external, "external MQTT broker"})
	}
	box, err := secret.NewBox(key, "rotation")
	if err != nil {
		return nil, false, err
	}
	var mu sync.Mutex
	return rotation.NewRunner(rotation.Options{
		Store: db, Issuer: issuer, Notifier: newNotices(brokers, cfg.DeviceBaseURL, func(string) bool { return true }), Box: box, Policy: rotationPolicy(cfg),
		InFlight: cfg.RotationInFlight, SilentAfter: time.Duration(cfg.RotationSilentAfter),
		Sole: cfg.DatabaseURL == "", EffectTimeout: jobTell, Log: a.log,
		Observe: func(n rotation.News) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case n.From == fleet.RotationPending && n.To == fleet.RotationTimeout:
				report.Timeouts++
			case n.From == fleet.RotationQueued && n.To == fleet.RotationPending:
				_, key, _ := fleet.ParseClientID(n.ClientID)
				report.Rotated = append(report.Rotated, key)
			}
		},
	}), len(brokers) > 0, nil
}

// jobClientID returns a client id at the broker that nobody else has.
func jobClientID(cfg *config.Config) string {
	return cfg.MQTTClientID + "-job-" + strings.ToLower(rand.Text()[:10])
}

// askServer has the running server do it that has the database.
func (a *app) askServer(ctx context.Context) (JobReport, error) {
	report := JobReport{Note: "The running server did it; time-outs, and the start of what is queued, it does by itself."}
	base := a.cfg.InternalAPIURL
	if base == "" {
		base = internalAddress(a.cfg.InternalListen)
	}
	if base == "" {
		return report, fmt.Errorf("%w, which has no internal listener to be asked at: set INTERNAL_API_URL, or leave the rotation to the server and ROTATION_CRON", ErrInUse)
	}
	var said struct {
		Scheduled bool `json:"scheduled"`
		Queued    int  `json:"queued"`
	}
	if err := a.postInternal(ctx, base, "rotation-job", askTimeout, struct{}{}, &said); err != nil {
		return report, fmt.Errorf("%w, and cannot be asked at %s: set INTERNAL_API_URL (and INTERNAL_API_TOKEN), or leave the rotation to the server and ROTATION_CRON: %w", ErrInUse, base, err)
	}
	report.Scheduled, report.Queued = said.Scheduled, said.Queued
	return report, nil
}

// internalAddress returns where this machine reaches a listener; "": nowhere.
func internalAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// nudgeServer tells the server how it went, so that its pages look again. That it
// does not hear us is no failure: it looks by itself, too.
func (a *app) nudgeServer(ctx context.Context, report JobReport, failed error) {
	said := struct {
		Result    string `json:"result"`
		Timeouts  int    `json:"timeouts"`
		Rotated   int    `json:"rotated"`
		Scheduled bool   `json:"scheduled"`
	}{rotation.JobResults[0], report.Timeouts, len(report.Rotated), report.Scheduled}
	if failed != nil {
		said.Result = rotation.JobResults[1]
	}
	if err := a.postInternal(context.WithoutCancel(ctx), a.cfg.InternalAPIURL, "rotation-nudge", nudgeTimeout, said, nil); err != nil {
		a.log.WarnContext(ctx, "the server was not told of the run", "err", err)
	}
}

// postInternal sends something to the internal listener, and reads the answer
// into out unless that is nil.
func (a *app) postInternal(ctx context.Context, base, path string, within time.Duration, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(base, "/")+"/internal/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if token := a.cfg.InternalAPIToken.Reveal(); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	switch {
	case err != nil:
		return err
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("it answered %s", res.Status)
	case out == nil:
		return nil
	}
	return json.Unmarshal(answer, out)
}
