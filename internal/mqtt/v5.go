package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// v5 is MQTT 5.
type v5 struct{ client *paho.Client }

// reasonError is a reason code with which the broker refused something.
type reasonError struct {
	what string
	code byte
}

func (e *reasonError) Error() string {
	return fmt.Sprintf("the broker refused %s: reason code 0x%02x", e.what, e.code)
}

// Ways in which a broker that does not know MQTT 5 refuses it.
var (
	errVersion     = errors.New("the broker does not speak MQTT 5")
	errClosedEarly = errors.New("the broker closed the connection before it answered")
)

// session is the client's side of the session. It lasts as long as the
// connection, for what has to last longer is in inflight and with the callers of
// Publish, and it leaves acknowledgements to us.
type session struct{ *state.State }

// Ack does nothing.
func (session) Ack(*packets.Publish) error { return nil }

// ConnectionLost also ends the publishers that wait for an acknowledgement.
func (s session) ConnectionLost(d *packets.Disconnect) error {
	return errors.Join(s.State.ConnectionLost(d), s.State.Close())
}

// connect5 connects with MQTT 5. errVersion and errClosedEarly are among its
// errors.
func (s *Source) connect5(ctx context.Context) (*link, error) {
	nc, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	wire := newConn(nc, 5)
	l := newLink(wire, int(s.cfg.ReceiveMaximum))
	p := &v5{}
	p.client = paho.NewClient(paho.ClientConfig{
		ClientID: s.cfg.ClientID,
		Conn:     &gathered{conn: wire},
		Session:  session{state.NewInMemory()},
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			m := r.Packet
			s.receive(l, arrival{id: m.PacketID, qos: m.QoS, dup: m.Duplicate(), topic: m.Topic, payload: m.Payload})
			return true, nil
		}},
		PacketTimeout:      s.cfg.ConnectTimeout,
		OnServerDisconnect: func(d *paho.Disconnect) { l.lose(&reasonError{"to go on", d.ReasonCode}) },
		OnClientError:      func(err error) { l.lose(err) },
	})
	expiry := uint32(s.cfg.SessionExpiry / time.Second)
	if s.cfg.Clean {
		expiry = 0
	}
	ack, err := p.client.Connect(ctx, &paho.Connect{
		ClientID:     s.cfg.ClientID,
		CleanStart:   s.cfg.Clean,
		KeepAlive:    uint16(s.cfg.KeepAlive / time.Second),
		Username:     s.cfg.Username,
		UsernameFlag: s.cfg.Username != "",
		Password:     []byte(s.cfg.Password),
		PasswordFlag: s.cfg.Password != "",
		Properties:   &paho.ConnectProperties{SessionExpiryInterval: &expiry, ReceiveMaximum: &s.cfg.ReceiveMaximum},
	})
	if err != nil {
		switch {
		case ack != nil && ack.ReasonCode == packets.ConnackUnsupportedProtocolVersion:
			return nil, errVersion
		case ack != nil:
			return nil, &reasonError{"the connection", ack.ReasonCode}
		case wire.in.old.Load():
			return nil, errVersion
		case !wire.in.begun.Load() && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
			return nil, errClosedEarly
		}
		return nil, err
	}
	l.protocol, l.resumed = p, ack.SessionPresent
	return l, nil
}

func (p *v5) subscribe(ctx context.Context, filters []string) ([]bool, error) {
	sub := &paho.Subscribe{}
	for _, f := range filters {
		// Retained messages are not sent again for each subscription: they are
		// old lines.
		sub.Subscriptions = append(sub.Subscriptions, paho.SubscribeOptions{Topic: f, QoS: 1, RetainHandling: 2})
	}
	ack, err := p.client.Subscribe(ctx, sub)
	if ack == nil {
		return nil, err
	}
	granted := make([]bool, len(filters))
	for i := range min(len(granted), len(ack.Reasons)) {
		granted[i] = ack.Reasons[i] < 0x80
	}
	return granted, nil
}

func (p *v5) publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	resp, err := p.client.Publish(ctx, &paho.Publish{Topic: topic, QoS: qos, Retain: retain, Payload: payload})
	if resp != nil && resp.ReasonCode >= 0x80 {
		return &reasonError{"the message", resp.ReasonCode}
	}
	return err
}

func (p *v5) ended() <-chan struct{} { return p.client.Done() }
