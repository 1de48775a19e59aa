package e2e_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/porttest"
	"signalbox/internal/rabbitmqtest"
)

// carried is a server and what carries its streams.
type carried struct {
	*server
	gateways []*gatewayOf // none: the server itself
	rabbit   *rabbitmqtest.Broker
}

// gatewayOf is a "signalbox gateway" in front of a server.
type gatewayOf struct {
	t    *testing.T
	addr string
	log  string
	env  []string
	cmd  *exec.Cmd
}

// The carriers, which must not be told apart by who reads a stream.
var carriers = []struct {
	name     string
	gateways int
	rabbit   bool
}{{"local", 0, false}, {"http", 1, false}, {"amqp", 1, true}, {"two gateways", 2, false}}

func eachCarrier(t *testing.T, f func(t *testing.T, c *carried)) {
	for _, kind := range carriers {
		t.Run(kind.name, func(t *testing.T) {
			c := new(carried)
			var settings, environment []string
			if kind.rabbit {
				c.rabbit = rabbitmqtest.Start(t)
				environment = append(environment, "RABBITMQ_URL=amqp://"+c.rabbit.Addr+"/")
				settings = append(settings, environment...)
			}
			var urls []string
			for range kind.gateways {
				addr := porttest.Free(t)
				c.gateways = append(c.gateways, &gatewayOf{t: t, addr: addr, log: filepath.Join(t.TempDir(), "log")})
				urls = append(urls, "http://"+addr)
			}
			if kind.gateways > 0 {
				settings = append(settings, "SSE_GATEWAY_URL="+strings.Join(urls, ","), "SSE_CALLBACK_SECRET=callback", "SSE_GATEWAY_SECRET=gateway")
			}
			c.server = prepare(t, settings...)
			for n, g := range c.gateways {
				_, port, _ := net.SplitHostPort(g.addr)
				g.env = append([]string{
					"HOST=127.0.0.1", "PORT=" + port, "GATEWAY_SECRET=gateway", "CALLBACK_SECRET=callback", fmt.Sprintf("CALLBACK_URL=%s?gateway=%d", c.url("/api/sse/callback"), n+1),
				}, environment...)
				if len(c.gateways) == 2 && n == 1 { // one says who it is, the other is found
					g.env[4] = "CALLBACK_URL=" + c.url("/api/sse/callback")
				}
				g.launch()
				c.streams = "http://" + g.addr // of the last
			}
			c.launch()
			f(t, c)
		})
	}
}

// launch starts the gateway and waits until it is ready.
func (g *gatewayOf) launch() {
	g.t.Helper()
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "gateway")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = filepath.Dir(g.log), g.env, log, log
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.cmd = cmd
	g.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if g.t.Failed() {
			g.t.Logf("the gateway's log:\n%s", tailOf(g.log))
		}
		http.DefaultClient.CloseIdleConnections()
	})
	eventually(g.t, "the gateway is ready", func() bool {
		a, err := http.Get("http://" + g.addr + "/readyz")
		if err != nil {
			return false
		}
		a.Body.Close()
		return a.StatusCode == http.StatusOK
	})
}

func (g *gatewayOf) kill() {
	_ = g.cmd.Process.Kill() // it runs
	_ = g.cmd.Wait()
}

func (g *gatewayOf) signal(s syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// rest waits until nothing is left of streams.
func (c *carried) rest() {
	c.t.Helper()
	for _, gauge := range []string{"sse_gateway_active_connections", "sse_device_log_subscriptions_active"} {
		eventually(c.t, gauge+" is 0", func() bool { return c.metric(gauge) == 0 })
	}
}

// What is sent to one stream comes there alone, once and in its order; what is
// for all comes to all; who leaves is forgotten.
func TestCarriersDeliver(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c *carried) {
		var devices []device
		var readers []*reader
		var talkers []*talker
		for n := range 5 {
			d := c.device(fmt.Sprintf("boiler-%d", n))
			devices = append(devices, d)
			readers = append(readers, c.follow(fmt.Sprintf("reader-%d", n), d))
		}
		all := c.follow("all", devices...)
		for n, d := range devices {
			talkers = append(talkers, c.talk(d, 25*time.Millisecond, 1+n*3, n%2 == 0))
		}
		for n, d := range devices {
			readers[n].waitFor(d, 50)
		}
		if a := c.inside("POST", "/internal/rotation-nudge"); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for n, k := range talkers {
			k.stop()
			k.checkHeard(readers[n])
			k.checkHeard(all)
		}
		for n, r := range append(readers, all) {
			r.wait("a nudge", func() bool { return r.counts["rotation-updated"] > 0 && r.counts["version"] > 0 })
			r.check()
			r.mu.Lock()
			if len(r.lines) != len(r.devices) || r.opened != 1 {
				t.Errorf("reader %d follows %d devices, has lines of %d, and was opened %d times", n, len(r.devices), len(r.lines), r.opened)
			}
			r.mu.Unlock()
			r.stop()
		}
		c.rest()
	})
}

// A batch that is longer than a gateway of the reference system takes comes
// whole (D27).
func TestCarriersLongBatch(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c *carried) {
		d := c.device("boiler")
		r := c.follow("r", d)
		b := c.board(d)
		b.sayLong(2000, strings.Repeat("x", 200))
		b.say(1)
		r.waitFor(d, 2001)
		r.check()
		if got := len(r.numbers(d)); got != 2001 {
			t.Errorf("%d lines", got)
		}
	})
}

// Whatever dies, nothing is left of the streams that it had, they come back, and
// their readers miss nothing.
func TestCarriersLossD26(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c *carried) {
		d, silent := c.device("boiler"), c.device("cellar")
		readers := []*reader{c.follow("a", d), c.follow("b", d), c.follow("quiet", silent)}
		quiet := readers[2]
		// With two gateways all happens to the last, and the stream of the first neither
		// ends nor waits for that.
		var bystanders []*reader
		if len(c.gateways) == 2 {
			r := c.newReader("bystander", d)
			r.at = "http://" + c.gateways[0].addr
			r.start()
			r.wait("its device is followed", func() bool { return r.live })
			bystanders = append(bystanders, r)
			readers = append(readers, r)
		}
		// A stream has a place to go on from before it has had a line. This comes after
		// it.
		if a := c.inside("POST", "/internal/rotation-nudge"); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, r := range readers {
			r.wait("a nudge", func() bool { return r.counts["rotation-updated"] > 0 })
		}
		said := 0
		talker := c.talk(d, 20*time.Millisecond, 2, true)
		again := func(what string, do func()) {
			t.Helper()
			_, _, before := talker.state()
			do()
			_, _, sent := talker.state()
			t.Logf("%s was between lines %d and %d", what, before, sent)
			for _, r := range readers {
				r.wait("the stream comes back after "+what, func() bool { return r.live && (r == quiet || r.newest(d) > sent) })
			}
			eventually(t, "there are as many streams as readers after "+what, func() bool {
				return c.metric("sse_gateway_active_connections") == float64(len(readers)) && c.metric("sse_device_log_subscriptions_active") == float64(len(readers))
			})
		}
		again("a kill of the server", func() { c.kill(); c.launch() })
		again("a restart of the server", func() {
			c.terminate()
			if code := c.awaitExit(patience); code != 0 {
				t.Errorf("the server ended with %d", code)
			}
			c.launch()
		})
		if len(c.gateways) > 0 {
			g := c.gateways[len(c.gateways)-1]
			for _, r := range bystanders {
				r.mu.Lock()
				r.opened = 0 // from now on it is not opened
				r.mu.Unlock()
			}
			again("a kill of the gateway", func() {
				g.kill()
				said = 3
				c.board(silent).say(said)
				g.launch()
			})
			again("a restart of the gateway", func() {
				g.signal(syscall.SIGTERM)
				if err := g.cmd.Wait(); err != nil {
					t.Errorf("the gateway ended with %v", err)
				}
				g.launch()
			})
			again("a gateway that stands still", func() {
				g.signal(syscall.SIGSTOP)
				eventually(t, "its streams are given up", func() bool { return c.metric("sse_gateway_active_connections") == float64(len(bystanders)) })
				c.want(http.StatusOK, "GET", "/api/devices", nil) // nobody else waits
				_, _, sent := talker.state()
				for _, r := range bystanders {
					r.waitFor(d, sent)
				}
				g.signal(syscall.SIGCONT)
			})
		}
		if c.rabbit != nil {
			again("a kill of RabbitMQ", func() { c.rabbit.Kill(); c.rabbit.Restart() })
		}
		talker.stop()
		quiet.waitFor(silent, said)
		for _, r := range bystanders {
			r.wait("it was not opened again", func() bool { return r.opened == 0 })
		}
		for _, r := range readers {
			if r != quiet {
				talker.checkHeard(r)
			}
			r.check()
			r.stop()
		}
		c.rest()
	})
}

// A stream belongs to who opened it: whoever carries it, others can neither take
// it over nor have it follow devices, and it ends with its owner's right.
func TestCarriersIdentity(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c *carried) {
		d := c.device("boiler")
		for _, user := range [][]string{{"root", "admin"}, {"ann", "viewer"}, {"bob", "viewer"}} {
			if out, err := c.account("correct horse battery", "add", user[0], "--role", user[1], "--password-stdin"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		eventually(t, "login is on", func() bool { return c.with("GET", "/api/devices", "").status == 401 })
		ann, bob := c.session("ann", "correct horse battery"), c.session("bob", "correct horse battery")
		w := c.witness("anns", d, ann)
		refused := func(what, proof, want string) {
			t.Helper()
			q, err := http.NewRequestWithContext(t.Context(), "GET", c.streamURL("anns"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if name, value, ok := strings.Cut(proof, ": "); ok {
				q.Header.Set(name, value)
			}
			a, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			text, err := io.ReadAll(a.Body)
			if got := string(text); err != nil || got != "event: rejected\ndata: "+want+"\n\n" {
				t.Errorf("%s: %d %q, %v", what, a.StatusCode, got, err)
			}
		}
		refused("nobody", "", `{"status":401,"message":"Unauthorized"}`)
		refused("a bad session", "Cookie: access_token=sbs_nothing", `{"status":401,"message":"Unauthorized"}`)
		refused("somebody else", bob, `{"status":403,"message":"Forbidden"}`)
		body := fmt.Sprintf(`{"request_id":"anns","device_id":%d}`, d.ID)
		if a := c.with("POST", "/api/device-logs/subscribe", body, bob); a.status != http.StatusForbidden {
			t.Errorf("bob has ann's stream follow a device: %d %s", a.status, a.body)
		}
		c.board(d).say(1)
		w.until("device-logs")
		if out, err := c.account("", "disable", "ann"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		w.over("revoked")
		c.rest()
	})
}

// Callbacks are for those who know the secret, and are well formed or refused.
func TestCallbacks(t *testing.T) {
	s := prepare(t, "SSE_GATEWAY_URL=http://127.0.0.1:1", "SSE_CALLBACK_SECRET=geheim")
	s.spawn()
	eventually(t, "it is not ready, as no gateway answers", func() bool {
		a, err := s.try(t.Context(), "GET", s.url("/health/readyz"), nil)
		return err == nil && a.status == http.StatusServiceUnavailable && strings.Contains(string(a.body), `"sse_gateway":{"error":"no gateway answers","ok":false,"reachable":false}`)
	})
	f := func(path, body, authorization string, status int, want string) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), "POST", s.url("/api/sse/callback"+path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/json")
		if authorization != "" {
			q.Header.Set("Authorization", authorization)
		}
		a, err := s.do(q)
		if err != nil || a.status != status || strings.TrimSpace(string(a.body)) != want {
			t.Errorf("%s %.100s: %d %s, %v; want %d %s", path, body, a.status, a.body, err, status, want)
		}
	}
	const secret, ok = "?secret=geheim", `{"action":"connect","token":"t1","request":{"url":"/x?request_id=r1","headers":{"host":"localhost"}}}`
	unauthorized := `{"error":"Unauthorized"}`
	f("", ok, "", 401, unauthorized)
	f("?secret=", ok, "", 401, unauthorized)
	f("?secret=Geheim", ok, "", 401, unauthorized)
	f(secret, ok, "Bearer wrong", 401, unauthorized) // the header comes first
	f("", ok, "Bearer geheim", 200, `{}`)
	f(secret, "", "", 400, `{"error":"Missing JSON body"}`)
	f(secret, "{", "", 400, `{"error":"Invalid JSON"}`)
	f(secret, "[]", "", 400, `{"error":"Invalid payload"}`)
	f(secret, `{"action":"connect"}`, "", 400, `{"error":"Invalid payload"}`)
	f(secret, `{"action":"connect","token":"t","request":{"url":"/x?request_id=r","headers":{"cookie":["a"]}}}`, "", 400, `{"error":"Invalid payload"}`)
	f(secret, `{"action":"connect","token":"t","request":{"url":"/x","headers":{}}}`, "", 400, `{"error":"Missing request_id in URL"}`)
	f(secret, `{"action":"connect","token":"t","request":{"url":"/x?request_id=a:b","headers":{"host":"localhost"}}}`, "", 400, `{"error":"Invalid request_id format"}`)
	f(secret, `{"action":"dance","token":"t"}`, "", 400, `{"error":"Unknown action: dance"}`)
	f(secret, `{"action":"disconnect","reason":"client_closed","token":"never","request":{}}`, "", 200, `{}`)
	f(secret, `"`+strings.Repeat("x", 300_000)+`"`, "", 400, `{"error":"Invalid JSON"}`)
	off := start(t)
	if a := off.call("POST", "/api/sse/callback", ok); a.status != http.StatusNotFound {
		t.Errorf("without gateways: %d %s", a.status, a.body)
	}
}

// So many streams at once that RabbitMQ takes seconds to make their queues: each is
// opened, gets what was for it from the beginning, and none is given up.
func TestCarriersManyAtOnce(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c *carried) {
		const streams = 600
		url := cmp.Or(c.streams, c.url("")) + "/api/sse/stream?request_id="
		eventually(t, "a stream can be opened", func() bool { // the server is not connected to RabbitMQ yet
			a, err := http.Get(url + "first")
			if err != nil {
				return false
			}
			a.Body.Close()
			return a.StatusCode == http.StatusOK
		})
		var opened, told, ended atomic.Int64
		var readers sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		defer readers.Wait()
		defer cancel()
		for n := range streams {
			readers.Go(func() {
				defer ended.Add(1)
				q, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprint(url, "many-", n), nil)
				if err != nil {
					t.Error(err)
					return
				}
				a, err := http.DefaultClient.Do(q)
				if err != nil {
					t.Error(err)
					return
				}
				defer a.Body.Close()
				lines := bufio.NewScanner(a.Body)
				for version := false; lines.Scan(); {
					switch text := lines.Text(); {
					case strings.Contains(text, "rotation-updated"):
						told.Add(1)
					case strings.Contains(text, "version") && !version:
						version = true
						opened.Add(1)
					}
				}
			})
		}
		within(t, 2*time.Minute, "every stream has its first event", func() bool { return opened.Load() == streams })
		if a := c.inside("POST", "/internal/rotation-nudge"); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		within(t, 2*time.Minute, "every stream has the nudge", func() bool { return told.Load() == streams })
		if n := ended.Load(); n > 0 {
			t.Errorf("%d streams ended", n)
		}
	})
}
