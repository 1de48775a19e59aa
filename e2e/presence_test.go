package e2e_test

import (
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// there is what GET /api/devices/{id}/presence says.
type there struct {
	Online   bool
	Sessions int
	Source   string `json:"last_source"`
	Since    string
	Drops    int `json:"drops_24h"`
	History  []struct {
		Online bool
		Reason string
	}
}

func (s *server) presence(d device) (p there) {
	s.t.Helper()
	s.want(200, "GET", fmt.Sprintf("/api/devices/%d/presence", d.ID), nil).into(s.t, &p)
	return p
}

// Who connects is there, who is cut off is not, and when the server is killed
// nobody has gone who comes back.
func TestPresence(t *testing.T) {
	t.Parallel() // it mostly waits
	s := start(t, "PRESENCE_WINDOW=30s")
	stays, breaks, leaves, talks, silent := s.device("stays"), s.device("breaks"), s.device("leaves"), s.device("talks"), s.device("silent")
	comeBack := func(o *mqtt.ClientOptions) {
		o.SetAutoReconnect(true).SetMaxReconnectInterval(200 * time.Millisecond).SetConnectionLostHandler(nil)
	}
	s.guest(stays, "", comeBack)
	var wire net.Conn
	s.guest(breaks, "", func(o *mqtt.ClientOptions) {
		o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			var err error
			wire, err = net.Dial("tcp", s.mqtt)
			return wire, err
		})
	})
	s.guest(leaves, "")
	for _, d := range []device{stays, breaks, leaves} {
		within(t, 10*time.Second, d.Entity+" is online", func() bool { p := s.presence(d); return p.Online && p.Sessions == 1 && p.Source == "session" })
	}
	if n := s.metric("iot_devices_online"); n != 3 {
		t.Errorf("%v devices are online", n)
	}
	// One that logs under a client id of its own is heard, as by another broker.
	publish(t, s.mqtt, sharedTopic, 1, `{"entity_id":"talks","message":"x"}`)
	within(t, 10*time.Second, "talks is online", func() bool { p := s.presence(talks); return p.Online && p.Sessions == 0 && p.Source == "line" })

	if err := wire.(*net.TCPConn).SetLinger(0); err != nil { // it is reset, without a farewell
		t.Fatal(err)
	}
	if err := wire.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "breaks is offline", func() bool { p := s.presence(breaks); return !p.Online && p.Sessions == 0 && p.Drops == 1 })
	within(t, 20*time.Second, "its history says so", func() bool {
		p := s.presence(breaks)
		return len(p.History) == 2 && p.History[0].Reason == "connection lost" && p.History[1].Online
	})
	since := s.presence(stays).Since
	eventually(t, "what is to be told after the kill is stored", func() bool { return len(s.presence(leaves).History) == 1 && len(s.presence(talks).History) == 1 })

	s.kill()
	s.launch()
	if p := s.presence(stays); !p.Online || p.Drops != 0 {
		t.Errorf("after the restart stays is %+v", p)
	}
	within(t, patience, "stays is back", func() bool { return s.presence(stays).Sessions == 1 })
	if p := s.presence(leaves); !p.Online || p.Sessions != 0 {
		t.Errorf("leaves has its time to come back, but %+v", p)
	}
	// It does not, as it does not try.
	within(t, 3*time.Minute, "leaves is offline", func() bool { return !s.presence(leaves).Online })
	within(t, 3*time.Minute, "talks is offline", func() bool { return !s.presence(talks).Online })
	eventually(t, "their histories are stored", func() bool { return len(s.presence(leaves).History) == 2 && len(s.presence(talks).History) == 2 })
	if reason := s.presence(leaves).History[0].Reason; reason != "did not come back after a restart of the server" {
		t.Error(reason)
	}
	if reason := s.presence(talks).History[0].Reason; reason != "nothing heard for 30s" {
		t.Error(reason)
	}
	if p := s.presence(stays); !p.Online || p.Since != since || p.Drops != 0 || len(p.History) != 1 {
		t.Errorf("stays is back since before the restart, but %+v", p)
	}
	if p := s.presence(silent); p.Online || p.Since != "" || len(p.History) != 0 {
		t.Errorf("silent: %+v", p)
	}
	var all struct{ Devices []there }
	s.want(200, "GET", "/api/presence", nil).into(t, &all)
	if len(all.Devices) != 5 {
		t.Errorf("%+v", all)
	}
}
