package sim

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const (
	connectTimeout = 10 * time.Second
	ackTimeout     = 30 * time.Second
	lastAck        = 2 * time.Second // how long the end of the run waits for the ack of what is on its way
)

var (
	errNoAck        = errors.New("the broker did not acknowledge in time")
	errDisconnected = errors.New("not connected")
	errNotGranted   = errors.New("the broker does not let it")
)

// link is the MQTT side of one board.
type link struct {
	cfg *Config
	api *api
	board
	keeper     *keeper       // of its secret; nil with LoginNone
	connecting chan struct{} // bounds how many boards connect at a time
	totals     *totals
	log        *slog.Logger
	client     mqtt.Client // nil while the board is offline
}

// live plays the events of d, each at its time, until ctx ends; then the board
// is disconnected. An event that is late, because the broker was, is played at
// once: nothing is left out. running is called after the first connect.
func (l *link) live(ctx context.Context, d *Device, running func()) {
	defer l.leave()
	if !l.provision(ctx) {
		return
	}
	begin, first := time.Now(), true
	for up := false; ; {
		e := d.Next()
		if !l.rest(ctx, begin.Add(e.At), up) {
			return
		}
		switch up = up && e.Action != Leave || e.Action == Join; e.Action {
		case Join:
			l.join(ctx)
			if first && l.client != nil {
				first = false
				running()
			}
		case Leave:
			l.leave()
		case Publish:
			l.publish(ctx, d.Payload(e.Lines), len(e.Lines))
		}
	}
}

// provision has the board provisioned, if it logs in, and reports whether ctx
// goes on.
func (l *link) provision(ctx context.Context) bool {
	for pause := 500 * time.Millisecond; l.keeper != nil; pause = min(2*pause, 8*time.Second) {
		err := l.provisionOnce(ctx)
		if err == nil || ctx.Err() != nil {
			break
		}
		l.failed("provision", err)
		sleep(ctx, pause/2+rand.N(pause))
	}
	return ctx.Err() == nil
}

func (l *link) provisionOnce(ctx context.Context) error {
	select {
	case l.connecting <- struct{}{}:
		defer func() { <-l.connecting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return l.keeper.provision(ctx)
}

// rest waits for a time, and then until the board has a network. While it has
// none it is not connected; up is whether it is to be when it has. It reports
// whether ctx goes on.
func (l *link) rest(ctx context.Context, until time.Time, up bool) bool {
	for ctx.Err() == nil {
		down, change := false, time.Time{}
		if l.keeper != nil {
			down, change = l.keeper.net.down()
		}
		switch {
		case down && change.IsZero():
			<-ctx.Done()
		case down:
			l.leave()
			sleep(ctx, time.Until(change))
		default:
			if up && l.client == nil {
				l.join(ctx)
			}
			if change.IsZero() || until.Before(change) {
				return sleep(ctx, time.Until(until))
			}
			sleep(ctx, time.Until(change))
		}
	}
	return false
}

// publish sends one batch, again after every failure, until it is acknowledged
// or ctx ends.
func (l *link) publish(ctx context.Context, payload []byte, lines int) {
	topic := l.cfg.Topic
	if l.cfg.PerClientTopic {
		topic += "/" + l.clientID
	}
	l.totals.published.Add(int64(lines))
	for {
		err := l.attempt(ctx, topic, payload)
		if err == nil {
			l.totals.acked.Add(int64(lines))
			return
		}
		l.failed("publish", err)
		if ctx.Err() != nil {
			return
		}
		l.leave()
		l.join(ctx)
	}
}

// attempt sends one batch and waits for its PUBACK.
func (l *link) attempt(ctx context.Context, topic string, payload []byte) error {
	if l.client == nil || !l.client.IsConnectionOpen() {
		return errDisconnected
	}
	token := l.client.Publish(topic, 1, false, payload)
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	select {
	case <-token.Done():
		return token.Error()
	case <-timeout.C:
		return errNoAck
	case <-ctx.Done():
	}
	if !token.WaitTimeout(lastAck) {
		return errNoAck
	}
	return token.Error()
}

// join connects, again after every failure, until it succeeds or ctx ends.
func (l *link) join(ctx context.Context) {
	for pause := 500 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 8*time.Second) {
		err := l.connect(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			l.failed("connect", err)
		}
		sleep(ctx, pause/2+rand.N(pause))
	}
}

// connect makes one attempt to connect.
func (l *link) connect(ctx context.Context) error {
	select {
	case l.connecting <- struct{}{}:
		defer func() { <-l.connecting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// The client's own reconnecting is off: a board that lost its connection
	// sends the batch in hand again, and then knows whether it was taken.
	opts := mqtt.NewClientOptions().
		AddBroker(l.cfg.MQTT).
		SetProtocolVersion(4). // MQTT 3.1.1
		SetClientID(l.clientID).
		SetCleanSession(true).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetConnectTimeout(connectTimeout).
		SetWriteTimeout(connectTimeout).
		SetKeepAlive(30 * time.Second)
	password, err := l.password(ctx)
	if err != nil {
		return err
	}
	if password != "" {
		opts.SetUsername(l.clientID).SetPassword(password)
	}
	client := mqtt.NewClient(opts)
	token := client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		client.Disconnect(0)
		<-token.Done()
		return ctx.Err()
	}
	if err := token.Error(); err != nil {
		return err
	}
	l.client = client
	return l.listen()
}

// listen has the board hear of new secrets, if it logs in.
func (l *link) listen() error {
	if l.keeper == nil {
		return nil
	}
	token := l.client.SubscribeMultiple(l.keeper.topics(), func(_ mqtt.Client, m mqtt.Message) { l.keeper.hear(m.Topic(), m.Payload()) })
	if !token.WaitTimeout(connectTimeout) {
		l.leave()
		return errNoAck
	}
	if err := token.Error(); err != nil {
		l.leave()
		return err
	}
	for topic, granted := range token.(*mqtt.SubscribeToken).Result() {
		if granted > 2 { // MQTT 3.1.1, section 3.9.3: refused. It logs all the same.
			l.failed("subscribe to "+topic, errNotGranted)
		}
	}
	return nil
}

// leave disconnects, if connected.
func (l *link) leave() {
	if l.client != nil {
		l.client.Disconnect(100) // milliseconds to write the DISCONNECT
		l.client = nil
	}
}

// failed counts an error, and logs the first of the run so that a wrong address
// does not go unnoticed. The others are for who wants to know.
func (l *link) failed(op string, err error) {
	level := slog.LevelDebug
	if l.totals.errors.Add(1) == 1 {
		level = slog.LevelWarn
	}
	l.log.Log(context.Background(), level, "a device failed and will try again", "op", op, "client_id", l.clientID, "err", err)
}
