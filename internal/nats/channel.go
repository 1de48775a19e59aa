package nats

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// channel is one connection of the outlet to the broker: MQTT 3.1.1, which
// nats-server speaks, and of it what a client needs that only publishes.
//
// The client of the library is not used for it: when its connection breaks, those
// who are about to publish are held for its whole write timeout, and no context
// ends that. There are no pings, for a connection within a process does not
// break without either end being told.
type channel struct {
	conn    net.Conn
	turn    chan struct{} // has an element while nobody writes
	lost    chan struct{} // closed when it is of no use any more
	lose1   sync.Once
	reason  error          // why it was lost; read it after lost
	reading sync.WaitGroup // the goroutine that reads

	mu   sync.Mutex
	last uint16                   // the packet identifier given last
	acks map[uint16]chan struct{} // closed when that packet is acknowledged
}

var (
	errRefused = errors.New("the MQTT broker refused the connection")
	errAnswer  = errors.New("the MQTT broker's answer is not one to CONNECT")
	errNoID    = errors.New("65535 messages to the MQTT broker are not acknowledged")
)

// openChannel greets the broker at the other end of a connection.
func openChannel(conn net.Conn, clientID, password string) (*channel, error) {
	hello := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	hello.ProtocolName, hello.ProtocolVersion = "MQTT", 4
	hello.ClientIdentifier, hello.CleanSession = clientID, true
	hello.UsernameFlag, hello.Username = true, inProcess
	hello.PasswordFlag, hello.Password = true, []byte(password)
	if err := hello.Write(conn); err != nil {
		return nil, err
	}
	answer, err := packets.ReadPacket(conn)
	if err != nil {
		return nil, err
	}
	switch a, ok := answer.(*packets.ConnackPacket); {
	case !ok:
		return nil, errAnswer
	case a.ReturnCode != packets.Accepted:
		return nil, errRefused
	}
	ch := &channel{conn: conn, turn: make(chan struct{}, 1), lost: make(chan struct{}), acks: map[uint16]chan struct{}{}}
	ch.turn <- struct{}{}
	ch.reading.Go(ch.read)
	return ch, nil
}

// read takes the acknowledgements until the connection ends.
func (ch *channel) read() {
	for {
		p, err := packets.ReadPacket(ch.conn)
		if err != nil {
			ch.lose(err)
			return
		}
		if p, ok := p.(*packets.PubackPacket); ok {
			ch.mu.Lock()
			if ack := ch.acks[p.MessageID]; ack != nil {
				close(ack)
				delete(ch.acks, p.MessageID)
			}
			ch.mu.Unlock()
		}
	}
}

// lose ends the connection, once.
func (ch *channel) lose(reason error) {
	ch.lose1.Do(func() {
		ch.reason = reason
		close(ch.lost)
		_ = ch.conn.Close()
	})
}

// publish sends a message, and returns once it is acknowledged or, with QoS 0,
// written.
func (ch *channel) publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Qos, p.Retain, p.Payload = topic, qos, retain, payload
	var ack chan struct{}
	if qos > 0 {
		var err error
		if p.MessageID, ack, err = ch.expect(); err != nil {
			return err
		}
	}
	select {
	case <-ch.turn:
	case <-ch.lost:
		return ch.reason
	case <-ctx.Done():
		ch.forget(p.MessageID) // it was not sent
		return context.Cause(ctx)
	}
	err := ch.write(p)
	ch.turn <- struct{}{}
	if err != nil || qos == 0 {
		return err
	}
	select {
	case <-ack:
		return nil
	case <-ch.lost:
		select {
		case <-ack: // it was the last thing heard
			return nil
		default:
			return ch.reason
		}
	case <-ctx.Done():
		// The identifier stays in use until the broker is done with it
		// [MQTT-2.3.1-2].
		return context.Cause(ctx)
	}
}

// write sends a packet; the caller has the turn. After an error the connection
// is lost: a part of the packet may have been sent.
func (ch *channel) write(p packets.ControlPacket) error {
	err := ch.conn.SetWriteDeadline(time.Now().Add(outletTimeout))
	if err == nil {
		err = p.Write(ch.conn)
	}
	if err != nil {
		ch.lose(err)
	}
	return err
}

// expect returns a packet identifier that is not in use, and what is closed when
// it is acknowledged.
func (ch *channel) expect() (uint16, chan struct{}, error) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if len(ch.acks) == 65535 {
		return 0, nil, errNoID
	}
	for {
		ch.last++
		if ch.last != 0 && ch.acks[ch.last] == nil {
			break
		}
	}
	ack := make(chan struct{})
	ch.acks[ch.last] = ack
	return ch.last, ack, nil
}

func (ch *channel) forget(id uint16) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	delete(ch.acks, id)
}

// leaveTimeout is how long the broker has to close a connection after DISCONNECT.
// If it were closed here first while something from the broker is not read,
// TCP could lose what was sent last.
const leaveTimeout = 250 * time.Millisecond

// close says goodbye and waits until the connection is no more.
func (ch *channel) close() {
	select {
	case <-ch.turn:
		if ch.write(packets.NewControlPacket(packets.Disconnect)) == nil {
			_ = ch.conn.SetReadDeadline(time.Now().Add(leaveTimeout))
		}
	case <-ch.lost:
	case <-time.After(leaveTimeout):
		ch.lose(errStopping)
	}
	ch.reading.Wait()
}
