package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// sharedTopic is where devices log by default.
const sharedTopic = "iotsupport/logsink"

// payload is a message with the lines from..to of the device, as NDJSON. pad
// makes each line longer.
func payload(d device, from, to int, pad string) []byte {
	var b bytes.Buffer
	for n := from; n <= to; n++ {
		fmt.Fprintf(&b, "{\"entity_id\":%q,\"message\":\"line %d%s\",\"n\":%d,\"t\":%d}\n", d.Entity, n, pad, n, time.Now().UnixNano())
	}
	return b.Bytes()
}

// dial connects an MQTT 3.1.1 client that does nothing by itself.
func dial(addr, clientID string) (mqtt.Client, error) {
	c := mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker("tcp://" + addr).SetClientID(clientID).SetProtocolVersion(4).
		SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectTimeout(10 * time.Second).SetWriteTimeout(10 * time.Second))
	token := c.Connect()
	if !token.WaitTimeout(15 * time.Second) {
		c.Disconnect(0)
		return nil, context.DeadlineExceeded
	}
	return c, token.Error()
}

// board is a device that is connected and says lines when told to.
type board struct {
	t      *testing.T
	client mqtt.Client
	device device
	topic  string
	said   int
}

// board connects a device to the embedded broker until the test ends.
func (s *server) board(d device) *board {
	s.t.Helper()
	c, err := dial(s.mqtt, d.ClientID)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Disconnect(0) })
	return &board{t: s.t, client: c, device: d, topic: sharedTopic}
}

// say sends the next n lines in one message and waits until they are
// acknowledged.
func (b *board) say(n int) {
	b.t.Helper()
	b.sayLong(n, "")
}

// sayLong is say with longer lines.
func (b *board) sayLong(n int, pad string) {
	b.t.Helper()
	b.send(payload(b.device, b.said+1, b.said+n, pad))
	b.said += n
}

func (b *board) send(message []byte) {
	b.t.Helper()
	token := b.client.Publish(b.topic, 1, false, message)
	if !token.WaitTimeout(patience) {
		b.t.Fatalf("%s: no PUBACK in %v", b.device.Entity, patience)
	}
	if err := token.Error(); err != nil {
		b.t.Fatalf("%s: %v", b.device.Entity, err)
	}
}

// talker is a device that talks all the time, over every loss of its
// connection. It never sends a line twice, and knows which were acknowledged.
type talker struct {
	device device
	addr   string
	topic  string
	every  time.Duration // between two messages
	lines  int           // of a message
	pad    string
	ended  sync.WaitGroup
	cancel context.CancelFunc

	mu    sync.Mutex
	sent  int          // the number of the last line
	acked map[int]bool // by line
}

// talk starts a talker on the embedded broker. A device's own topic is used if
// own is true.
func (s *server) talk(d device, every time.Duration, lines int, own bool) *talker {
	k := &talker{device: d, addr: s.mqtt, topic: sharedTopic, every: every, lines: lines, acked: map[int]bool{}}
	if own {
		k.topic += "/" + d.ClientID
	}
	k.start()
	s.t.Cleanup(k.stop)
	return k
}

func (k *talker) start() {
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	k.ended.Go(func() {
		for ctx.Err() == nil {
			k.session(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

// stop lets what is under way be acknowledged, and ends the talking.
func (k *talker) stop() {
	k.cancel()
	k.ended.Wait()
}

// session is one connection.
func (k *talker) session(ctx context.Context) {
	c, err := dial(k.addr, k.device.ClientID)
	if err != nil {
		return
	}
	defer c.Disconnect(50)
	type flight struct {
		from, to int
		token    mqtt.Token
	}
	flights := make(chan flight, 64)
	var acks sync.WaitGroup
	acks.Go(func() {
		for f := range flights {
			if f.token.WaitTimeout(patience) && f.token.Error() == nil {
				k.mu.Lock()
				for n := f.from; n <= f.to; n++ {
					k.acked[n] = true
				}
				k.mu.Unlock()
			}
		}
	})
	defer acks.Wait()
	defer close(flights)
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for c.IsConnectionOpen() {
		k.mu.Lock()
		from, to := k.sent+1, k.sent+k.lines
		k.sent = to
		k.mu.Unlock()
		flights <- flight{from, to, c.Publish(k.topic, 1, false, payload(k.device, from, to, k.pad))}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// state returns how many lines were acknowledged, the last of them, and the
// last that was sent.
func (k *talker) state() (acked, last, sent int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for n := range k.acked {
		last = max(last, n)
	}
	return len(k.acked), last, k.sent
}

// checkHeard waits until the reader has everything that the talker, which was
// stopped, had acknowledged, and fails the test if a line is missing or came
// twice or out of order.
func (k *talker) checkHeard(r *reader) {
	r.s.t.Helper()
	_, last, sent := k.state()
	r.waitFor(k.device, last)
	heard := map[int]bool{}
	for _, n := range r.numbers(k.device) {
		heard[n] = true
		if n < 1 || n > sent {
			r.s.t.Errorf("%s: line %d was never sent", k.device.Entity, n)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var missing []int
	for n := range k.acked {
		if !heard[n] {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		r.s.t.Errorf("reader %s: %d of %d acknowledged lines of %s did not arrive: %v", r.requestID, len(missing), len(k.acked), k.device.Entity, missing[:min(len(missing), 50)])
	}
}

// publish runs mosquitto_pub.
func publish(t *testing.T, addr, topic string, qos int, message string, more ...string) {
	t.Helper()
	host, port := split(addr)
	args := append([]string{"-h", host, "-p", port, "-t", topic, "-q", fmt.Sprint(qos), "-m", message}, more...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, tool(t, "mosquitto_pub"), args...).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v\n%s", err, out)
	}
}
