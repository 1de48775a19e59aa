package e2e_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"signalbox/internal/mosquittotest"
	"signalbox/internal/postgrestest"
)

// twins is two processes on one database and one broker.
type twins struct {
	all  [2]*server
	next atomic.Int64
	down atomic.Int64 // 1 + the index of the one that does not run
}

// url is what a balancer in front of both would make of the next request.
func (p *twins) url() string {
	n := p.next.Add(1) % 2
	if n == p.down.Load()-1 {
		n = 1 - n
	}
	return p.all[n].url("")
}

// Two processes with one database rotate each device once. When one of them is
// killed, whichever has the lease, the other goes on, also with what the dead one
// was at. Pages of both hear of it.
func TestTwoProcessesRotate(t *testing.T) {
	t.Parallel() // it mostly waits
	dsn := postgrestest.Start(t).New()
	broker := mosquittotest.Start(t, mosquittotest.Options{})
	settings := []string{
		"DATABASE_URL=" + dsn, "SECRET_KEY=the same in both of them", "LOGS_HISTORY=off", "ROTATION_IN_FLIGHT=4",
		"MQTT_LISTEN=", "MQTT_URL=mqtt://" + broker.Addr, "DEVICE_MQTT_URL=mqtt://" + broker.Addr,
	}
	var p twins
	p.all[0] = prepare(t, append(settings, "MQTT_CLIENT_ID=one")...)
	p.all[1] = prepare(t, append(settings, "MQTT_CLIENT_ID=two")...)
	for _, s := range p.all {
		s.settings["BASEURL"] = p.all[0].url("") // of the balancer, in the place of which we are
	}
	const devices = 8
	var all []*rotator
	p.all[0].launch()
	p.all[1].launch()
	for i := range devices {
		f := p.all[0].newRotator(p.all[0].device(""), i%2 == 0)
		f.broker, f.base, f.balanced = broker.Addr, p.url, true
		t.Cleanup(f.start(t.Context()))
		all = append(all, f)
	}
	for _, f := range all { // one learns of the devices that are made at the other
		eventually(t, "the other process knows the device", func() bool {
			a := p.all[1].call("GET", fmt.Sprintf("/api/devices/%d/rotation", f.d.ID), nil)
			return a.status == http.StatusOK
		})
	}
	pages := [2]*reader{p.all[0].follow("page"), p.all[1].follow("page")}

	round := func(number int64, asked *server, during func()) {
		t.Helper()
		before := map[*rotator]credentials{}
		for _, f := range all {
			before[f] = f.has()
		}
		for _, f := range all {
			if answer := asked.rotate(f.d.ID); answer != "queued" {
				t.Fatalf("the answer is %q", answer)
			}
		}
		during()
		for _, f := range all {
			f.settled(t, asked, number, before[f])
		}
	}
	round(1, p.all[1], func() {})
	for i, page := range pages {
		page.wait("the page hears of rotations", func() bool { return page.counts["rotation-updated"] > 0 })
		t.Logf("the page of process %d heard of %d changes", i+1, page.counts["rotation-updated"])
	}
	// Each in turn, so that one of them had the lease.
	for i, dead := range p.all {
		alive := p.all[1-i]
		round(int64(2+i), alive, func() {
			p.down.Store(int64(1 + i))
			dead.kill()
		})
		dead.launch()
		p.down.Store(0)
	}
}
