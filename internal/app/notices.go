package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/nats"
	"signalbox/internal/registry"
)

// publisher sends messages to devices.
type publisher interface {
	Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error
}

// broker is one that devices are at.
type broker struct {
	publisher
	name string
}

// noticeTimeout bounds the wait for one broker: a device may wait for its
// answer meanwhile, and what failed is done again.
const noticeTimeout = 5 * time.Second

// notices tells devices over MQTT what there is to be fetched. A device is at one
// of the brokers, and it is not known at which: each is told at once, however
// long another one takes.
type notices struct {
	brokers []broker
	url     string                     // of the API, for devices
	there   func(clientID string) bool // whether there is such a device

	mu  sync.Mutex
	had map[int64]had // by device, while some have the notice of an attempt and others do not
}

// had is which brokers have the notice of an attempt.
type had struct {
	attempt int64
	brokers map[string]bool // by name
}

func newNotices(brokers []broker, url string, there func(clientID string) bool) *notices {
	return &notices{brokers: brokers, url: url, there: there, had: map[int64]had{}}
}

// notice is what lies at a broker for a device that is to fetch its secret.
type notice struct {
	ClientID string `json:"client_id"`
	State    string `json:"state"` // pending
	Attempt  int64  `json:"attempt"`
	URL      string `json:"url"` // where the secret is to be fetched
}

// onlyClientID is what all devices are told, each of which looks whether it is
// meant.
func onlyClientID(clientID string) []byte {
	text, err := json.Marshal(struct {
		ClientID string `json:"client_id"`
	}{clientID})
	if err != nil {
		panic(err) // of a text
	}
	return text
}

// each does something with every broker at once, and returns all their errors.
func (n *notices) each(ctx context.Context, what string, do func(context.Context, broker) error) error {
	ctx, cancel := context.WithTimeout(ctx, noticeTimeout)
	defer cancel()
	failed := make([]error, len(n.brokers))
	var all sync.WaitGroup
	for i, b := range n.brokers {
		all.Go(func() {
			if err := do(ctx, b); err != nil {
				failed[i] = fmt.Errorf("%s by the %s: %w", what, b.name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func (n *notices) send(ctx context.Context, b broker, clientID string, attempt int64) error {
	own, err := json.Marshal(notice{clientID, "pending", attempt, n.url + "/api/iot/provisioning"})
	if err != nil {
		return err
	}
	if err := b.Publish(ctx, fmt.Sprintf(rotationTopic, clientID), 1, true, own); err != nil {
		return err
	}
	if !n.there(clientID) { // it was deleted in this moment, and what lies there was taken back before
		return b.Publish(ctx, fmt.Sprintf(rotationTopic, clientID), 1, true, nil)
	}
	return b.Publish(ctx, provisioningTopic, 1, false, onlyClientID(clientID))
}

// Tell implements rotation.Notifier. When it is repeated for an attempt, the
// brokers that have its notice do not send it again.
func (n *notices) Tell(ctx context.Context, device int64, clientID string, attempt int64) error {
	n.mu.Lock()
	h := n.had[device]
	n.mu.Unlock()
	if h.attempt != attempt {
		h = had{attempt, map[string]bool{}}
	}
	var mu sync.Mutex
	now := map[string]bool{}
	err := n.each(ctx, "tell "+clientID, func(ctx context.Context, b broker) error {
		if !h.brokers[b.name] {
			if err := n.send(ctx, b, clientID, attempt); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		now[b.name] = true
		return nil
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	if delete(n.had, device); err != nil {
		n.had[device] = had{attempt, now}
	}
	return err
}

// Remind implements rotation.Notifier.
func (n *notices) Remind(ctx context.Context, _ int64, clientID string, attempt int64) error {
	return n.each(ctx, "remind "+clientID, func(ctx context.Context, b broker) error { return n.send(ctx, b, clientID, attempt) })
}

// Clear implements rotation.Notifier.
func (n *notices) Clear(ctx context.Context, device int64, clientID string) error {
	n.mu.Lock()
	delete(n.had, device)
	n.mu.Unlock()
	return n.each(ctx, "take the notice of "+clientID+" back", func(ctx context.Context, b broker) error {
		return b.Publish(ctx, fmt.Sprintf(rotationTopic, clientID), 1, true, nil)
	})
}

// The bounds of what waits for a broker.
const (
	maxMail     = 1024             // messages
	mailTimeout = 10 * time.Second // of one
	mailAgain   = 30 * time.Second // until what must arrive is tried again
	mailFlush   = 5 * time.Second  // for what waits when the program ends
)

// mail sends messages to devices in the background: nobody waits for a broker.
type mail struct {
	log     *slog.Logger
	boxes   []*mailbox
	dropped *prometheus.CounterVec
}

// letter is a message.
type letter struct {
	topic, payload string
	retained       bool // also: it must arrive
}

// mailbox is what waits for one broker.
type mailbox struct {
	broker
	queue chan letter
	again []letter // that failed and must arrive; of the goroutine that sends

	mu      sync.Mutex
	waiting map[letter]bool // in queue
	closed  bool
}

// newMail returns the mail for all brokers. Run must run.
func newMail(brokers []broker, r prometheus.Registerer, log *slog.Logger) *mail {
	m := &mail{log: log, dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "iot_mqtt_messages_dropped_total", Help: "Messages to devices that were given up, as the MQTT broker did not take them in time.",
	}, []string{"broker"})}
	r.MustRegister(m.dropped)
	for _, b := range brokers {
		m.dropped.WithLabelValues(b.name)
		m.boxes = append(m.boxes, &mailbox{broker: b, queue: make(chan letter, maxMail), waiting: map[letter]bool{}})
	}
	return m
}

// configChanged tells a device that it has another config, which is committed.
func (m *mail) configChanged(clientID string) {
	m.post(letter{topic: configTopic, payload: string(onlyClientID(clientID))})
}

// deleted takes back what lies at the brokers for a device that is no more.
func (m *mail) deleted(clientID string) {
	m.post(letter{topic: fmt.Sprintf(rotationTopic, clientID), retained: true})
}

// observe hears of changes of devices.
func (m *mail) observe(_ context.Context, ch registry.Change) {
	if ch.Kind == registry.Deleted {
		m.deleted(ch.Before.ClientID)
	}
}

// post has a letter sent by every broker. It does not wait. One that waits
// already is not sent twice.
func (m *mail) post(l letter) {
	for _, b := range m.boxes {
		if !b.put(l) {
			m.drop(b, l, errors.New("too many wait, or the program ends"))
		}
	}
}

func (b *mailbox) put(l letter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting[l] {
		return true
	}
	if b.closed {
		return false
	}
	select {
	case b.queue <- l:
		b.waiting[l] = true
		return true
	default:
		return false
	}
}

func (m *mail) drop(b *mailbox, l letter, err error) {
	m.dropped.WithLabelValues(b.name).Inc()
	m.log.Warn("a message to devices was given up", "broker", b.name, "topic", l.topic, "err", err)
}

// Run sends until ctx ends, and then what waits still.
func (m *mail) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, b := range m.boxes {
		all.Go(func() { m.serve(ctx, b) })
	}
	all.Wait()
	<-ctx.Done() // without a broker there is nothing to do
	return nil
}

func (m *mail) serve(ctx context.Context, b *mailbox) {
	again := time.NewTicker(mailAgain)
	defer again.Stop()
	for {
		select {
		case l := <-b.queue:
			m.send(ctx, b, l)
			continue
		case <-again.C:
			failed := b.again
			b.again = nil
			for _, l := range failed {
				m.send(ctx, b, l)
			}
			continue
		case <-ctx.Done():
		}
		break
	}
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	close(b.queue) // nobody sends to it any more
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), mailFlush)
	defer cancel()
	deliver := func(l letter) {
		if err := b.Publish(last, l.topic, 1, l.retained, []byte(l.payload)); err != nil {
			m.drop(b, l, err)
		}
	}
	for _, l := range b.again {
		deliver(l)
	}
	for l := range b.queue {
		deliver(l)
	}
}

// send sends a letter. One that must arrive is kept for later when it does not.
func (m *mail) send(ctx context.Context, b *mailbox, l letter) {
	b.mu.Lock()
	delete(b.waiting, l) // from now on it tells of a change that is newer than what is sent
	b.mu.Unlock()
	sending, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	err := b.Publish(sending, l.topic, 1, l.retained, []byte(l.payload))
	switch {
	case err == nil:
	case ctx.Err() != nil, l.retained && len(b.again) < maxMail:
		b.again = append(b.again, l) // as the program ends, a last time
	default:
		m.drop(b, l, err)
	}
}

// sweep has what lies at the embedded broker for devices that are no more taken
// back: the program may have been killed between the one and the other.
func (m *mail) sweep(ctx context.Context, server *nats.Server, there func(clientID string) bool) {
	topics, err := server.Retained(ctx, fmt.Sprintf(rotationTopic, "+"))
	if err != nil {
		m.log.Warn("what lies at the MQTT broker for devices that were deleted is not known", "err", err)
	}
	for _, topic := range topics {
		clientID := strings.TrimSuffix(strings.TrimPrefix(topic, "iotsupport/"), "/rotation")
		if _, _, ok := fleet.ParseClientID(clientID); ok && !there(clientID) {
			m.deleted(clientID)
		}
	}
}

// deviceThere returns what tells whether there is a device of a client id.
func deviceThere(devices *registry.Service) func(clientID string) bool {
	return func(clientID string) bool {
		_, ok := devices.Directory().ByClientID(clientID)
		return ok
	}
}
