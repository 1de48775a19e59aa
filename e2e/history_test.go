package e2e_test

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"
)

// history returns the numbers of all lines of a device in the history, by export.
func (s *server) history(d device) (numbers []int) {
	s.t.Helper()
	q, err := http.NewRequestWithContext(s.t.Context(), "GET", s.url(fmt.Sprintf("/api/devices/%d/logs?start=2000-01-01", d.ID)), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	q.Header.Set("Accept", "application/x-ndjson")
	r, err := s.do(q)
	if err != nil || r.status != 200 {
		s.t.Fatalf("export: %d %s %v", r.status, r.body, err)
	}
	rows := bufio.NewScanner(bytes.NewReader(r.body))
	rows.Buffer(nil, 1<<20)
	for rows.Scan() {
		var row struct {
			Document *line
			Gap      json.RawMessage
		}
		if err := json.Unmarshal(rows.Bytes(), &row); err != nil {
			s.t.Fatal(err)
		}
		if row.Document == nil {
			s.t.Errorf("a gap in the history of %s: %s", d.Entity, row.Gap)
			continue
		}
		if row.Document.N > 0 {
			numbers = append(numbers, row.Document.N)
		}
	}
	return numbers
}

// Killed at random moments under load, while lines move from the journal to the
// history and leave the journal, the history has every acknowledged line once.
func TestHistoryOfKilled(t *testing.T) {
	s := start(t, "HISTORY_SEAL_AGE=1s", "JOURNAL_MAX_BYTES=128KiB", "JOURNAL_DISK_BYTES=1GiB")
	var all []device
	for i := range 4 {
		all = append(all, s.device(fmt.Sprintf("kept-%d", i)))
	}
	steady := s.follow("steady", all...)
	var talkers []*talker
	for i, d := range all {
		talkers = append(talkers, s.talk(d, 2*time.Millisecond, 1+i, i%2 == 1))
	}
	const kills = 12
	for range kills {
		time.Sleep(200*time.Millisecond + rand.N(900*time.Millisecond))
		s.kill()
		s.launch()
	}
	time.Sleep(300 * time.Millisecond)
	for _, k := range talkers {
		k.stop()
	}
	for range 2 {
		for _, k := range talkers {
			k.checkHeard(steady)
			acked, _, _ := k.state()
			got := s.history(k.device)
			if !slices.IsSortedFunc(got, func(a, b int) int { return a - b }) || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("%s: lines of the history are doubled or out of order", k.device.Entity)
			}
			k.mu.Lock()
			has, missing := map[int]bool{}, 0
			for _, n := range got {
				has[n] = true
			}
			for n := range k.acked {
				if !has[n] {
					missing++
				}
			}
			k.mu.Unlock()
			t.Logf("%s: %d acknowledged, %d in the history", k.device.Entity, acked, len(got))
			if missing > 0 || acked < 100*k.lines {
				t.Errorf("%s: of %d acknowledged lines %d are not in the history", k.device.Entity, acked, missing)
			}
		}
		// The same when all is sealed.
		eventually(t, "everything is sealed", func() bool { return s.metric("iot_history_unsealed_bytes") == 0 })
	}
	eventually(t, "the journal has given up what is sealed", func() bool { return s.metric("iot_logsink_journal_bytes") < 256<<10 })
}

// A reader that was away for longer than the journal reaches gets its lines
// from the history.
func TestAbsenceWithHistory(t *testing.T) {
	s := start(t, "HISTORY_SEAL_AGE=1s", "JOURNAL_MAX_BYTES=64KiB", "JOURNAL_DISK_BYTES=1GiB")
	loud, other := s.device("loud"), s.device("other")
	r := s.follow("r", loud, other)
	a, b := s.board(loud), s.board(other)
	a.sayLong(3, pad)
	b.sayLong(3, pad)
	r.waitFor(loud, 3)
	r.waitFor(other, 3)
	r.stop()
	for range 300 {
		a.sayLong(5, pad)
	}
	b.sayLong(2, pad)
	eventually(t, "the journal has given up most", func() bool { return s.metric("iot_logsink_journal_bytes") < 256<<10 })
	back := s.newReader("r", loud, other)
	back.lastID = r.last()
	back.start()
	back.waitFor(loud, a.said)
	back.waitFor(other, b.said)
	a.sayLong(1, pad)
	back.waitFor(loud, a.said)
	back.check()
	if n := len(back.numbers(loud)); n != a.said-3 {
		t.Errorf("%d lines came, want %d", n, a.said-3)
	}
}

// A store that takes nothing costs lag and nothing else: lines are acknowledged
// and delivered live as before, and the history gets them when it can.
func TestStoreDown(t *testing.T) {
	s := start(t, "HISTORY_SEAL_AGE=1s", "JOURNAL_MAX_BYTES=256KiB", "JOURNAL_DISK_BYTES=1GiB")
	d := s.device("busy")
	var live latencies
	r := s.newReader("r", d)
	r.onLine = func(l line) { live.add(l.Sent) }
	r.start()
	r.wait("the device is followed", func() bool { return r.live })
	k := s.talk(d, 5*time.Millisecond, 10, false) // 2000 lines/s
	time.Sleep(3 * time.Second)
	_, before := live.take()

	// Another process holds the database; what is in it can still be read.
	db, err := sql.Open("sqlite", filepath.Join(s.settings["DATA_DIR"], "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	acked, _, _ := k.state()
	time.Sleep(time.Minute)
	n, during := live.take()
	more, _, _ := k.state()
	lag := s.metric("iot_history_lag_seconds")
	t.Logf("live p99 %v before, %v while the store was held (%d lines), lag %.1f s, %v failures", before, during, n, lag, s.metric("iot_history_seal_failures_total"))
	if more-acked < 25_000 || lag < 50 || s.metric("iot_history_seal_failures_total") == 0 {
		t.Errorf("%d lines acknowledged while the store was held, lag %.1f s", more-acked, lag)
	}
	if during > 10*before+50*time.Millisecond {
		t.Errorf("live p99 went from %v to %v", before, during)
	}
	if got := s.history(d); len(got) < more*9/10 {
		t.Errorf("%d of %d lines can be read meanwhile", len(got), more)
	}
	if _, err := db.Exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the history catches up", func() bool { return s.metric("iot_history_lag_seconds") < 3 })
	k.stop()
	k.checkHeard(r)
	r.check()
	acked, _, _ = k.state()
	if got := s.history(d); len(got) < acked || !slices.IsSorted(got) {
		t.Errorf("%d lines in the history, %d acknowledged", len(got), acked)
	}
}

// The page of the reference system pages backwards by time; it gets every line
// once although many have the same time.
func TestHistoryByTime(t *testing.T) {
	s := start(t)
	d := s.device("paged")
	b := s.board(d)
	for i := range 40 {
		b.say(1 + i*7%113)
	}
	var all []string
	end := "2100-01-01T00:00:00Z"
	for {
		var page struct {
			Logs []struct {
				Timestamp, Message string
				Cursor             string
			}
			HasMore     bool    `json:"has_more"`
			WindowStart *string `json:"window_start"`
			WindowEnd   *string `json:"window_end"`
		}
		s.want(200, "GET", fmt.Sprintf("/api/devices/%d/logs?end=%s&limit=150", d.ID, end), nil).into(t, &page)
		var here []string
		for _, l := range page.Logs {
			if len(l.Timestamp) != 27 || l.Timestamp > end && !strings.HasPrefix(end, "2100") {
				t.Errorf("a line of %s on the page up to %s", l.Timestamp, end)
			}
			here = append(here, l.Cursor)
		}
		all = append(here, all...)
		if !page.HasMore {
			break
		}
		end = *page.WindowStart
	}
	if len(all) != b.said || len(slices.Compact(slices.Clone(all))) != b.said {
		t.Errorf("%d lines by time, %d said", len(all), b.said)
	}
}

// One subscription to everything, for the lines that matter, with devices that
// come later; and exports.
func TestFleetSubscription(t *testing.T) {
	s := start(t)
	first := s.device("first")
	stream := s.curl("fleet")
	next(t, stream, "ready")
	for _, bad := range []struct {
		body map[string]any
		want int
	}{
		{map[string]any{"request_id": "fleet", "all": false}, 400},
		{map[string]any{"request_id": "fleet", "device_ids": "1"}, 400},
		{map[string]any{"request_id": "fleet", "all": true, "regex": "("}, 400},
		{map[string]any{"request_id": "fleet", "all": true, "level": "loud"}, 400},
		{map[string]any{"request_id": "fleet", "device_id": 1, "after": "?"}, 400},
		{map[string]any{"request_id": "fleet", "all": true, "device_id": 1}, 400},
		{map[string]any{"request_id": "fleet", "device_ids": []int{99}}, 404},
		{map[string]any{"request_id": "nobody", "all": true}, 403},
	} {
		if r := s.call("POST", "/api/device-logs/subscribe", bad.body); r.status != bad.want {
			t.Errorf("%v: %d %s, want %d", bad.body, r.status, r.body, bad.want)
		}
	}
	var answer struct {
		Count   int
		Devices []struct {
			DeviceEntityID string `json:"device_entity_id"`
		}
	}
	s.want(200, "POST", "/api/device-logs/subscribe", map[string]any{"request_id": "fleet", "all": true, "level": "warn", "query": "beacon"}).into(t, &answer)
	if answer.Count != 1 || answer.Devices[0].DeviceEntityID != "first" {
		t.Errorf("subscribed to %+v", answer)
	}
	second := s.device("second")
	for _, d := range []device{first, second} {
		for _, m := range []string{"I (1) wifi: beacon", "W (2) wifi: beacon timeout", "E (3) wifi: beacons"} {
			publish(t, s.mqtt, "iotsupport/logsink", 1, fmt.Sprintf(`{"entity_id":%q,"message":%q}`, d.Entity, m))
		}
	}
	for _, d := range []device{first, second} {
		var b batch
		if err := json.Unmarshal(next(t, stream, "device-logs"), &b); err != nil {
			t.Fatal(err)
		}
		if b.Entity != d.Entity || len(b.Logs) != 1 || b.Logs[0].Message != "W (2) wifi: beacon timeout" {
			t.Errorf("got %+v of %s", b, d.Entity)
		}
	}
	s.want(200, "POST", "/api/device-logs/unsubscribe", map[string]any{"request_id": "fleet", "all": true}).into(t, &answer)
	if answer.Count != 2 || s.metric("sse_device_log_subscriptions_active") != 0 {
		t.Errorf("%d subscriptions ended, %v are left", answer.Count, s.metric("sse_device_log_subscriptions_active"))
	}

	// The same from the history, as text.
	q, _ := http.NewRequestWithContext(t.Context(), "GET", s.url("/api/logs?start=2000-01-01&query=beacon&level=warn"), nil)
	q.Header.Set("Accept", "text/plain")
	r, err := s.do(q)
	if err != nil || r.status != 200 || r.header.Get("X-Total-Lines") != "6" || !strings.HasPrefix(r.header.Get("Content-Disposition"), "attachment") {
		t.Fatalf("%d %v %v", r.status, r.header, err)
	}
	if got := strings.Count(string(r.body), "\n"); got != 2 || !strings.Contains(string(r.body), "Z first | W (2) wifi: beacon timeout\n") {
		t.Errorf("exported:\n%s", r.body)
	}
}
