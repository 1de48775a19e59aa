package logs_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/logs"
)

var noon = time.Date(2026, 7, 4, 12, 0, 0, 123456000, time.UTC)

func TestEncodeBody(t *testing.T) {
	f := func(want string, entries ...logs.Entry) {
		t.Helper()
		b := logs.EncodeBody(noon, entries)
		want = `{"received":"2026-07-04T12:00:00.123456Z","lines":` + want
		if diff := cmp.Diff(want, string(b)); diff != "" {
			t.Error(diff)
		}
		if !json.Valid(b) {
			t.Errorf("not JSON: %s", b)
		}
		if !b.Received().Equal(noon) || b.Lines() != len(entries) {
			t.Errorf("received %s, %d lines", b.Received(), b.Lines())
		}
	}
	f(`1,"logs":[{"a":1}]}`, logs.Entry{Doc: []byte(`{"a":1}`)})
	f(`2,"logs":[{"a":1},{}]}`, logs.Entry{Doc: []byte(`{"a":1}`), EntityID: "x", Truncated: true}, logs.Entry{Doc: []byte(`{}`)})
	f(`1,"logs":[{}],"meta":[{"level":"warn"}]}`, logs.Entry{Doc: []byte(`{}`), Level: logs.Warn})
	f(`1,"logs":[{}],"meta":[{"tag":"a\"\n\u003c"}]}`, logs.Entry{Doc: []byte(`{}`), Tag: "a\"\n<"})
	f(`1,"logs":[{}],"meta":[{"uptime_ms":0}]}`, logs.Entry{Doc: []byte(`{}`), HasUptime: true})
	f(`1,"logs":[{}],"meta":[{"uptime_ms":-1}]}`, logs.Entry{Doc: []byte(`{}`), HasUptime: true, Uptime: -time.Millisecond})
	f(`3,"logs":[1,2,3],"meta":[{},{"level":"error","tag":"wifi","uptime_ms":1234},{}]}`,
		logs.Entry{Doc: []byte(`1`)},
		logs.Entry{Doc: []byte(`2`), Level: logs.Error, Tag: "wifi", HasUptime: true, Uptime: 1234567 * time.Microsecond},
		logs.Entry{Doc: []byte(`3`)})

	// Whatever the zone of the time, the text is UTC.
	b := logs.EncodeBody(noon.In(time.FixedZone("", 2*3600)), []logs.Entry{{Doc: []byte("1")}})
	if !strings.HasPrefix(string(b), `{"received":"2026-07-04T12:00:00.123456Z"`) {
		t.Errorf("%s", b)
	}
}

func TestBodyOfGarbage(t *testing.T) {
	whole := string(logs.EncodeBody(noon, []logs.Entry{{Doc: []byte(`{}`)}}))
	f := func(text string, received time.Time, lines int) {
		t.Helper()
		b := logs.Body(text)
		if !b.Received().Equal(received) || b.Lines() != lines {
			t.Errorf("%q: received %s, %d lines; want %s, %d", text, b.Received(), b.Lines(), received, lines)
		}
	}
	const head = `{"received":"2026-07-04T12:00:00.123456Z`
	for i := range len(whole) { // cut off anywhere
		received, lines := time.Time{}, 0
		if i >= len(head) {
			received = noon
		}
		if i >= len(head+`","lines":1,`) {
			lines = 1
		}
		f(whole[:i], received, lines)
	}
	none := time.Time{}
	f(`[]`, none, 0)
	f(` `+whole, none, 0)
	f(strings.Replace(whole, "2026-07", "2026-13", 1), none, 1)
	f(strings.Replace(whole, "Z", "X", 1), none, 1)
	f(strings.Replace(whole, `:1,`, `:-1,`, 1), noon, 0)
	f(strings.Replace(whole, `:1,`, `:1.0,`, 1), noon, 0)
	f(strings.Replace(whole, `:1,`, `:99999999999999999999,`, 1), noon, 0)
	f(strings.Replace(whole, `lines`, `LINES`, 1), noon, 0)
}

func FuzzBody(f *testing.F) {
	f.Add([]byte(`{"received":"2026-07-04T12:00:00.123456Z","lines":1,"logs":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := logs.Body(b).Lines(); n < 0 {
			t.Errorf("%d lines", n)
		}
		logs.Body(b).Received()
	})
}

func FuzzEncodeBody(f *testing.F) {
	f.Add(int64(0), "tag", uint8(3), int64(1e9), true, 2)
	f.Add(int64(-1), "\xff\u2028\"\x00", uint8(200), int64(-5), false, 1)
	f.Fuzz(func(t *testing.T, at int64, tag string, level uint8, uptime int64, hasUptime bool, n int) {
		received := time.UnixMicro(at)
		if y := received.UTC().Year(); y < 0 || y > 9999 || n < 1 || n > 100 {
			return
		}
		entries := []logs.Entry{{Doc: []byte(`{"n":0}`), Level: logs.Level(level % 6), Tag: tag, HasUptime: hasUptime, Uptime: time.Duration(uptime)}}
		for range n - 1 {
			entries = append(entries, logs.Entry{Doc: []byte(`{"n":1}`)})
		}
		b := logs.EncodeBody(received, entries)
		var got struct {
			Received string
			Lines    int
			Logs     []map[string]int
			Meta     []struct {
				Level, Tag string
				Uptime     *int64 `json:"uptime_ms"`
			}
		}
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if !b.Received().Equal(received) || b.Lines() != n || got.Lines != n || len(got.Logs) != n || strings.ContainsAny(string(b), "\n\r") {
			t.Fatalf("%s, %d lines of %d: %s", b.Received(), b.Lines(), n, b)
		}
		if known := entries[0].Level.String() != "" || tag != "" || hasUptime; known != (len(got.Meta) > 0) {
			t.Fatalf("meta: %s", b)
		}
		if len(got.Meta) == 0 {
			return
		}
		m := got.Meta[0]
		if len(got.Meta) != n || m.Level != entries[0].Level.String() || (m.Uptime != nil) != hasUptime || utf8.ValidString(tag) && m.Tag != tag {
			t.Fatalf("meta: %s", b)
		}
	})
}
