package app_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/google/go-cmp/cmp"

	"signalbox/internal/app"
	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/mosquittotest"
	"signalbox/internal/porttest"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

// shop is a database with devices, and the settings of a job that works on it.
type shop struct {
	t       *testing.T
	environ []string
	devices []fleet.Device
}

func newShop(t *testing.T, devices int, environ ...string) *shop {
	t.Helper()
	const key = "a key for tests only"
	dir := t.TempDir()
	s := &shop{t: t, environ: append([]string{"DATA_DIR=" + dir, "SECRET_KEY=" + key}, environ...)}
	s.use(func(db *sqlstore.DB) {
		box, err := secret.NewBox(key, "device credentials")
		if err != nil {
			t.Fatal(err)
		}
		issuer, err := local.New(t.Context(), local.Options{Store: db, Box: box, URL: "http://localhost", Audience: "signalbox"})
		if err != nil {
			t.Fatal(err)
		}
		service, err := registry.New(t.Context(), db, slog.New(slog.DiscardHandler), registry.WithIssuer(issuer))
		if err != nil {
			t.Fatal(err)
		}
		model, err := service.CreateModel(t.Context(), registry.NewModel{Code: "relay", Name: "Relay"})
		if err != nil {
			t.Fatal(err)
		}
		for range devices {
			d, err := service.CreateDevice(t.Context(), model.ID, "{}")
			if err != nil {
				t.Fatal(err)
			}
			s.devices = append(s.devices, d)
		}
	})
	return s
}

func (s *shop) config(environ ...string) config.Config {
	s.t.Helper()
	loaded, err := config.Load(config.Sources{Environ: append(s.environ, environ...), ReadFile: os.ReadFile})
	if err != nil {
		s.t.Fatal(err)
	}
	return loaded.Config
}

// use opens the database.
func (s *shop) use(f func(*sqlstore.DB)) {
	s.t.Helper()
	db, err := sqlstore.Open(s.t.Context(), filepath.Join(strings.TrimPrefix(s.environ[0], "DATA_DIR="), "signalbox.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	f(db)
	if err := db.Close(); err != nil {
		s.t.Error(err)
	}
}

func (s *shop) queue(which ...int) {
	s.t.Helper()
	only := []int64{}
	for _, i := range which {
		only = append(only, s.devices[i].ID)
	}
	s.use(func(db *sqlstore.DB) {
		if out, err := db.QueueRotations(s.t.Context(), rotation.Bulk{Only: only, Now: time.Now()}); err != nil || out.Devices != len(which) {
			s.t.Fatal(out, err)
		}
	})
}

func (s *shop) record(i int) (rec rotation.Record) {
	s.t.Helper()
	s.use(func(db *sqlstore.DB) {
		var err error
		if rec, err = db.Rotation(s.t.Context(), s.devices[i].ID); err != nil {
			s.t.Fatal(err)
		}
	})
	return rec
}

func (s *shop) job(environ ...string) (app.JobReport, error) {
	return app.RotationJob(s.t.Context(), s.config(environ...), slog.New(slog.NewTextHandler(s.t.Output(), nil)))
}

// server is a client of the broker under the name of a running server.
func server(t *testing.T, addr string) (messages chan string, lost *atomic.Bool) {
	t.Helper()
	messages, lost = make(chan string, 10), new(atomic.Bool)
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("the-server").SetCleanSession(false).SetAutoReconnect(false).
		SetConnectionLostHandler(func(paho.Client, error) { lost.Store(true) }))
	token := c.Connect()
	if !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	token = c.Subscribe("iotsupport/updates/#", 1, func(_ paho.Client, m paho.Message) { messages <- m.Topic() + " " + string(m.Payload()) })
	if !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	t.Cleanup(func() { c.Disconnect(100) })
	return messages, lost
}

// D46 and D47: the device is told, and the broker has that before the job ends;
// the connection and the session of the server are left alone.
func TestD47JobHasItsOwnClient(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	messages, lost := server(t, b.Addr)
	s := newShop(t, 2, "MQTT_URL=mqtt://"+b.Addr, "MQTT_CLIENT_ID=the-server")
	s.queue(0, 1)
	report, err := s.job()
	if diff := cmp.Diff(app.JobReport{Rotated: []string{s.devices[0].Key}}, report); err != nil || diff != "" {
		t.Fatalf("%v %s", err, diff)
	}
	want := `iotsupport/updates/provisioning {"client_id":"` + s.devices[0].ClientID() + `"}`
	select {
	case got := <-messages:
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Error("the device was not told")
	}
	if lost.Load() {
		t.Error("the server lost its connection")
	}
	if rec := s.record(0); rec.State.Wire != fleet.RotationPending || rec.State.Step != rotation.Offered || !rec.TodoAt.IsZero() || rec.Holder != "" {
		t.Errorf("%+v", rec)
	}
	b.AwaitLog("the-server-job-")
	// One at a time, and nothing is told twice.
	report, err = s.job()
	if diff := cmp.Diff(app.JobReport{}, report); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// D46: a broker that is slow to come is waited for: the job ends well only with
// its acknowledgement.
func TestD46JobWaitsForBroker(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	s := newShop(t, 1, "MQTT_URL=mqtt://"+b.Addr)
	s.queue(0)
	b.Stop()
	ended := make(chan error, 1)
	go func() {
		_, err := s.job()
		ended <- err
	}()
	time.Sleep(2 * time.Second)
	b.Restart()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if rec := s.record(0); rec.State.Step != rotation.Offered || !rec.TodoAt.IsZero() {
		t.Errorf("%+v", rec)
	}
}

// A time-out is noticed, and makes room for the next device.
func TestJobTimeouts(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	s := newShop(t, 2, "MQTT_URL=mqtt://"+b.Addr)
	s.queue(1)
	s.use(func(db *sqlstore.DB) {
		rec, err := db.Rotation(t.Context(), s.devices[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		past := time.Now().Add(-time.Minute)
		rec.State = rotation.State{Wire: fleet.RotationPending, Step: rotation.Offered, Attempt: 1, StartedAt: past.Add(-time.Hour), Deadline: past}
		if _, err := db.CommitRotation(t.Context(), rotation.Change{Record: rec, Due: past}); err != nil {
			t.Fatal(err)
		}
	})
	report, err := s.job()
	if diff := cmp.Diff(app.JobReport{Timeouts: 1, Rotated: []string{s.devices[1].Key}}, report); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// The schedule is carried out by whoever looks first, and not for having been set.
func TestJobSchedule(t *testing.T) {
	s := newShop(t, 3, "ROTATION_CRON=* * * * *")
	report, err := s.job()
	if err != nil || report.Scheduled || report.Note == "" {
		t.Fatalf("%+v, %v", report, err)
	}
	s.use(func(db *sqlstore.DB) { // a while ago
		name, at, err := db.RotationSchedule(t.Context())
		if err != nil || name != "* * * * * UTC" {
			t.Fatal(name, err)
		}
		if err := db.RewindSchedule(t.Context(), name, at.Add(-time.Second), at.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	})
	if report, err = s.job(); err != nil || !report.Scheduled || report.Queued != 3 || len(report.Rotated) > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// D50: the server is told how it went, with its token.
func TestJobTells(t *testing.T) {
	told := make(chan string, 10)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		told <- strings.Join([]string{r.Method, r.URL.Path, r.Header.Get("Authorization"), string(body)}, " ")
		w.WriteHeader(http.StatusTeapot) // which is no failure of the job
	}))
	defer front.Close()
	s := newShop(t, 1, "INTERNAL_API_TOKEN=tok")
	f := func(want string, fails bool, change func(*config.Config)) {
		t.Helper()
		cfg := s.config()
		cfg.InternalAPIURL = front.URL + "/"
		change(&cfg)
		if _, err := app.RotationJob(t.Context(), cfg, slog.New(slog.DiscardHandler)); (err != nil) != fails {
			t.Errorf("%v", err)
		}
		got := "nothing"
		select {
		case got = <-told:
		default:
		}
		if got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	}
	const head = "POST /internal/rotation-nudge Bearer tok "
	f(head+`{"result":"success","timeouts":0,"rotated":0,"scheduled":false}`, false, func(*config.Config) {})
	f(head+`{"result":"error","timeouts":0,"rotated":0,"scheduled":false}`, true, func(c *config.Config) {
		c.DatabaseURL = "postgres://nobody@127.0.0.1:1/none"
	})
	f("nothing", true, func(c *config.Config) { c.RotationCron = "never" })
	f("nothing", true, func(c *config.Config) { c.DataDir = t.TempDir() })
}

// With SQLite the running server has the database, and does it when it is asked.
func TestJobBesideServer(t *testing.T) {
	internal := porttest.Free(t)
	s := newShop(t, 2, "PORT=0", "MQTT_LISTEN=", "LOGS_HISTORY=off", "INTERNAL_LISTEN="+internal, "INTERNAL_API_TOKEN=tok")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- app.Serve(ctx, s.config(), "test", slog.New(slog.DiscardHandler)) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if res, err := client.Get("http://" + internal + "/health/healthz"); err == nil {
			res.Body.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if report, err := s.job(); err != nil || !strings.Contains(report.Note, "running server did it") || report.Scheduled {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err := s.job("INTERNAL_API_URL=http://" + internal + "/"); err != nil || report.Note == "" {
		t.Errorf("%+v, %v", report, err)
	}
	res, err := client.Get("http://" + internal + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || !strings.Contains(string(text), `iot_rotation_job_runs_total{result="success"} 2`) {
		t.Errorf("%v", err)
	}
	for _, environ := range []string{"INTERNAL_API_TOKEN=wrong", "INTERNAL_LISTEN=", "INTERNAL_API_URL=http://127.0.0.1:1"} {
		if _, err := s.job(environ); !errors.Is(err, app.ErrInUse) || !strings.Contains(err.Error(), "INTERNAL_API_URL") {
			t.Errorf("%s: %v", environ, err)
		}
	}
}

// A schedule that is none is told by its setting, before anything is opened.
func TestRotationSettings(t *testing.T) {
	f := func(environ, want string) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "data")
		loaded, err := config.Load(config.Sources{Environ: []string{"DATA_DIR=" + dir, environ}, ReadFile: os.ReadFile})
		if err != nil {
			t.Fatal(err)
		}
		err = app.Serve(t.Context(), loaded.Config, "test", slog.New(slog.DiscardHandler))
		if fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", environ, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: the directory was made", environ)
		}
	}
	f("ROTATION_CRON=every day", `ROTATION_CRON: "every day": want five fields`)
	f("ROTATION_CRON=0 8 31 2 *", `ROTATION_CRON: "0 8 31 2 *": want`)
	f("ROTATION_TIMEZONE=Europe/Berlyn", `ROTATION_TIMEZONE: "Europe/Berlyn": want the name of a time zone`)
	f("ROTATION_TIMEZONE=Local", `ROTATION_TIMEZONE: "Local": want`)
}
