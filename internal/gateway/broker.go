package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// checkBroker checks a URL of RabbitMQ. Its error says nothing of the URL, which holds
// a password.
func checkBroker(url string) error {
	if _, err := amqp.ParseURI(url); err != nil {
		return errors.New("RABBITMQ_URL must be an AMQP URL such as amqp://user:password@host:5672/")
	}
	return nil
}

// declareExchange declares the exchange of the events: both ends do, whichever comes
// first, and RabbitMQ refuses the second if it is another one.
func declareExchange(ch *amqp.Channel, name string, autoDelete bool) error {
	return ch.ExchangeDeclare(name, amqp.ExchangeTopic, !autoDelete, autoDelete, false, false, nil)
}

// stayConnected dials RabbitMQ and has hold use what that gives until it is lost,
// over and over until ctx ends.
func stayConnected[S any](ctx context.Context, log *slog.Logger, dial func(context.Context) (S, error), hold func(context.Context, S)) {
	delay := firstReconnect
	for ctx.Err() == nil {
		s, err := dial(ctx)
		if err != nil {
			log.Warn("RabbitMQ was not reached", "err", err, "again_in", delay.String())
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
			delay = min(2*delay, lastReconnect)
			continue
		}
		delay = firstReconnect
		log.Info("connected to RabbitMQ")
		hold(ctx, s)
	}
}

// broker is a connection to RabbitMQ.
type broker struct {
	*amqp.Connection
	socket net.Conn
}

// leave closes the connection. It waits for RabbitMQ's consent, but not for long: the
// deadline that the library knows moves on with every heartbeat that comes.
func (b *broker) leave() {
	late := time.AfterFunc(brokerTimeout, func() { _ = b.socket.Close() }) // it is of no use any more
	defer late.Stop()
	_ = b.CloseDeadline(time.Now().Add(brokerTimeout)) // lost, as often as not
}

// dialBroker connects to RabbitMQ under a name.
func dialBroker(ctx context.Context, url, name string) (*broker, error) {
	b := new(broker)
	var err error
	b.Connection, err = amqp.DialConfig(url, amqp.Config{
		Heartbeat:  brokerBeat,
		Properties: amqp.Table{"connection_name": name},
		Dial: func(network, addr string) (net.Conn, error) {
			d := net.Dialer{Timeout: brokerTimeout}
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			b.socket = c
			return &brokerConn{c}, c.SetDeadline(time.Now().Add(brokerTimeout)) // of the handshake
		},
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// brokerConn is a connection to RabbitMQ whose writes take a bounded time. RabbitMQ
// stops reading when it is short of memory or disk, and the library would wait for
// ever, with everything else that wants to write.
type brokerConn struct{ net.Conn }

func (c *brokerConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(brokerTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
