// Package app puts the parts of Signalbox together. It is the only place that
// knows which implementation stands behind an interface, and in which order
// they start and stop.
package app

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/mqtt"
	"signalbox/internal/nats"
	"signalbox/internal/overview"
	"signalbox/internal/presence"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
	"signalbox/internal/sse"
	"signalbox/internal/stream"
	"signalbox/internal/ui"
	"signalbox/internal/web"
)

// Serve runs Signalbox until ctx ends, shuts it down in order and returns nil;
// or it returns what kept it from starting or made it stop. version is what
// open pages compare to learn of a new release.
func Serve(ctx context.Context, cfg config.Config, version string, log *slog.Logger) error {
	a := &app{cfg: cfg, log: log, metrics: prometheus.NewRegistry(), stop: make(chan struct{}, 1), drained: make(chan struct{}), reminders: newReminders(log)}
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer a.closeAll()
	units, err := a.open(ctx, version)
	if err != nil {
		return err
	}
	return process{
		log: log, ready: "signalbox is ready", limit: time.Duration(cfg.GracefulShutdownTimeout),
		stop: a.stop, stopping: a.web.Drain,
	}.run(ctx, units)
}

type app struct {
	cfg     config.Config
	log     *slog.Logger
	metrics *prometheus.Registry
	web     *web.Server
	closers []func() error  // what was opened, in order
	held    []func() uint64 // the sequence up to which each copy of the journal is complete

	// deviceSecret compares the secret of a device with those that are good, where
	// they are kept here. Nil: they are not.
	deviceSecret func(ctx context.Context, clientID, secret string) (fleet.DeviceClaims, error)

	rotating  rotation.Issuer // where the secrets of devices are changed
	reminders *reminders      // of devices that have a secret to fetch

	presence *presence.Tracker // which devices are there

	stop    chan struct{} // has room for one: /health/drain was asked
	drained chan struct{} // closed when no messages are taken and no streams are open
}

// closeAll closes what was opened, the last first.
func (a *app) closeAll() {
	for i := len(a.closers) - 1; i >= 0; i-- {
		if err := a.closers[i](); err != nil {
			a.log.Error("closing", "err", err)
		}
	}
}

func (a *app) onClose(f func() error) { a.closers = append(a.closers, f) }

// open acquires everything that can fail and returns what is to be run, in the
// order of starting.
func (a *app) open(ctx context.Context, version string) ([]unit, error) {
	cfg, log := a.cfg, a.log
	schedule, err := rotationSchedule(&cfg)
	if err != nil {
		return nil, err
	}
	if fresh, err := neverRun(&cfg); err != nil {
		return nil, err
	} else if fresh { // what is refused leaves nothing behind
		if err := checkExposure(&cfg, false); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("DATA_DIR: %w", err)
	}
	unlock, err := lock(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("DATA_DIR: %w", err)
	}
	a.onClose(unlock)

	db, err := sqlstore.Open(ctx, cfg.Database())
	if err != nil {
		return nil, err
	}
	a.onClose(db.Close)
	key, err := secretKey(&cfg)
	if err != nil {
		return nil, err
	}
	identity, people, err := a.openIdentity(ctx, db, key)
	if err != nil {
		return nil, err
	}
	devices, credentials, deviceUnits, err := a.openDevices(ctx, db, key, identity)
	if err != nil {
		return nil, err
	}

	if a.presence, err = a.openPresence(ctx, db, devices); err != nil {
		return nil, err
	}
	deviceUnits = append(deviceUnits, unit{"presence of devices", a.presence.Run})

	options := nats.ServerOptions{
		Dir: filepath.Join(cfg.DataDir, "nats"), MQTTListen: cfg.MQTTListen, Sync: time.Duration(cfg.JournalSync), Log: log, Registerer: a.metrics,
		Sessions: a.session,
	}
	rights := brokerRights{verify: credentials.Verify, secret: a.deviceSecret, identify: devices.Identify}
	if credentials.Broker, err = a.openBroker(&options, rights, credentials.Open()); err != nil {
		return nil, err
	}
	server, err := nats.StartServer(options)
	if err != nil {
		return nil, err
	}
	a.onClose(func() error { server.Close(); return nil })
	if options.Authenticate != nil {
		guard := newBrokerGuard(server, devices, log)
		credentials.CloseSessions = guard.CloseSessions
		deviceUnits = append(deviceUnits, unit{"rights on the MQTT broker", guard.Run})
	}
	limits := nats.JournalOptions{MaxBytes: int64(cfg.JournalMaxBytes), MaxAge: time.Duration(cfg.JournalMaxAge)}
	if cfg.LogsHistory != "off" || cfg.ElasticsearchURL != "" { // then what is not copied yet is kept longer, see keepJournal
		limits = nats.JournalOptions{MaxBytes: int64(cfg.JournalDiskBytes)}
	}
	limits.Mark, limits.Log = filepath.Join(cfg.DataDir, "journal.json"), log
	journal, err := nats.OpenJournal(ctx, server, limits)
	if err != nil {
		return nil, err
	}
	a.onClose(func() error { journal.Close(); return nil })

	logMetrics := logs.NewMetrics(a.metrics)
	var copied copied
	if cfg.ElasticsearchURL != "" {
		if copied.client, copied.sink, copied.dead, err = a.openElasticsearch(ctx, journal); err != nil {
			return nil, err
		}
	}
	past, history, keepers, err := a.openHistory(ctx, journal, devices, copied)
	if err != nil {
		return nil, err
	}
	_, newest, err := journal.Bounds(ctx) // what was lost of its end is passed over by now
	if err != nil {
		return nil, err
	}
	ledger := logs.NewLedger(newest)
	if copied.sink != nil {
		keepers = append(keepers, unit{"Elasticsearch", copied.sink.Run})
		a.held = append(a.held, copied.sink.Held)
		log.Info("lines are copied to Elasticsearch", "url", cfg.ElasticsearchURL)
	}
	if len(a.held) > 0 {
		keepers = append(keepers, unit{"journal limits", func(ctx context.Context) error { a.keepJournal(ctx, journal); return nil }})
	}
	hub := logs.NewHub(journal, past, newest, ledger, logMetrics, log)
	activity := logs.NewActivity(journal.Epoch(), devices.Directory().ByKey)
	ingest := logs.NewIngest(logs.IngestOptions{
		EntityField: cfg.LogsinkEntityField, Directory: devices.Directory(), Journal: journal, Ledger: ledger,
		Quota: quotaOf(&cfg), Redactor: logs.NewRedactor(cfg.LogRedact == "on", cfg.LogRedactPatterns.Compile()),
		Activity: activity, Metrics: logMetrics, Log: log,
		Heard: func(d fleet.DeviceRef, at time.Time) {
			a.presence.Line(d.ID, at)
			a.reminders.heard(d.ClientID)
		},
	})

	connections := stream.NewRegistry(stream.Options{
		Feed: feed{hub, cfg.StreamMaxRate, log}, Devices: devices.Directory(), Log: log, Registerer: a.metrics,
		Watched:        func(d fleet.DeviceRef) { activity.Touch(d.Key) },
		MaxConnections: cfg.MaxStreams, MaxPerSubject: cfg.MaxStreamsPerSubject, MaxSubscriptions: cfg.MaxSubscriptionsPerStream,
	})
	devices.Observe(func(ctx context.Context, ch registry.Change) {
		switch ch.Kind {
		case registry.Deleted:
			activity.Forget(ch.Before.Key)
			connections.DeviceDeleted(ch.Before)
		case registry.Created:
			activity.Created(ch.After)
			connections.DeviceCreated(ctx, ch.After)
		default:
			hub.Update(ch.After)
			if ch.Before.Tags != ch.After.Tags { // it may be new to somebody
				activity.Touch(ch.After.Key)
			}
			connections.DeviceUpdated(ch.Before, ch.After)
		}
	})
	identity.Accounts.OnChange(connections.RecheckSoon)
	frontend := newFrontend(cfg.FrontendVersionURL, version, log)
	connections.Observe(frontend.announce)
	nudger := stream.NewNudger(connections, a.metrics)
	streams := web.NewStreams(web.StreamOptions{
		Registry: connections, Log: log, Registerer: a.metrics, Heartbeat: time.Duration(cfg.SSEHeartbeatInterval),
		Buffer: int(cfg.StreamBufferBytes), WriteTimeout: time.Duration(cfg.StreamWriteTimeout),
	})

	carried, carriers, err := a.openCarrier(streams)
	if err != nil {
		return nil, err
	}

	health := web.Health{
		Database: func(ctx context.Context) (int, error) {
			if err := db.Ping(ctx); err != nil {
				return 0, err
			}
			return db.PendingMigrations(ctx)
		},
		Journal: journal.Ping,
		Drain:   a.drain,
	}
	if identity.Provider != nil {
		health.Provider = identity.Provider.Ready
	}
	var sources []unit
	var brokers []broker
	sent := newPublished(a.metrics)
	if cfg.MQTTListen != "" {
		brokers = append(brokers, sent.by("embedded MQTT broker", server))
		source, err := nats.NewSource(ctx, server, nats.SourceOptions{Topic: cfg.LogsinkTopic, Log: log})
		if err != nil {
			return nil, err
		}
		a.onClose(source.Close)
		health.Admits = server.Admits
		sources = append(sources, unit{"embedded MQTT broker", func(ctx context.Context) error { return ingest.Run(ctx, source) }})
		log.Info("MQTT broker listens", "address", cfg.MQTTListen)
	}
	if url := cfg.MQTTURL.Reveal(); url != "" {
		source, err := mqtt.New(mqtt.Config{
			URL: url, Username: cfg.MQTTUsername, Password: cfg.MQTTPassword.Reveal(), ClientID: cfg.MQTTClientID,
			CAFile: cfg.MQTTCAFile, Topic: cfg.LogsinkTopic, Registry: a.metrics, Log: log,
		})
		if err != nil {
			return nil, err
		}
		a.onClose(source.Close)
		origins, err := journal.Origins(ctx, rememberedOrigins)
		if err != nil {
			return nil, err
		}
		ingest.Stored(origins)
		health.Broker = source.Connected
		brokers = append(brokers, sent.by("external MQTT broker", source))
		sources = append(sources, unit{"external MQTT broker", func(ctx context.Context) error { return ingest.Run(ctx, source) }})
	}
	a.observeJournal(journal, devices.Directory(), len(sources) > 0)

	rotating, rotationUnits, err := a.openRotation(db, key, newNotices(brokers, cfg.DeviceBaseURL, deviceThere(devices)), func(n rotation.News) {
		a.reminders.observe(n)
		_ = nudger.Nudge("web") // its error is that we end, and then every page asks again
	})
	if err != nil {
		return nil, err
	}

	mail := newMail(brokers, a.metrics, log)
	devices.Observe(mail.observe)
	rotationUnits = append(rotationUnits, a.openReminders(server, devices, rotating), unit{"messages to devices", func(ctx context.Context) error {
		mail.sweep(ctx, server, deviceThere(devices))
		return mail.Run(ctx)
	}})

	nonces, err := secret.NewBox(key, "rotation proof")
	if err != nil {
		return nil, err
	}
	all, allUnits := a.openFleet(db, devices, rotating, schedule, nudger)
	rotationUnits = append(rotationUnits, allUnits...)
	campaigns, campaignUnits := a.openCampaigns(db, rotating, contacts(a.presence), func() { _ = nudger.Nudge("web") })
	links := registry.NewLinks(db, log, nil)
	rotationUnits = append(rotationUnits, unit{"links to credentials", links.Run})

	recorder := overview.New(a.metrics, log)
	page := web.Options{
		Log: log, Registry: devices, Metrics: a.metrics, Identity: identity, CORSOrigins: cfg.CORSOrigins,
		History: history, Undelivered: copied.dead, Streams: streams, Connections: connections, Nudger: nudger, DrainKey: cfg.DrainAuthKey.Reveal(),
		Activity: activity, Overview: recorder, Page: ui.Handler, Devices: credentials,
		Rotation: rotating, Nonces: nonces, ConfigChanged: mail.configChanged, Campaigns: campaigns, Presence: a.presence, Links: links,
		Fleet: all, CriticalDays: cfg.RotationCriticalDays, InternalToken: cfg.InternalAPIToken.Reveal(), CallbackSecret: cfg.SSECallbackSecret.Reveal(),
	}
	if carried != nil { // a nil *carrier in it would not be nil
		page.Carrier = carried
		health.Gateways = carried.Up
	}
	page.Health = health
	a.web = web.New(page)
	grace := time.Duration(cfg.GracefulShutdownTimeout) / 2
	public, err := listen(log, listener{name: "HTTP", address: cfg.Addr(), cert: cfg.TLSCert, key: cfg.TLSKey, handler: a.web.Handler(), grace: grace})
	if err != nil {
		return nil, err
	}
	a.onClose(public.close)
	units := slices.Concat(deviceUnits, keepers, people, []unit{{"live delivery", hub.Run}, {"HTTP", public.run}})
	if cfg.InternalListen != "" {
		internal, err := listen(log, listener{name: "internal HTTP", address: cfg.InternalListen, handler: a.web.Internal(), grace: grace})
		if err != nil {
			return nil, err
		}
		a.onClose(internal.close)
		units = append(units, unit{"internal HTTP", internal.run})
	}
	units = append(units, carriers...) // they end when the streams have ended
	units = append(units,
		unit{"drained", func(ctx context.Context) error { // stopped when the streams and sources are
			<-ctx.Done()
			close(a.drained)
			return nil
		}},
		unit{"rights of streams", connections.Run},
		unit{"nudges", nudger.Run},
		unit{"frontend version", frontend.Run},
		unit{"overview", recorder.Run},
		unit{"activity", func(ctx context.Context) error {
			activity.Fill(ctx, logs.FillOptions{Devices: devices.Directory().All, History: history, Journal: journal, UpTo: newest, Log: log})
			recall(a.presence, devices.Directory().All(), activity)
			<-ctx.Done()
			return nil
		}},
		unit{"event streams", func(ctx context.Context) error {
			bye := context.AfterFunc(ctx, func() { connections.Close(goodbye) })
			defer bye()
			return streams.Run(ctx, grace)
		}})
	return slices.Concat(units, sources, rotationUnits, campaignUnits), nil
}

// rememberedOrigins is how many of the newest batches are known again when the
// broker repeats them after a restart. It must cover what can have been
// unacknowledged: the source takes 512 messages at a time.
const rememberedOrigins = 8192

// goodbye asks a client to come back, not all at the same moment.
func goodbye() *sse.Frame {
	return sse.Retry(time.Second + time.Duration(rand.Int64N(int64(9*time.Second))))
}

// feed is stream.Feed on the hub.
type feed struct {
	hub  *logs.Hub
	rate int // lines per second of what is bounded
	log  *slog.Logger
}

// Open implements stream.Feed. A client with an id that is none of ours is told
// that nobody knows what it had.
func (f feed) Open(out *sse.Outbox, resume string, before []string) stream.Reader {
	var at *logs.Position
	if resume != "" {
		p, err := logs.ParsePosition(resume)
		if err != nil {
			f.log.Info("a client came with an unknown last event id", "err", err)
			before = nil
		}
		at = &p
	}
	r := f.hub.NewReader(out, at, before)
	r.Limit(f.rate)
	return reader{r}
}

// reader is stream.Reader on the hub's.
type reader struct{ *logs.Reader }

// Follow implements stream.Reader.
func (r reader) Follow(ctx context.Context, devices []fleet.DeviceRef, want stream.Want) error {
	w := logs.Want{Filter: logs.Filter{Tag: want.Tag, Pattern: want.Pattern, Regex: want.Regex}, Bounded: want.Bounded, Made: want.Made}
	if want.After != "" {
		var err error
		if w.After, err = logs.ParseLineCursor(want.After); err != nil {
			return err
		}
	}
	if want.Level != "" {
		var ok bool
		if w.Filter.Level, ok = logs.ParseLevel(want.Level); !ok {
			return fleet.E(fleet.Invalid, nil, "The level must be error, warn, info, debug or verbose")
		}
	}
	return r.Reader.Follow(ctx, devices, w)
}

// observeJournal adds the gauges that are read when they are asked for.
func (a *app) observeJournal(j *nats.Journal, d *registry.Directory, enabled bool) {
	gauge := func(name, help string, f func() float64) {
		a.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	size := func() (float64, time.Time) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		bytes, oldest, err := j.Size(ctx)
		if err != nil {
			return 0, time.Time{}
		}
		return float64(bytes), oldest
	}
	gauge("iot_logsink_journal_bytes", "Bytes that the journal holds.", func() float64 { b, _ := size(); return b })
	if cfg := a.cfg; cfg.LogsHistory != "off" || cfg.ElasticsearchURL != "" { // else what goes was meant to go
		gauge("iot_logsink_journal_limit_bytes", "Bytes at which the journal gives up lines that are not in the history yet, or not at ELASTICSEARCH_URL.",
			func() float64 { return float64(cfg.JournalDiskBytes) })
	}
	gauge("iot_logsink_journal_age_seconds", "Age of the oldest batch in the journal.", func() float64 {
		if _, oldest := size(); !oldest.IsZero() {
			return time.Since(oldest).Seconds()
		}
		return 0
	})
	gauge("iot_logsink_journal_pending", "Batches given to the journal and not yet acknowledged.", func() float64 { return float64(j.Pending()) })
	gauge("iot_logsink_live_lag", "Batches stored and not yet handed to the streams of this process.", func() float64 { return float64(j.Lag()) })
	gauge("iot_logsink_enabled", "Whether log lines are being taken.", func() float64 {
		if enabled {
			return 1
		}
		return 0
	})
	gauge("iot_devices", "Devices.", func() float64 { return float64(d.Len()) })
	gauge("iot_devices_shared_entity_ids", "Entity ids that more than one device has.", func() float64 { return float64(d.SharedEntities()) })
}

// drain shuts down, and returns when that has come as far as it can be told.
func (a *app) drain(ctx context.Context) error {
	select {
	case a.stop <- struct{}{}:
	default:
	}
	select {
	case <-a.drained:
		return nil
	case <-ctx.Done():
		return fleet.E(fleet.Unavailable, ctx.Err(), "The shutdown is under way")
	}
}
