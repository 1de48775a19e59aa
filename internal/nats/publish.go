package nats

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"signalbox/internal/fleet"
)

// Publish sends a message to devices by the embedded broker, and returns once
// the broker has it, or once it is written with QoS 0. With QoS 1 sessions that
// are away get it when they are back, and one that is retained everybody gets
// who subscribes to its topic from now on; an empty one takes that back. While
// the broker does not take messages it waits, and sends the message again if it
// is not known whether it arrived: give it a ctx that ends. QoS is 0 or 1.
//
// Errors: fleet.Invalid for a bad topic or QoS, fleet.Unavailable if there is no
// broker, or if ctx or the server ended first; then the message may have been
// sent or not.
func (s *Server) Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	if err := fleet.CheckPublish(topic, qos); err != nil {
		return err
	}
	if s.outlet == nil {
		return fleet.E(fleet.Unavailable, nil, "there is no embedded MQTT broker")
	}
	return s.outlet.publish(ctx, topic, qos, retain, payload)
}

// outlet is this process as a client of its own broker: only so does the broker
// keep a message for sessions that are away, and retain it. It connects when
// there is something to be sent, and stays connected.
type outlet struct {
	address string
	tls     *tls.Config // nil without TLS
	secret  string

	ctx  context.Context // ends with close
	stop context.CancelFunc

	turn    chan struct{} // has an element while nobody connects; guards channel
	channel *channel      // the last; nil: there was none
	tries   atomic.Int32  // connections since the last acknowledgement
}

const (
	outletTimeout = 10 * time.Second // of one attempt to connect
	outletPause   = 50 * time.Millisecond
	outletPauses  = 2 * time.Second // the longest pause between two attempts
)

// newOutlet returns the outlet to a listener at that address. It does not
// connect.
func newOutlet(o ServerOptions, host string, port int, secret string) *outlet {
	switch ip := net.ParseIP(host); {
	case host == "" || ip != nil && ip.IsUnspecified() && ip.To4() != nil:
		host = "127.0.0.1"
	case ip != nil && ip.IsUnspecified():
		host = "::1"
	}
	c := &outlet{
		address: net.JoinHostPort(host, strconv.Itoa(port)), secret: secret, turn: make(chan struct{}, 1),
	}
	if o.MQTTTLS != nil {
		c.tls = pinned(o.MQTTTLS)
	}
	c.turn <- struct{}{}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// pinned returns what this process speaks to its own listener. The certificate
// is for the name that devices use; here it must be the very one that the listener has.
func pinned(listener *tls.Config) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // see VerifyConnection
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, pair := range listener.Certificates {
				if len(s.PeerCertificates) > 0 && len(pair.Certificate) > 0 && bytes.Equal(s.PeerCertificates[0].Raw, pair.Certificate[0]) {
					return nil
				}
			}
			return errors.New("the certificate is not that of the listener")
		},
	}
}

func (c *outlet) publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.ctx, func() { cancel(errStopping) })()
	for {
		ch, err := c.connected(ctx)
		if err != nil {
			return fleet.E(fleet.Unavailable, err, "the MQTT broker cannot be reached")
		}
		if err = ch.publish(ctx, topic, qos, retain, payload); err == nil {
			c.tries.Store(0)
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, errNoID) {
			return fleet.E(fleet.Unavailable, err, "the MQTT broker did not acknowledge the message")
		}
	}
}

// errStopping is why publishing ends with the server.
var errStopping = errors.New("the MQTT broker is stopping")

// connected returns a connection, and makes one if need be.
func (c *outlet) connected(ctx context.Context) (*channel, error) {
	for {
		select {
		case <-c.turn:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		ch, err := c.connectedLocked(ctx)
		c.turn <- struct{}{}
		if err == nil || ctx.Err() != nil {
			return ch, err
		}
	}
}

func (c *outlet) connectedLocked(ctx context.Context) (*channel, error) {
	if c.channel != nil {
		select {
		case <-c.channel.lost:
			c.channel.reading.Wait()
			c.channel = nil
		default:
			return c.channel, nil
		}
	}
	if n := c.tries.Add(1); n > 1 {
		t := time.NewTimer(min(outletPause<<min(n-2, 10), outletPauses))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	ch, err := c.connect(ctx)
	if err == nil {
		c.channel = ch
	}
	return ch, err
}

func (c *outlet) connect(ctx context.Context) (*channel, error) {
	ctx, cancel := context.WithTimeout(ctx, outletTimeout)
	defer cancel()
	var nc net.Conn
	var err error
	if c.tls != nil {
		nc, err = (&tls.Dialer{Config: c.tls}).DialContext(ctx, "tcp", c.address)
	} else {
		nc, err = new(net.Dialer).DialContext(ctx, "tcp", c.address)
	}
	if err != nil {
		return nil, err
	}
	// To read and to write has no context; without the connection both end.
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	ch, err := openChannel(nc, inProcess+"-"+rand.Text(), c.secret) // a client id that nobody can take over
	if err != nil {
		stop()
		return nil, errors.Join(err, nc.Close())
	}
	if !stop() {
		ch.lose(context.Cause(ctx))
	}
	return ch, nil
}

// close ends the connection. Whoever publishes gets an error.
func (c *outlet) close() {
	c.stop()
	<-c.turn // and is not given back: nobody connects any more
	if c.channel != nil {
		c.channel.close()
	}
}

// retained is the stream in which the server keeps retained messages, by their
// topics.
const (
	retainedStream   = "$MQTT_rmsgs"
	retainedMessages = "$MQTT.rmsgs."
)

// Retained returns the topics that match an MQTT topic filter and under which
// something lies that whoever subscribes gets.
func (s *Server) Retained(ctx context.Context, filter string) ([]string, error) {
	subjects, err := filterSubjects(filter)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, retainedStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // there never was a client
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var topics []string
	for _, subject := range subjects {
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(retainedMessages+subject))
		if err != nil {
			return nil, err
		}
		for subject := range info.State.Subjects {
			topics = append(topics, strings.ReplaceAll(strings.TrimPrefix(subject, retainedMessages), ".", "/"))
		}
	}
	slices.Sort(topics)
	return topics, nil
}
