// Package mqtt is the client of an external MQTT broker: the source of device
// logs when the devices do not use the embedded broker, and the way updates
// reach them.
//
// It speaks MQTT 5, and 3.1.1 to a broker that knows nothing newer. The
// session at the broker is persistent and every message is acknowledged by
// hand, once it is safe here: what the broker took from a device it keeps until
// then, through a restart of either side.
//
// connect.go keeps a connection up, link.go is one connection with its
// acknowledgements, inflight.go remembers messages across connections so that
// a redelivery is recognized, wire.go is the byte stream below the protocol
// libraries, and v5.go and v311.go join it to them.
package mqtt

import (
	"context"
	"crypto/tls"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// Config says which broker to use and how. URL and Topic are required.
type Config struct {
	// URL is scheme://[user[:password]@]host[:port][/path]. Schemes: mqtt and
	// tcp (port 1883), mqtts, ssl and tls (8883), ws (80) and wss (443). Only
	// the last two may have a path; it is /mqtt if empty.
	URL string
	// Username and Password take precedence over those in URL.
	Username, Password string
	// ClientID names the session at the broker and must be used by nobody
	// else. Empty means Username, or iotsupport-backend without one.
	ClientID string
	// CAFile names a PEM file with the only authorities to trust for the
	// broker's certificate, instead of the system's.
	CAFile string
	// Topic is the shared log topic; Topic/<client_id> is subscribed too.
	Topic string

	// SessionExpiry is how long the broker keeps the session, and the messages
	// in it, while we are away; 3600 s if zero, at most 2^32-2 s. MQTT 3.1.1
	// has no such thing: there the broker decides.
	SessionExpiry time.Duration
	// Clean has the broker forget the session when the connection ends. It is for
	// who only publishes: messages to it are lost with the connection.
	Clean bool
	// ReceiveMaximum is how many messages may be unacknowledged at a time; 512
	// if zero. It bounds the memory that a slow journal can cost.
	ReceiveMaximum uint16
	// KeepAlive is the longest silence before the connection is probed; 30 s
	// if zero. A whole number of seconds.
	KeepAlive time.Duration
	// ConnectTimeout bounds one attempt to connect, and the wait for the
	// broker's answer to a request; 10 s if zero.
	ConnectTimeout time.Duration
	// BackoffMin and BackoffMax bound the growing, jittered pause before a
	// connection attempt that follows a failure; 250 ms and 30 s if zero.
	BackoffMin, BackoffMax time.Duration

	Registry prometheus.Registerer // where the iot_mqtt_* metrics go; nil means nowhere
	Log      *slog.Logger          // nil means slog.Default()
}

// defaultClientID is the client id of the reference system.
const defaultClientID = "iotsupport-backend"

// Source is a connection to one broker. It implements logs.Source.
//
// New only validates; the first Run or Publish begins to connect, and from then
// on the connection is kept up until Close.
type Source struct {
	cfg      Config
	log      *slog.Logger
	endpoint endpoint
	tls      *tls.Config // nil without TLS
	metrics  *metrics

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	begin   sync.Once     // guards the start of maintain
	stopped chan struct{} // closed when maintain has returned, or by Close if it never began
	wanted  chan struct{} // closed by the first Run: subscribe
	want    sync.Once

	inflight *inflight

	mu   sync.Mutex
	link *link         // the connection that is up, or nil
	up   chan struct{} // closed while link is set

	publishing sync.WaitGroup // those who publish on a link, and the calls of a library that go on; begun with mu

	version versionChoice // used by maintain alone
}

var _ logs.Source = (*Source)(nil)

// New checks cfg and makes a source from it. It does not connect.
//
// Errors: fleet.Invalid for a Config that cannot work, its text naming the
// field and never holding the password.
func New(cfg Config) (*Source, error) {
	ep, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if err := checkTopic(cfg.Topic); err != nil {
		return nil, err
	}
	if cfg.Username == "" {
		cfg.Username = ep.username
		if cfg.Password == "" {
			cfg.Password = ep.password
		}
	}
	if cfg.Password != "" && cfg.Username == "" {
		return nil, fleet.E(fleet.Invalid, nil, "the MQTT password has no username")
	}
	if cfg.ClientID == "" {
		cfg.ClientID = cfg.Username
	}
	if cfg.ClientID == "" {
		cfg.ClientID = defaultClientID
	}
	orDefault(&cfg.SessionExpiry, time.Hour)
	orDefault(&cfg.KeepAlive, 30*time.Second)
	orDefault(&cfg.ConnectTimeout, 10*time.Second)
	orDefault(&cfg.BackoffMin, 250*time.Millisecond)
	orDefault(&cfg.BackoffMax, max(30*time.Second, cfg.BackoffMin))
	orDefault(&cfg.ReceiveMaximum, 512)
	switch {
	case cfg.SessionExpiry < time.Second || cfg.SessionExpiry/time.Second >= 1<<32-1:
		return nil, fleet.E(fleet.Invalid, nil, "the MQTT session expiry %s is not between 1 s and 2^32-2 s", cfg.SessionExpiry)
	case cfg.KeepAlive < time.Second || cfg.KeepAlive/time.Second >= 1<<16:
		return nil, fleet.E(fleet.Invalid, nil, "the MQTT keep-alive %s is not between 1 s and 65535 s", cfg.KeepAlive)
	case cfg.ConnectTimeout < 0 || cfg.BackoffMin < 0 || cfg.BackoffMax < cfg.BackoffMin:
		return nil, fleet.E(fleet.Invalid, nil, "the MQTT timeouts are negative or out of order")
	}
	var tlsConfig *tls.Config
	if ep.tls {
		if tlsConfig, err = clientTLS(cfg.CAFile); err != nil {
			return nil, err
		}
	} else if cfg.CAFile != "" {
		return nil, fleet.E(fleet.Invalid, nil, "there is a CA file for the MQTT broker, but the scheme %s does not use TLS", ep.scheme)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Source{
		cfg:      cfg,
		log:      cfg.Log.With("broker", ep.String(), "mqtt_client_id", cfg.ClientID),
		endpoint: ep,
		tls:      tlsConfig,
		metrics:  newMetrics(cfg.Registry),
		ctx:      ctx,
		cancel:   cancel,
		stopped:  make(chan struct{}),
		wanted:   make(chan struct{}),
		inflight: newInflight(int(cfg.ReceiveMaximum)),
		up:       make(chan struct{}),
	}
	s.metrics.enabled.Set(1)
	return s, nil
}

func orDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Run hands the messages to handle, one at a time, until ctx ends or the source
// is closed; then it returns nil, after the last call of handle. Messages that
// arrive later stay unacknowledged at the broker, which will deliver them
// again. It must not run twice at a time.
func (s *Source) Run(ctx context.Context, handle func(logs.Message)) error {
	s.start()
	s.want.Do(func() { close(s.wanted) })
	for {
		d, payload := s.inflight.take(ctx, s.ctx)
		if d == nil {
			return nil
		}
		handle(logs.Message{
			ClientID: s.publisher(d.topic),
			Payload:  payload,
			Received: d.received,
			QoS:      d.qos,
			Repeats:  d.qos > 0,
			Dup:      d.dup,
			Done:     func(err error) { s.done(d, err) },
		})
	}
}

// publisher returns the client id that topic names, "" for the shared topic.
func (s *Source) publisher(topic string) string {
	id, _ := strings.CutPrefix(strings.TrimPrefix(topic, s.cfg.Topic), "/")
	return id
}

// done records what became of a message. An error means that the broker has to
// deliver it again, which it does for a new connection only.
func (s *Source) done(d *delivery, err error) {
	giveUp, gone := s.inflight.done(d, err)
	switch {
	case gone:
		s.log.Error("a message could not be kept, and the broker has lost the session that would repeat it", "topic", d.topic, "err", err)
	case giveUp != nil && giveUp.lose(err):
		s.log.Error("a message could not be kept; reconnecting so that the broker delivers it again", "topic", d.topic, "err", err)
	}
}

// Connected reports whether there is a connection now.
func (s *Source) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil
}

// Close sends the acknowledgements that are due, takes leave of the broker,
// which keeps the session, and waits for everything that was started. It always
// returns nil, and may be called more than once.
func (s *Source) Close() error {
	s.cancel()
	s.begin.Do(func() { close(s.stopped) })
	<-s.stopped
	s.publishing.Wait()
	s.metrics.enabled.Set(0)
	return nil
}

// start begins to keep a connection up, once.
func (s *Source) start() {
	s.begin.Do(func() {
		go func() {
			defer close(s.stopped)
			s.maintain()
		}()
	})
}
