package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"signalbox/internal/logs"
)

// SourceHarness is one logs.Source with the broker that feeds it. The test that
// opens it cleans up after itself with t.Cleanup; the suite closes Source.
type SourceHarness struct {
	Source logs.Source
	// Addr is host:port where test devices connect with MQTT 3.1.1.
	Addr string
	// Topic is the shared log topic.
	Topic string
	// Credentials returns what a device connects with; nil means nothing.
	Credentials func(clientID string) (username, password string)
	// AckIsEndToEnd says that a device's PUBACK follows Message.Done. If it is
	// false the broker answers by itself and keeps the message until Done.
	AckIsEndToEnd bool
	// Reopen opens another source after Source was closed, as a restarted
	// process would. Needed if AckIsEndToEnd is false.
	Reopen func(t *testing.T) logs.Source
}

// patience bounds the wait for what must happen, and moment is how long the
// suite watches that something does not.
const (
	patience = 20 * time.Second
	moment   = 300 * time.Millisecond
)

// Source checks what every logs.Source promises.
func Source(t *testing.T, open func(t *testing.T) SourceHarness) {
	check := func(name string, f func(t *testing.T, s *sourceTest)) {
		t.Run(name, func(t *testing.T) {
			s := &sourceTest{SourceHarness: open(t)}
			s.run(t)
			f(t, s)
		})
	}

	check("a topic's messages come in the order of their publisher", func(t *testing.T, s *sourceTest) {
		const publishers, messages = 4, 100
		for p := range publishers {
			go func() {
				id := fmt.Sprintf("dev-%d", p)
				c, err := s.connect(id)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Disconnect(100)
				var tokens []mqtt.Token
				for n := range messages {
					tokens = append(tokens, c.Publish(s.Topic+"/"+id, 1, false, fmt.Sprintf("%d", n)))
				}
				for _, tok := range tokens {
					if !tok.WaitTimeout(patience) {
						t.Errorf("%s: no PUBACK", id)
						return
					}
				}
			}()
		}
		next := map[string]int{}
		for range publishers * messages {
			m := s.next(t)
			if want := fmt.Sprint(next[m.ClientID]); string(m.Payload) != want {
				t.Fatalf("%s: got message %s, want %s", m.ClientID, m.Payload, want)
			}
			next[m.ClientID]++
			m.Done(nil)
		}
	})

	check("the topic names the publisher", func(t *testing.T, s *sourceTest) {
		f := func(topic string, qos byte, clientID string) {
			t.Helper()
			before := time.Now()
			c := s.device(t, "dev-1")
			tok := c.Publish(topic, qos, false, "{}\n")
			m := s.next(t)
			if m.ClientID != clientID || m.QoS != qos || string(m.Payload) != "{}\n" || m.Dup {
				t.Errorf("published to %s with QoS %d: got client id %q, QoS %d, payload %q, dup %v", topic, qos, m.ClientID, m.QoS, m.Payload, m.Dup)
			}
			if m.Received.Before(before) || m.Received.After(time.Now()) {
				t.Errorf("received at %s, want a time between %s and now", m.Received, before)
			}
			m.Done(nil)
			acked(t, tok)
			c.Disconnect(100)
		}
		f(s.Topic, 1, "")
		f(s.Topic, 0, "")
		f(s.Topic+"/dev-1", 1, "dev-1")
		f(s.Topic+"/dev-1", 0, "dev-1")
	})

	check("a message is acknowledged after Done", func(t *testing.T, s *sourceTest) {
		c := s.device(t, "dev-1")
		first := c.Publish(s.Topic, 1, false, "first")
		m := s.next(t)
		if s.AckIsEndToEnd {
			notAcked(t, first)
			m.Done(nil)
			acked(t, first)
			return
		}
		acked(t, first)
		m.Done(nil)
		acked(t, c.Publish(s.Topic, 1, false, "second"))
		s.next(t) // and no Done
		s.restart(t)
		if m := s.next(t); string(m.Payload) != "second" || !m.Dup {
			t.Errorf("after a restart: got %q, dup %v; want the message without Done, as a duplicate", m.Payload, m.Dup)
		} else {
			m.Done(nil)
		}
		s.quiet(t)
	})

	check("a message that could not be kept comes again", func(t *testing.T, s *sourceTest) {
		c := s.device(t, "dev-1")
		tok := c.Publish(s.Topic, 1, false, "x")
		s.next(t).Done(errors.New("the journal is full"))
		if s.AckIsEndToEnd {
			notAcked(t, tok)
			// The source may have cut the device off; it comes back and tries
			// again, as devices do.
			tok = s.device(t, "dev-1").Publish(s.Topic, 1, false, "x")
		}
		m := s.next(t)
		if string(m.Payload) != "x" {
			t.Errorf("got %q, want the same message again", m.Payload)
		}
		m.Done(nil)
		acked(t, tok)
		s.quiet(t)
	})

	check("Done may come in any order", func(t *testing.T, s *sourceTest) {
		const n = 10
		var tokens []mqtt.Token
		for i := range n {
			id := fmt.Sprintf("dev-%d", i)
			tokens = append(tokens, s.device(t, id).Publish(s.Topic+"/"+id, 1, false, "x"))
		}
		var got []logs.Message
		for range n {
			got = append(got, s.next(t))
		}
		for i := range got {
			got[n-1-i].Done(nil)
		}
		for _, tok := range tokens {
			acked(t, tok)
		}
		if s.Reopen != nil {
			s.restart(t)
			s.quiet(t)
		}
	})

	check("an oversize message arrives, to be counted", func(t *testing.T, s *sourceTest) {
		c := s.device(t, "dev-1")
		for _, extra := range []int{0, 1} {
			tok := c.Publish(s.Topic, 1, false, bytes.Repeat([]byte("x"), logs.MaxMessage+extra))
			m := s.next(t)
			if len(m.Payload) != logs.MaxMessage+extra {
				t.Errorf("got %d bytes, want %d", len(m.Payload), logs.MaxMessage+extra)
			}
			m.Done(nil)
			acked(t, tok)
		}
	})

	check("after Run nothing is handed over", func(t *testing.T, s *sourceTest) {
		c := s.device(t, "dev-1")
		tok := c.Publish(s.Topic, 1, false, "taken")
		m := s.next(t)
		s.stop(t)
		c.Publish(s.Topic, 1, false, "late")
		s.quiet(t)
		m.Done(nil) // still counts
		acked(t, tok)
		if err := s.Source.Close(); err != nil {
			t.Error(err)
		}
		if s.Reopen != nil {
			s.Source = s.Reopen(t)
			s.run(t)
			m := s.next(t)
			if string(m.Payload) != "late" {
				t.Errorf("after a restart: got %q, want the message that was not taken", m.Payload)
			}
			m.Done(nil)
			s.quiet(t)
		}
	})

	t.Run("Close leaves nothing behind", func(t *testing.T) {
		s := &sourceTest{SourceHarness: open(t)}
		ignore := goleak.IgnoreCurrent()
		s.run(t)
		c := s.device(t, "dev-1")
		c.Publish(s.Topic, 1, false, "x")
		m := s.next(t)
		c.Disconnect(100)
		s.stop(t)
		for range 2 {
			if err := s.Source.Close(); err != nil {
				t.Error(err)
			}
		}
		m.Done(nil) // too late, and harmless
		goleak.VerifyNone(t, ignore)
	})
}

// sourceTest runs a source and collects what it hands over.
type sourceTest struct {
	SourceHarness
	got    chan logs.Message
	cancel context.CancelFunc
	ended  chan error
}

// probe marks the messages that find out whether the source listens.
const probe = "probe"

// run starts the source and waits until messages reach it.
func (s *sourceTest) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	probed := make(chan struct{})
	var once sync.Once
	s.got, s.cancel, s.ended = make(chan logs.Message, 1000), cancel, make(chan error, 1)
	got := s.got
	go func(source logs.Source, ended chan<- error) {
		ended <- source.Run(ctx, func(m logs.Message) {
			if strings.HasPrefix(string(m.Payload), probe) {
				m.Done(nil)
				once.Do(func() { close(probed) })
				return
			}
			got <- m
		})
		close(ended)
	}(s.Source, s.ended)
	source, ended := s.Source, s.ended
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("Run did not return")
		}
		_ = source.Close()
	})
	c := s.device(t, "prober")
	defer c.Disconnect(100)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for {
		c.Publish(s.Topic, 0, false, probe)
		select {
		case <-probed:
			return
		case <-tick.C:
		case <-timeout:
			t.Fatal("the source takes no messages")
		}
	}
}

// stop ends Run and waits for it.
func (s *sourceTest) stop(t *testing.T) {
	t.Helper()
	s.cancel()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Run did not return")
	}
}

// restart closes the source and runs another.
func (s *sourceTest) restart(t *testing.T) {
	t.Helper()
	s.stop(t)
	if err := s.Source.Close(); err != nil {
		t.Fatal(err)
	}
	s.Source = s.Reopen(t)
	s.run(t)
}

// next waits for a message.
func (s *sourceTest) next(t *testing.T) logs.Message {
	t.Helper()
	select {
	case m := <-s.got:
		return m
	case <-time.After(patience):
		t.Fatal("no message arrived")
		panic("unreachable")
	}
}

// quiet checks that no message comes.
func (s *sourceTest) quiet(t *testing.T) {
	t.Helper()
	select {
	case m := <-s.got:
		t.Errorf("a message too many: %.40q, dup %v", m.Payload, m.Dup)
	case <-time.After(moment):
	}
}

// device connects a publisher until the test ends.
func (s *sourceTest) device(t *testing.T, clientID string) mqtt.Client {
	t.Helper()
	c, err := s.connect(clientID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Disconnect(100) })
	return c
}

func (s *sourceTest) connect(clientID string) (mqtt.Client, error) {
	o := mqtt.NewClientOptions().AddBroker("tcp://" + s.Addr).SetClientID(clientID).SetProtocolVersion(4).SetAutoReconnect(false)
	if s.Credentials != nil {
		username, password := s.Credentials(clientID)
		o.SetUsername(username).SetPassword(password)
	}
	c := mqtt.NewClient(o)
	tok := c.Connect()
	if !tok.WaitTimeout(patience) {
		return nil, fmt.Errorf("%s: no CONNACK", clientID)
	}
	return c, tok.Error()
}

func acked(t *testing.T, tok mqtt.Token) {
	t.Helper()
	if !tok.WaitTimeout(patience) {
		t.Fatal("no PUBACK")
	}
	if err := tok.Error(); err != nil {
		t.Fatal(err)
	}
}

func notAcked(t *testing.T, tok mqtt.Token) {
	t.Helper()
	select {
	case <-tok.Done():
		if tok.Error() == nil {
			t.Fatal("the message was acknowledged too early")
		}
	case <-time.After(moment):
	}
}
