package nats

import (
	"encoding/json"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Session is that an MQTT client came or went.
type Session struct {
	Number   uint64 // of the connection; no other one of this server's life has it
	ClientID string // the MQTT client id; one that the server made up if there was none
	Open     bool   // it came
	End      End    // how it went
}

// End says how the connection of an MQTT client ended.
type End uint8

// The ends.
const (
	Closed   End = iota + 1 // by the client, with or without a DISCONNECT packet (MQTT 3.1.1, section 3.14)
	Lost                    // the network failed, or the client was silent for over 1.5 times its keep alive (section 3.1.2.10)
	Replaced                // another connection came with its client id (section 3.1.4)
	Expired                 // Grant.Until was over
	Cut                     // CloseClient
	Faulty                  // the client broke the protocol, or took nothing of what it was sent
	Unseen                  // it is not there any more, and why was missed
)

// endOf returns the end that the server gives as a text.
func endOf(reason string) End {
	switch reason {
	case server.ClientClosed.String():
		return Closed
	case server.ReadError.String(), server.WriteError.String(), server.StaleConnection.String():
		return Lost
	case server.DuplicateClientID.String():
		return Replaced
	case server.AuthenticationExpired.String():
		return Expired
	case server.Kicked.String():
		return Cut
	}
	return Faulty
}

// lookEvery is how often the sessions that are thought to be open are looked for.
const lookEvery = time.Minute

// watch hears of the connections from the events that the server publishes in its
// system account.
type watch struct {
	nats *server.Server
	conn *nats.Conn
	tell func(Session)
	log  *slog.Logger

	stop, looked, heard chan struct{}
	again               chan struct{} // has room for one: events may have been missed

	mu     sync.Mutex
	open   map[uint64]string // client ids
	closed bool

	missing map[uint64]bool // of look: were not there the last time, though an event may have been on its way
}

func newWatch(s *Server, tell func(Session), log *slog.Logger) (*watch, error) {
	w := &watch{
		nats: s.nats, tell: tell, log: log, open: map[uint64]string{},
		stop: make(chan struct{}), looked: make(chan struct{}), heard: make(chan struct{}), again: make(chan struct{}, 1),
	}
	missed := func() {
		select {
		case w.again <- struct{}{}:
		default:
		}
	}
	var err error
	w.conn, err = s.connect(nats.UserInfo(watcher, s.gate.secret), nats.ReconnectHandler(func(*nats.Conn) { missed() }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Error("events of MQTT clients were missed", "err", err)
			missed()
		}))
	if err != nil {
		return nil, err
	}
	// One subscription, so that a client's coming is told before its going. CONNS
	// and what else there is comes as well and is not looked at.
	sub, err := w.conn.Subscribe("$SYS.ACCOUNT.*.*", w.event)
	if err == nil {
		sub.SetClosedHandler(func(string) { close(w.heard) })
		if err = sub.SetPendingLimits(-1, -1); err == nil {
			err = w.conn.FlushTimeout(apiTimeout)
		}
	}
	if err != nil {
		w.conn.Close()
		return nil, err
	}
	go w.look()
	return w, nil
}

// close waits until nothing more is told.
func (w *watch) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.stop)
	<-w.looked
	w.conn.Close()
	<-w.heard
}

// event takes one event of the server.
func (w *watch) event(m *nats.Msg) {
	var e struct {
		Type   string            `json:"type"`
		Client server.ClientInfo `json:"client"`
		Reason string            `json:"reason"`
	}
	if err := json.Unmarshal(m.Data, &e); err != nil {
		w.log.Error("an event of the embedded NATS server cannot be read", "subject", m.Subject, "err", err)
		return
	}
	if e.Client.MQTTClient == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Type {
	case server.ConnectEventMsgType:
		w.cameLocked(e.Client.ID, e.Client.MQTTClient)
	case server.DisconnectEventMsgType:
		if e.Reason != server.ServerShutdown.String() {
			w.wentLocked(e.Client.ID, endOf(e.Reason))
		}
	}
}

func (w *watch) cameLocked(number uint64, clientID string) {
	if _, known := w.open[number]; known || w.closed {
		return
	}
	w.open[number] = clientID
	w.tell(Session{Number: number, ClientID: clientID, Open: true})
}

func (w *watch) wentLocked(number uint64, how End) {
	clientID, known := w.open[number]
	if !known || w.closed { // it was not let in
		return
	}
	delete(w.open, number)
	w.tell(Session{Number: number, ClientID: clientID, End: how})
}

// look corrects what events that were missed made wrong.
func (w *watch) look() {
	defer close(w.looked)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		case <-w.again:
			z, err := w.nats.Connz(&server.ConnzOptions{State: server.ConnOpen, Limit: math.MaxInt32})
			if err != nil {
				w.log.Error("the MQTT clients cannot be listed", "err", err)
				break
			}
			w.mu.Lock()
			for _, c := range z.Conns {
				if c.MQTTClient != "" {
					w.cameLocked(c.Cid, c.MQTTClient)
				}
			}
			w.mu.Unlock()
		}
		missing := map[uint64]bool{}
		w.mu.Lock()
		for number := range w.open {
			switch {
			case w.nats.GetClient(number) != nil:
			case w.missing[number]:
				w.wentLocked(number, Unseen)
			default:
				missing[number] = true
			}
		}
		w.mu.Unlock()
		w.missing = missing
	}
}
