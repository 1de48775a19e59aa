// Package nats is the journal and the embedded MQTT broker, both parts of one
// NATS server inside this process.
package nats

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"signalbox/internal/logs"
)

// maxPayload is the largest message that the server carries. It is well over
// logs.MaxMessage, so that a message over that bound reaches the decoder and is
// counted there instead of costing the device its connection again and again.
const maxPayload = 8 * logs.MaxMessage

// ServerOptions say how the embedded server stores and listens.
type ServerOptions struct {
	Dir        string        // where JetStream keeps its files
	MQTTListen string        // host:port of the MQTT 3.1.1 listener; "" for none
	MQTTTLS    *tls.Config   // of that listener; nil: it speaks without TLS
	Sync       time.Duration // how often files are flushed to the disk; 0: before every acknowledgement
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: nobody reads the metrics

	// Authenticate says what somebody who connects by MQTT may do. nil lets
	// everybody in. It is called by many goroutines at once, each of which it
	// may keep waiting until ctx ends. Errors are those of access.Deny and
	// fleet errors; all are answered alike (see docs/OPERATIONS.md), and only
	// those of the kinds Unauthenticated and Forbidden count as a failure of
	// who asked.
	Authenticate func(ctx context.Context, l Login) (Grant, error)

	// Sessions is told of every MQTT client that comes, once it was let in, and
	// goes. It is called by one goroutine at a time, in the order of the events and
	// some milliseconds after each; events wait while it runs. After Close it is not
	// called. What clients do while the server shuts down it is not told: that is not
	// their doing. nil: nobody wants to know.
	Sessions func(Session)
}

// Server is the embedded NATS server. It has no listener but MQTT: this
// process reaches it through memory.
type Server struct {
	nats   *server.Server
	gate   *gate
	mender *mender
	outlet *outlet // nil: there is no MQTT listener
	watch  *watch  // nil: nobody wants to know

	newest atomic.Uint64 // of the journal: what it acknowledged to any connection
}

// acknowledge notes that the journal has the sequence.
func (s *Server) acknowledge(seq uint64) {
	for newest := s.newest.Load(); newest < seq; newest = s.newest.Load() {
		if s.newest.CompareAndSwap(newest, seq) {
			return
		}
	}
}

// reserved are the subjects that belong to this program and to the server's
// own interfaces: no device may touch them, whatever else it may.
var reserved = []string{"$JS.>", "$SYS.>", "$MQTT.msgs.>", "$MQTT.JSA.>", "_INBOX.>", relay + ".>", "logs.>", "live.>", "unmatched.>", deadPrefix + ">", "$KV.>"}

// StartServer starts the server. It returns when the server takes connections.
func StartServer(o ServerOptions) (*Server, error) {
	opts := &server.Options{
		ServerName: "signalbox",
		DontListen: true,
		NoSigs:     true,
		JetStream:  true,
		StoreDir:   o.Dir,
		MaxPayload: maxPayload,
		// This process is trusted to read what it asked for; a stalled device
		// is cut off by its own write deadline.
		MaxPending:         256 << 20,
		JetStreamMaxMemory: 64 << 20,
		JetStreamMaxStore:  1 << 50, // the stream's own limits and the disk decide
		SyncAlways:         o.Sync == 0,
		SyncInterval:       o.Sync,
	}
	s := &Server{gate: newGate(o, rand.Text())}
	opts.CustomClientAuthentication = s.gate
	if o.MQTTListen != "" {
		host, port, err := net.SplitHostPort(o.MQTTListen)
		if err != nil {
			return nil, fmt.Errorf("MQTT_LISTEN: %w", err)
		}
		opts.MQTT.Host = host
		if opts.MQTT.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("MQTT_LISTEN: %w", err)
		}
		if opts.MQTT.Port == 0 {
			opts.MQTT.Port = server.RANDOM_PORT
		}
		// A publisher's PUBACK waits for the journal; give a slow disk time.
		opts.MQTT.JSAPITimeout = 30 * time.Second
		// A small device needs seconds for a handshake with RSA keys.
		opts.MQTT.TLSConfig, opts.MQTT.TLSTimeout, opts.MQTT.AuthTimeout = o.MQTTTLS, 20, 10
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	s.nats, s.gate.nats = ns, ns
	ns.SetLoggerV2(newServerLog(o.Log), false, false, false)
	ns.Start()
	if !ns.ReadyForConnections(30 * time.Second) {
		ns.Shutdown()
		return nil, fmt.Errorf("embedded NATS server did not start on %s", o.MQTTListen)
	}
	s.mender = &mender{
		nats: ns, dir: o.Dir, log: o.Log, stop: make(chan struct{}), ended: make(chan struct{}),
		config: server.JetStreamConfig{
			StoreDir: opts.StoreDir, SyncAlways: opts.SyncAlways, SyncInterval: opts.SyncInterval,
			MaxMemory: opts.JetStreamMaxMemory, MaxStore: opts.JetStreamMaxStore, Strict: !opts.NoJetStreamStrict,
		},
	}
	go s.mender.run()
	if o.MQTTListen != "" {
		s.outlet = newOutlet(o, opts.MQTT.Host, opts.MQTT.Port, s.gate.secret)
	}
	if o.Sessions != nil {
		if s.watch, err = newWatch(s, o.Sessions, o.Log); err != nil {
			s.Close()
			return nil, fmt.Errorf("embedded NATS server: %w", err)
		}
	}
	return s, nil
}

// connect returns a new connection of this process to the server.
func (s *Server) connect(opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{
		nats.InProcessServer(s.nats), nats.UserInfo(inProcess, s.gate.secret), nats.Name(inProcess),
		nats.MaxReconnects(-1), nats.NoCallbacksAfterClientClose(), nats.IgnoreAuthErrorAbort(),
	}, opts...)
	return nats.Connect("", opts...)
}

// Close stops the server and waits until its files are closed.
func (s *Server) Close() {
	if s.watch != nil {
		s.watch.close()
	}
	close(s.mender.stop)
	<-s.mender.ended
	if s.outlet != nil {
		s.outlet.close()
	}
	s.gate.stop()
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
}

// serverLog passes the server's own messages on. Devices cause errors at will,
// such as by publishing where they may not, so that these are limited.
type serverLog struct {
	log     *slog.Logger
	limit   *rate.Limiter
	dropped *atomic.Int64
}

func newServerLog(log *slog.Logger) serverLog {
	return serverLog{log, rate.NewLimiter(1, 50), new(atomic.Int64)}
}

func (l serverLog) Noticef(f string, a ...any) { l.log.Debug(fmt.Sprintf(f, a...), "from", "nats") }
func (l serverLog) Warnf(f string, a ...any)   { l.write(slog.LevelWarn, f, a) }
func (l serverLog) Fatalf(f string, a ...any)  { l.log.Error(fmt.Sprintf(f, a...), "from", "nats") }
func (l serverLog) Errorf(f string, a ...any) {
	for _, arg := range a {
		if err, ok := arg.(error); ok && errors.Is(err, server.ErrAuthentication) {
			return // the gate says it, and better
		}
	}
	l.write(slog.LevelError, f, a)
}
func (l serverLog) Debugf(string, ...any) {}
func (l serverLog) Tracef(string, ...any) {}

func (l serverLog) write(level slog.Level, f string, a []any) {
	if !l.limit.Allow() {
		l.dropped.Add(1)
		return
	}
	attrs := []slog.Attr{slog.String("from", "nats")}
	if n := l.dropped.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("left_out_before", n))
	}
	l.log.LogAttrs(context.Background(), level, fmt.Sprintf(f, a...), attrs...)
}
