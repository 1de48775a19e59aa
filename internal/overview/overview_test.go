package overview

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program is metrics of some of the figures, and what records them.
type program struct {
	lines   *prometheus.CounterVec
	gaps    *prometheus.CounterVec
	latency prometheus.Histogram
	streams prometheus.Gauge
	*Recorder
}

func newProgram() *program {
	reg := prometheus.NewRegistry()
	with := promauto.With(reg)
	return &program{
		lines:   with.NewCounterVec(prometheus.CounterOpts{Name: "iot_logsink_messages_received_total"}, []string{"status"}),
		gaps:    with.NewCounterVec(prometheus.CounterOpts{Name: "sse_log_gaps_total"}, []string{"reason"}),
		latency: with.NewHistogram(prometheus.HistogramOpts{Name: "sse_device_log_latency_seconds", Buckets: []float64{.001, .01, .1}}),
		streams: with.NewGauge(prometheus.GaugeOpts{Name: "sse_gateway_active_connections"}),

		Recorder: New(reg, slog.New(slog.DiscardHandler)),
	}
}

// run calls f while the program records. The bubble's clock begins on the grid.
func run(t *testing.T, f func(*program)) {
	synctest.Test(t, func(t *testing.T) {
		p := newProgram()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		f(p)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// points returns one figure as JSON.
func (p *program) points(t *testing.T, name string, since float64) string {
	t.Helper()
	for _, s := range p.Since(since).Series {
		if s.Name == name {
			text, err := json.Marshal(s.Points)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
	t.Fatalf("there is no figure %s", name)
	return ""
}

func TestFigures(t *testing.T) {
	run(t, func(p *program) {
		step := func() {
			time.Sleep(Step)
			synctest.Wait()
		}
		p.lines.WithLabelValues("success").Add(25)
		p.lines.WithLabelValues("parse_error").Add(7)
		p.gaps.WithLabelValues("rate").Inc()
		p.streams.Set(3)
		for range 98 {
			p.latency.Observe(.002)
		}
		p.latency.Observe(.05)
		p.latency.Observe(.05)
		step()
		p.streams.Set(2)
		p.gaps.WithLabelValues("retention").Add(2)
		step()
		p.latency.Observe(5)
		step()
		f := func(name, want string) {
			t.Helper()
			if got := p.points(t, name, 0); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
		f("lines", "[null,2.5,0,0]")
		f("gaps", "[null,0.1,0.2,0]")
		f("streams", "[0,3,2,2]")
		f("latency_p50", "[null,0.00559184,null,0.1]") // in between, then the last bound
		f("latency_p99", "[null,0.055,null,0.1]")
		f("dropped", "[null,0,0,0]")
		f("history_bytes", "[null,null,null,null]")
	})
}

func TestSince(t *testing.T) {
	run(t, func(p *program) {
		began := time.Now().Unix()
		f := func(since float64, start int64, n int) {
			t.Helper()
			a := p.Since(since)
			if a.Step != 10 || a.Start != start || len(a.Series[0].Points) != n {
				t.Errorf("since %v: start %d, %d points; want %d, %d", since, a.Start, len(a.Series[0].Points), start, n)
			}
		}
		time.Sleep(2*Step + time.Second)
		f(0, began, 3)
		f(float64(began-1), began, 3)
		f(float64(began), began+10, 2)
		f(float64(began)+9.9, began+10, 2)
		f(float64(began+20), began+30, 0)
		f(1e300, began+30, 0)
		f(-1e300, began, 3)

		time.Sleep(Length)
		last := began + int64(Length/time.Second) + 20
		f(0, last-2159*10, 2160)
		f(float64(last-10), last, 1)
	})
}

// A machine that slept leaves a hole, a clock that was set back begins anew.
func TestClock(t *testing.T) {
	p := newProgram()
	at := time.Unix(1_800_000_000, 0)
	p.lines.WithLabelValues("success")
	p.record(at)
	p.lines.WithLabelValues("success").Add(60)
	p.record(at.Add(30 * time.Second))
	p.record(at.Add(31 * time.Second)) // of the same step
	if got := p.points(t, "lines", 0); got != "[null,null,null,2]" {
		t.Error(got)
	}
	p.record(at.Add(-time.Hour))
	a := p.Since(0)
	if a.Start != at.Unix()-3600 || len(a.Series[0].Points) != 1 {
		t.Errorf("start %d, %d points", a.Start, len(a.Series[0].Points))
	}
}

func TestBeforeTheFirst(t *testing.T) {
	text, err := json.Marshal(newProgram().Since(0))
	if err != nil || !strings.HasPrefix(string(text), `{"step":10,"start":0,"series":[{"name":"lines","unit":"lines/s","points":[]}`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestPoint(t *testing.T) {
	f := func(v float64, want string) {
		t.Helper()
		if text, err := json.Marshal(Point(v)); err != nil || string(text) != want {
			t.Errorf("%v: %s, %v", v, text, err)
		}
	}
	f(0, "0")
	f(123456789, "1.23457e+08")
	f(1.0/3, "0.333333")
	f(math.NaN(), "null")
	f(math.Inf(1), "null")
}

func TestNames(t *testing.T) {
	var got []string
	for _, f := range figures() {
		got = append(got, f.name)
	}
	want := strings.Fields(`lines bytes delivered latency_p50 latency_p99 journal_bytes journal_limit journal_lag history_bytes history_lag
		streams subscriptions dropped gaps irregular quota_cut memory`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
