//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMarks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := mark{rapid.Int64Min(0).Draw(t, "due"), rapid.IntRange(0, 9999).Draw(t, "device"), rapid.IntRange(0, 1<<32-1).Draw(t, "seq")}
		text := line(want)
		if len(text) != lineLen {
			t.Fatalf("a line of %d bytes", len(text))
		}
		if got := appendMarks(nil, append(text, text...)); !cmp.Equal(got, []mark{want, want}, cmp.AllowUnexported(mark{})) {
			t.Fatalf("got %v of two %v", got, want)
		}
	})
	f := func(text string) {
		t.Helper()
		if got := appendMarks(nil, []byte(text)); got != nil {
			t.Errorf("%q: got %v, want none", text, got)
		}
	}
	f("")
	f("#sb")
	f("#sb" + strings.Repeat("0", 27))
	f("#sb" + strings.Repeat("0", 27) + "g")
	f("#sb" + strings.Repeat("0", 27) + "/")
}

func TestPackets(t *testing.T) {
	for name, p := range map[string]protocol{"mqtt": mqtt("1"), "posts": posts()} {
		m := mark{due: 1 << 60, device: 1234, seq: 77}
		want := p.wrap(m.device, line(m))
		if p.id > 0 {
			want[p.id], want[p.id+1] = 0x12, 0x34
		}
		if got := newPackets(p).append([]byte("before"), m, 0x1234); string(got) != "before"+string(want) {
			t.Errorf("%s: got %q\nwant %q", name, got, want)
		}
	}
}

// Bytes as in MQTT 3.1.1, sections 3.1 and 3.3.
func TestMQTT(t *testing.T) {
	p := mqtt("7")
	f := func(what string, got []byte, want string) {
		t.Helper()
		if string(got) != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	f("CONNECT", p.hello(3), "\x10\x15\x00\x04MQTT\x04\x02\x00\x00\x00\x09bench-7-3")
	f("PUBLISH", p.wrap(0, []byte("text")), "\x32\x1a\x00\x12iotsupport/logsink\x00\x00text")

	answers := func(bytes string) (n int, err error) {
		err = p.answers(bufio.NewReader(strings.NewReader(bytes)), func(k int) { n += k })
		return n, err
	}
	if n, err := answers("\x20\x02\x00\x00\x40\x02\x00\x01\x40\x02\x00\x02"); n != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("got %d answers, %v", n, err)
	}
	if _, err := answers("\x20\x02\x00\x05"); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a refused connection: got %v", err)
	}
}

func TestParserAtEveryCut(t *testing.T) {
	marks := []mark{{1, 2, 3}, {4, 5, 6}, {7, 8, 9}}
	text := func(m mark) string { return string(line(m)) }
	events := "retry: 2000\n\nid: x-1\ndata: " + text(marks[0]) + "," + text(marks[1]) + "\n\n:\n\ndata: " + text(marks[2]) + "\n\n"
	unfinished := "data: " + text(mark{10, 11, 12}) + "\n" // no blank line: not yet an event
	var chunked strings.Builder
	for rest := events + unfinished; rest != ""; { // chunk ends fall into marks
		n := min(37, len(rest))
		fmt.Fprintf(&chunked, "%x\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	f := func(stream string, isChunked bool) {
		t.Helper()
		for cut := range len(stream) {
			p := parser{chunked: isChunked}
			var got []mark
			for _, part := range []string{stream[:cut], stream[cut:]} {
				if err := p.feed([]byte(part), func(m mark) { got = append(got, m) }); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(marks, got, cmp.AllowUnexported(mark{})); diff != "" {
				t.Fatalf("cut at %d: %s", cut, diff)
			}
		}
	}
	f(events+unfinished, false)
	f(chunked.String(), true)

	for _, bad := range []string{"0\r\n\r\n", "x\r\n"} {
		p := parser{chunked: true}
		if p.feed([]byte(bad), func(mark) {}) == nil {
			t.Errorf("chunk %q was taken", bad)
		}
	}
}

func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 1, 200).Draw(t, "values")
		q := rapid.Float64Range(0.01, 1).Draw(t, "q")
		var h histogram
		for _, v := range values {
			h.add(v)
		}
		got := h.quantile(q)
		below, clearlyBelow := 0, 0
		for _, v := range values {
			if v <= got {
				below++
			}
			if v < got-got/64 {
				clearlyBelow++
			}
		}
		if share := q * float64(len(values)); float64(below) < share || float64(clearlyBelow) >= share+1 {
			t.Fatalf("quantile %v of %v is %d", q, values, got)
		}
	})
	if got := new(histogram).quantile(.5); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}

func TestMedian(t *testing.T) {
	f := func(want float64, v ...float64) {
		t.Helper()
		if got := median(v...); got != want {
			t.Errorf("median of %v: got %v, want %v", v, got, want)
		}
	}
	f(0)
	f(3, 3)
	f(2, 1, 3)
	f(3, 9, 1, 3)
}

func TestSearch(t *testing.T) {
	// stands answers trials of a server that fails above a rate.
	f := func(stands float64, start float64) {
		t.Helper()
		s := &search{next: start, limit: 250}
		for range 100 {
			if s.done() {
				break
			}
			r := &result{P99: 1}
			if s.next > stands {
				r.Lost = 1
			}
			s.learn(r)
		}
		if stands < 1 {
			if !s.done() || s.passed != 0 {
				t.Errorf("nothing passes: got %v", s.passed)
			}
			return
		}
		if s.passed > stands || s.passed < stands/1.11 || s.best == nil {
			t.Errorf("it stands %v: got %v", stands, s.passed)
		}
	}
	f(20000, 4000)
	f(4000, 4000)
	f(300, 4000)
	f(0, 4000)

	s := &search{next: 100, limit: 250}
	s.learn(&result{P99: 300, OtherCPU: 90})
	s.learn(&result{P99: 300, OtherCPU: 90})
	s.learn(&result{P99: 300})
	if s.failed != 0 {
		t.Error("a rate failed that was missed once on a quiet machine")
	}
	s.learn(&result{P99: 300})
	if s.failed != 100 || s.next != 50 {
		t.Errorf("two misses: failed %v, next %v", s.failed, s.next)
	}
}

// inProcess is a floor whose handler may be tampered with.
type inProcess struct{ floorServer }

func (*inProcess) pid() int { return os.Getpid() }

func TestTry(t *testing.T) {
	// f puts a small load on a floor; each event is published times(number) times.
	f := func(what string, times func(n int) int, topic func(string) string, want result) {
		t.Helper()
		inner := &floor{topics: map[string]map[chan []byte]bool{}}
		publish := make(chan int, 1)
		publish <- 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				inner.events(w, r)
				return
			}
			n := <-publish
			body, _ := io.ReadAll(r.Body)
			for range times(n) {
				again, _ := http.NewRequest(http.MethodPost, "/publish?topic="+topic(r.URL.Query().Get("topic")), bytes.NewReader(body))
				inner.publish(httptest.NewRecorder(), again)
			}
			publish <- n + 1
			w.WriteHeader(http.StatusNoContent)
		}))
		defer server.Close()
		l := load{devices: 4, readers: 8, silent: 2, rate: 400, warm: 50 * time.Millisecond, window: 200 * time.Millisecond}
		r, err := try(t.Context(), &inProcess{floorServer{addr: server.Listener.Addr().String()}}, l, "t")
		if err != nil {
			t.Fatal(err)
		}
		got := result{Server: r.Server, Rate: r.Rate, Sent: r.Sent, Delivered: r.Delivered, Lost: r.Lost, Duplicates: r.Duplicates, Misrouted: r.Misrouted}
		want.Server, want.Rate, want.Sent = "floor", 400, 100
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		if r.Delivered > 0 && (r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.Max || r.PerSecond <= 0) {
			t.Errorf("%s: p50 %v p99 %v max %v, %v/s", what, r.P50, r.P99, r.Max, r.PerSecond)
		}
	}
	once := func(int) int { return 1 }
	same := func(topic string) string { return topic }
	f("as it should be", once, same, result{Delivered: 200})
	f("one lost", func(n int) int { return min(1, n%100) }, same, result{Delivered: 198, Lost: 2})
	f("one twice", func(n int) int { return 1 + n/99 }, same, result{Delivered: 200, Duplicates: 2})
	f("all to one device", once, func(string) string { return entity(0) }, result{Delivered: 50, Lost: 150, Misrouted: 150})
}

// A server that stops for a while makes the lines late that were due meanwhile,
// not fewer.
func TestStallCounts(t *testing.T) {
	const stall = 200 * time.Millisecond
	inner := &floor{topics: map[string]map[chan []byte]bool{}}
	began := make(chan time.Time, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			select {
			case began <- time.Now():
			default:
			}
			first := <-began
			began <- first
			time.Sleep(stall - time.Since(first))
		}
		inner.handler().ServeHTTP(w, r)
	}))
	defer server.Close()
	l := load{devices: 1, readers: 1, rate: 200, window: 400 * time.Millisecond}
	r, err := try(t.Context(), &inProcess{floorServer{addr: server.Listener.Addr().String()}}, l, "t")
	if err != nil {
		t.Fatal(err)
	}
	// Half of the lines were due during the stall, and wait 100 ms on average.
	if r.Delivered != 80 || r.Max < 150 || r.Sent != 80 {
		t.Errorf("delivered %d of %d, max %v ms", r.Delivered, r.Sent, r.Max)
	}
}

func TestPublisherErrors(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	refusing := make(chan struct{})
	go func() {
		defer close(refusing)
		for range posts().conns {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\n\r\n")
			defer c.Close()
		}
	}()
	pub, err := dialPublishers(t.Context(), listener.Addr().String(), posts())
	if err != nil {
		t.Fatal(err)
	}
	<-refusing
	rs := &readers{}
	if _, err := await(t.Context(), rs, pub, 1); err == nil {
		t.Error("a refused message was not noticed")
	}
	pub.close()
}

func TestChoose(t *testing.T) {
	f := func(only string, want ...int) {
		t.Helper()
		got, err := choose(only)
		if diff := cmp.Diff(want, got); diff != "" || (err != nil) != (want == nil) {
			t.Errorf("%q: %v %s", only, err, diff)
		}
	}
	f("", 0, 1, 2, 3, 4)
	f("wide,pattern", 2, 0)
	f("wide, idle", 2, 3)
	f("fast")
}

func TestReport(t *testing.T) {
	var r report
	r.add("title", "figure", "ms", [2][]float64{{1, 2, 9}, {3}})
	if diff := cmp.Diff([]row{{"title", "figure", "ms", 2, 3, 1.5}}, r.Rows); diff != "" {
		t.Error(diff)
	}
	var table bytes.Buffer
	if err := r.table(&table); err != nil || !strings.Contains(table.String(), "figure, ms") || !strings.Contains(table.String(), "1.50\n") {
		t.Errorf("%v\n%s", err, &table)
	}
	r.Trials = []trial{{"x", &result{Server: "floor", Lost: 1}}}
	if got := r.faults(); got != "" {
		t.Errorf("the floor lost a line: %s", got)
	}
	r.Trials = append(r.Trials, trial{"x", &result{Server: "signalbox", Unanswered: 1}})
	if r.faults() == "" {
		t.Error("Signalbox left a message unanswered, and that is no fault")
	}
}

// A process that was started ends when asked, and says so when it did not end well.
func TestStop(t *testing.T) {
	f := func(script string, ok bool) {
		t.Helper()
		p, stdout, err := start(t.TempDir()+"/log", nil, "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		bufio.NewReader(stdout).ReadString('\n') // it is ready
		if err := p.stop(); (err == nil) != ok {
			t.Errorf("%s: %v", script, err)
		}
	}
	f("trap 'exit 0' TERM; echo; while :; do sleep 0.01; done", true)
	f("trap 'exit 3' TERM; echo; while :; do sleep 0.01; done", false)
}
