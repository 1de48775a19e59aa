package mqtt

import (
	"context"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt3 "github.com/eclipse/paho.mqtt.golang"
	packets3 "github.com/eclipse/paho.mqtt.golang/packets"
)

// v311 is MQTT 3.1.1, for a broker that knows nothing newer.
type v311 struct {
	link   *link
	client mqtt3.Client
	gone   chan struct{}   // closed when the library has noticed a loss and cleaned up
	calls  *sync.WaitGroup // of the library; those who publish are in it already
}

// nothing is a message store of the library that stores nothing: what was
// received is at the broker until it is acknowledged, and Publish tries again by
// itself.
type nothing struct{}

func (nothing) Open()                              {}
func (nothing) Put(string, packets3.ControlPacket) {}
func (nothing) Get(string) packets3.ControlPacket  { return nil }
func (nothing) All() []string                      { return nil }
func (nothing) Del(string)                         {}
func (nothing) Close()                             {}
func (nothing) Reset()                             {}

// connect311 connects with MQTT 3.1.1.
func (s *Source) connect311(ctx context.Context) (*link, error) {
	nc, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	wire := newConn(nc, 4)
	l := newLink(wire, int(s.cfg.ReceiveMaximum))
	p := &v311{link: l, gone: make(chan struct{}), calls: &s.publishing}
	opts := mqtt3.NewClientOptions().
		AddBroker("tcp://" + s.endpoint.host). // not used: the connection is there
		SetCustomOpenConnectionFn(func(*url.URL, mqtt3.ClientOptions) (net.Conn, error) { return wire, nil }).
		SetProtocolVersion(4).
		SetClientID(s.cfg.ClientID).
		SetUsername(s.cfg.Username).
		SetPassword(s.cfg.Password).
		SetCleanSession(s.cfg.Clean).
		SetAutoReconnect(false).
		SetConnectTimeout(s.cfg.ConnectTimeout).
		SetWriteTimeout(writeTimeout).
		SetKeepAlive(s.cfg.KeepAlive).
		// This version has no Receive Maximum: a broker that sends more than
		// is taken waits at a full connection, and its answer to a ping too.
		SetPingTimeout(max(s.cfg.KeepAlive, time.Minute)).
		SetStore(nothing{}).
		SetAutoAckDisabled(true).
		SetDefaultPublishHandler(func(_ mqtt3.Client, m mqtt3.Message) {
			s.receive(l, arrival{id: m.MessageID(), qos: m.Qos(), dup: m.Duplicate(), old: m.Retained(), topic: m.Topic(), payload: m.Payload()})
		}).
		SetConnectionLostHandler(func(_ mqtt3.Client, err error) {
			l.lose(err)
			close(p.gone)
		})
	p.client = mqtt3.NewClient(opts)
	// The library's attempt has no context; without its connection it ends.
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	token := p.client.Connect().(*mqtt3.ConnectToken)
	<-token.Done()
	if err := token.Error(); err != nil {
		stop()
		_ = nc.Close()
		if code := token.ReturnCode(); code > 0 && code <= packets3.ErrRefusedNotAuthorised {
			return nil, &reasonError{"the connection", code}
		}
		return nil, err
	}
	l.protocol, l.resumed = p, token.SessionPresent()
	if !stop() {
		l.lose(ctx.Err())
	}
	return l, nil
}

func (p *v311) subscribe(ctx context.Context, filters []string) ([]bool, error) {
	want := map[string]byte{}
	for _, f := range filters {
		want[f] = 1
	}
	token := p.client.SubscribeMultiple(want, nil).(*mqtt3.SubscribeToken)
	if err := p.wait(ctx, token); err != nil {
		return nil, err
	}
	granted := make([]bool, len(filters))
	for i, f := range filters {
		code, ok := token.Result()[f]
		granted[i] = ok && code < 0x80
	}
	return granted, nil
}

func (p *v311) publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	// If the connection breaks at this moment nobody takes the message from the
	// library's hands, and it holds its caller for the whole write timeout.
	begun := make(chan mqtt3.Token, 1)
	p.calls.Go(func() { begun <- p.client.Publish(topic, qos, retain, payload) })
	select {
	case token := <-begun:
		return p.wait(ctx, token)
	case <-p.link.lost:
		return p.link.reason
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *v311) wait(ctx context.Context, token mqtt3.Token) error {
	select {
	case <-token.Done():
		return token.Error()
	case <-p.link.lost:
		return p.link.reason
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *v311) ended() <-chan struct{} { return p.gone }
