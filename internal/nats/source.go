package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signalbox/internal/logs"
)

// The server asks for the storage of each QoS 1 and 2 publication by a request
// to mqttMessages + <subject>, and sends PUBACK when that is answered. Its own
// stream listens there by default. Here that stream listens to relay + <subject>
// instead and this program answers: log messages when the journal has them,
// everything else by relaying the request to the stream.
const (
	mqttStream   = "$MQTT_msgs"
	mqttMessages = "$MQTT.msgs."
	relay        = "mqttrelay"
	qosHeader    = "Nmqtt-Pub" // its value begins with the digit of the QoS
)

// SourceOptions configure the embedded broker's source.
type SourceOptions struct {
	Topic string // the shared log topic; <Topic>/<client id> is a device's own
	Log   *slog.Logger
}

// Source is logs.Source on the embedded MQTT broker. A publisher's PUBACK is
// sent when the journal has acknowledged its lines, not before.
type Source struct {
	server *Server
	conn   *nats.Conn
	log    *slog.Logger
	topic  string // as a NATS subject
	in     chan *nats.Msg

	mu      sync.Mutex
	stopped bool
}

// NewSource prepares the broker for devices. They are let in when Run begins.
func NewSource(ctx context.Context, server *Server, o SourceOptions) (*Source, error) {
	subject, err := topicSubject(o.Topic)
	if err != nil {
		return nil, err
	}
	s := &Source{server: server, log: o.Log, topic: subject, in: make(chan *nats.Msg, 1<<15)}
	s.conn, err = server.connect(nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
		// What is dropped here was not acknowledged: its device sends it again.
		s.log.Error("embedded broker", "err", err)
	}))
	if err != nil {
		return nil, err
	}
	if err := s.claim(ctx); err != nil {
		s.conn.Close()
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	return s, nil
}

// claim puts this program between the broker and its message stream.
func (s *Source) claim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	js, err := jetstream.New(s.conn)
	if err != nil {
		return err
	}
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:             mqttStream,
		Subjects:         []string{relay + ".>"},
		SubjectTransform: &jetstream.SubjectTransformConfig{Source: relay + ".>", Destination: mqttMessages + ">"},
		Retention:        jetstream.InterestPolicy,
		Storage:          jetstream.FileStorage,
	})
	if err != nil {
		return err
	}
	// One channel keeps each device's messages in order over all subjects.
	for _, subject := range []string{mqttMessages + ">", s.topic, s.topic + ".*"} {
		if _, err := s.conn.ChanSubscribe(subject, s.in); err != nil {
			return err
		}
	}
	return s.conn.FlushWithContext(ctx)
}

// Admits reports whether clients are let in by the MQTT listener: from when a Source
// runs, so that nothing is acknowledged that nobody takes.
func (s *Server) Admits() bool { return s.gate.open.Load() }

// Run implements logs.Source.
func (s *Source) Run(ctx context.Context, handle func(logs.Message)) error {
	s.server.gate.open.Store(true)
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-s.in:
			s.route(m, handle)
		}
	}
}

// route takes one message from the broker.
func (s *Source) route(m *nats.Msg, handle func(logs.Message)) {
	qos := byte(0)
	if v := header(m, qosHeader); v != "" {
		qos = v[0] - '0'
	}
	subject, stored := strings.CutPrefix(m.Subject, mqttMessages)
	client, ours := s.client(subject)
	switch {
	case !stored && qos > 0:
		// The same message comes, or came, with a request to store it.
	case !ours:
		r := nats.Msg{Subject: relay + "." + subject, Reply: m.Reply, Header: m.Header, Data: m.Data}
		if err := s.conn.PublishMsg(&r); err != nil {
			s.log.Error("relaying an MQTT message failed", "err", err)
		}
	default:
		handle(logs.Message{ClientID: client, Payload: m.Data, Received: time.Now(), QoS: qos, Done: s.answer(m)})
	}
}

// client tells whether the subject is a log topic, and whose.
func (s *Source) client(subject string) (client string, ours bool) {
	rest, ok := strings.CutPrefix(subject, s.topic)
	if !ok || rest == "" {
		return "", ok
	}
	client, ok = strings.CutPrefix(rest, ".")
	return client, ok && client != "" && !strings.Contains(client, ".")
}

// answer returns what tells the broker that a message is stored, or is not.
func (s *Source) answer(m *nats.Msg) func(error) {
	if m.Reply == "" {
		return func(error) {}
	}
	return func(err error) {
		body := []byte(`{"stream":"` + streamName + `","seq":1}`)
		if err != nil {
			// The broker closes the device's connection without a PUBACK.
			body, _ = json.Marshal(map[string]any{"error": map[string]any{"code": 503, "description": "journal unavailable"}})
		}
		if err := m.Respond(body); err != nil && !s.closed() {
			s.log.Error("answering the broker failed", "err", err)
		}
	}
}

func (s *Source) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// Close implements logs.Source.
func (s *Source) Close() error {
	s.mu.Lock()
	again := s.stopped
	s.stopped = true
	s.mu.Unlock()
	if again {
		return nil
	}
	err := s.conn.Flush() // the last answers
	s.conn.Close()
	return err
}

// topicSubject translates an MQTT topic name to the NATS subject it becomes.
func topicSubject(topic string) (string, error) {
	for level := range strings.SplitSeq(topic, "/") {
		if level == "" || strings.ContainsAny(level, ".*> \t+#$") {
			return "", fmt.Errorf("LOGSINK_TOPIC %q: with the embedded broker each level must be non-empty and hold no space and none of . * > + # $", topic)
		}
	}
	return strings.ReplaceAll(topic, "/", "."), nil
}
