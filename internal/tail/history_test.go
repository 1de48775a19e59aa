package tail

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// day has lines 1..9 of two devices, one an hour.
func day(t *testing.T) *server {
	t.Helper()
	s := newServer(t, lamp(), door())
	for i := 1; i <= 9; i++ {
		level := []string{"info", "error", "debug"}[i%3]
		s.sayAt(fmt.Sprintf("%02d:00:00", i), int64(5+i%2), level, fmt.Sprintf("line %d", i))
	}
	return s
}

func TestHistoryPrintsAsTailDoes(t *testing.T) {
	s := newServer(t, lamp(), door(), dev(7, "cccc4444", "Other", "other"))
	s.sayAt("10:00:00", 5, "info", "a", "b")
	s.sayAt("10:00:01", 7, "info", "not asked for")
	s.sayAt("10:00:02", 6, "info", "c\x1b[2J")
	got := printed(t, s, HistoryConfig{Config: Config{Devices: []string{"lamp", "bbbb3333"}, Token: "secret"}})
	want := "10:00:00.000 Lamp       | a\n10:00:00.000 Lamp       | b\n10:00:02.000 Front door | c\\x1b[2J\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// One form, also as JSON: what is followed and what is read again look alike.
func TestHistoryJSON(t *testing.T) {
	s := newServer(t, lamp())
	r := start(t, s, Config{Devices: []string{"lamp"}, JSON: true})
	s.ready(t, 1)
	s.append(record{device: 5, body: batch("warn", "a<b", "\u202e")})
	s.append(record{device: 5, gap: true, body: `"from":"e-1","to":"e-2","count":2,"reason":"retention"`})
	r.out.wait(t, "retention")
	r.stop(t)
	if diff := cmp.Diff(r.out.String(), printed(t, s, HistoryConfig{Config: Config{Devices: []string{"lamp"}, JSON: true}})); diff != "" {
		t.Error(diff)
	}
	// Of another server, or a device that is gone, there is less to tell.
	s.onPage = func(_ int, w http.ResponseWriter, _ url.Values) bool {
		io.WriteString(w, `{"logs":[{"timestamp":"`+stamp+`","message":"a","cursor":"e-1.0","level":null,"tag":null,"uptime_ms":null,`+
			`"device_id":null,"device_key":"gone2222","device_entity_id":null}],"complete_to":"e-1"}`)
		return true
	}
	want := `{"device_id":0,"device_entity_id":"","device_key":"gone2222","device_name":null,"timestamp":"` + stamp +
		`","message":"a","level":null,"tag":null,"uptime_ms":null,"doc":null}` + "\n"
	if diff := cmp.Diff(want, printed(t, s, HistoryConfig{Config: Config{All: true, JSON: true}, Since: "2h"})); diff != "" {
		t.Error(diff)
	}
	if got, want := printed(t, s, HistoryConfig{Config: Config{All: true}, Since: "2h"}), "14:43:27.948 gone2222 | a\n"; got != want {
		t.Errorf("printed %q", got)
	}
}

func TestHistorySelects(t *testing.T) {
	s := day(t)
	s.sayAt("10:00:00", 5, "", "no level")
	s.modelOf = map[int64]int64{6: 2}
	all := Config{All: true}
	f := func(cfg HistoryConfig, want string) {
		t.Helper()
		for _, size := range []int{1, 2, 3, 0} {
			cfg.page = size
			got := strings.ReplaceAll(strings.Join(messages(printed(t, s, cfg)), " "), "line ", "")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%+v: %s", cfg, diff)
			}
		}
	}
	lines := func(n int) *int { return &n }
	f(HistoryConfig{Config: all}, "1 2 3 4 5 6 7 8 9 no level")
	f(HistoryConfig{Config: all, Lines: lines(3)}, "8 9 no level")
	f(HistoryConfig{Config: all, Lines: lines(0)}, "1 2 3 4 5 6 7 8 9 no level")
	f(HistoryConfig{Config: all, Lines: lines(10)}, "1 2 3 4 5 6 7 8 9 no level")
	f(HistoryConfig{Config: Config{Devices: []string{"lamp"}}}, "2 4 6 8 no level")
	f(HistoryConfig{Config: Config{Devices: []string{"lamp"}}, Lines: lines(2)}, "8 no level")
	f(HistoryConfig{Config: Config{Model: "relay"}}, "1 3 5 7 9")
	f(HistoryConfig{Config: Config{Model: "sensor"}, Lines: lines(2)}, "8 no level")

	f(HistoryConfig{Config: all, Since: "2026-02-01T04:00:00Z"}, "4 5 6 7 8 9 no level")
	f(HistoryConfig{Config: all, Since: "2026-02-01 04:00:01"}, "5 6 7 8 9 no level")
	f(HistoryConfig{Config: all, Since: "2026-02-01T04:00:00Z", Lines: lines(2)}, "9 no level")
	f(HistoryConfig{Config: all, Since: "2026-02-01T08:30:00Z", Lines: lines(5)}, "9 no level")
	f(HistoryConfig{Config: all, Until: "2026-02-01T04:00:00Z"}, "1 2 3 4")
	f(HistoryConfig{Config: all, Until: "2026-02-01T04:00:00Z", Lines: lines(2)}, "3 4")
	f(HistoryConfig{Config: all, Since: "2026-02-01T03:00:00Z", Until: "2026-02-01T05:00:00Z"}, "3 4 5")
	f(HistoryConfig{Config: all, Since: "2026-02-01T03:00:00Z", Until: "2026-02-01T05:00:00Z", Lines: lines(2)}, "4 5")
	f(HistoryConfig{Config: all, Since: "2026-02-02"}, "")

	f(HistoryConfig{Config: Config{All: true, Level: "error"}}, "1 4 7 no level")
	f(HistoryConfig{Config: Config{All: true, Tag: "WIFI"}, Lines: lines(1)}, "9") // the last line has none
	f(HistoryConfig{Config: Config{All: true, Tag: "mqtt"}}, "")
	f(HistoryConfig{Config: Config{All: true, Grep: "^line [2-4]"}}, "2 3 4")
	f(HistoryConfig{Config: Config{All: true, Grep: "^line"}, Lines: lines(2)}, "8 9")
	f(HistoryConfig{Config: Config{All: true, Word: "LINE ?"}, Lines: lines(2)}, "8 9")
	f(HistoryConfig{Config: Config{All: true, Word: "lin"}}, "")
}

func TestNewestHundredUnlessSince(t *testing.T) {
	s := newServer(t, lamp())
	for i := range 250 {
		s.sayAt("10:00:00", 5, "info", fmt.Sprint(i))
	}
	f := func(since string, want int) {
		t.Helper()
		got := messages(printed(t, s, HistoryConfig{Config: Config{All: true}, Since: since}))
		if len(got) != want || got[len(got)-1] != "249" {
			t.Errorf("%d lines, want %d", len(got), want)
		}
	}
	f("", 100)
	f("2026-02-01", 250)
}

// A page that is empty although there is more means that the server's time for
// the search was up, not that it found everything.
func TestEmptyPagesAreGoneBeyond(t *testing.T) {
	f := func(cfg HistoryConfig, way string) {
		t.Helper()
		s := day(t)
		place := map[string][]string{"after": {"e-1.0", "e-3.0"}, "before": {"e-7.0", "e-6.0"}}[way]
		s.onPage = func(n int, w http.ResponseWriter, q url.Values) bool {
			if n < 3 || n > 4 { // the first may ask where the history ends
				return false
			}
			if n == 4 && q.Get(way) != place[0] {
				t.Errorf("went on %s %s", way, q.Get(way))
			}
			cursors := fmt.Sprintf(`"first_cursor":%[1]q,"last_cursor":%[1]q`, place[n-3])
			io.WriteString(w, `{"logs":[],"has_more":true,"complete_to":"e-9","gaps":[],`+cursors+`}`)
			return true
		}
		cfg.page = 2
		cfg.Config = Config{All: true}
		got := strings.ReplaceAll(strings.Join(messages(printed(t, s, cfg)), " "), "line ", "")
		want := map[string]string{"after": "1 2 3 4 4 5 6 7 8 9", "before": "1 2 3 4 5 8 9"}[way]
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	f(HistoryConfig{Since: "2026-02-01"}, "after")
	f(HistoryConfig{}, "before")
}

func TestGapsStandInTheirPlace(t *testing.T) {
	s := newServer(t, lamp(), door())
	gap := func(device int64, from, to int) {
		s.append(record{device: device, gap: true, body: fmt.Sprintf(`"from":"e-%d","to":"e-%d","count":7,"reason":"retention"`, from, to)})
	}
	gap(5, 0, 1)
	s.sayAt("10:00:00", 5, "info", "a", "b", "c")
	gap(6, 2, 6) // over the others' lines
	s.sayAt("10:00:01", 5, "info", "d")
	s.sayAt("10:00:02", 5, "info", "e")
	s.sayAt("10:00:03", 5, "info", "f")
	gap(5, 6, 7)
	want := []string{
		"--- Lamp: 7 lines missing (retention) ---", "a", "b", "c", "--- Front door: 7 lines missing (retention) ---", "d", "e", "f",
		"--- Lamp: 7 lines missing (retention) ---",
	}
	for _, size := range []int{1, 2, 0} {
		for _, since := range []string{"", "2026-02-01"} {
			out := printed(t, s, HistoryConfig{Config: Config{All: true}, Since: since, page: size})
			var got []string
			for line := range strings.Lines(out) {
				line = strings.TrimSpace(line)
				if _, m, ok := strings.Cut(line, "| "); ok {
					line = m
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pages of %d, since %q: %s", size, since, diff)
			}
		}
	}
}

// Places in different journals cannot be compared; their times can.
func TestGapOfAnotherJournal(t *testing.T) {
	line := func(cursor, at string) pastLine { return pastLine{Cursor: cursor, Timestamp: at} }
	p := &page{Logs: []pastLine{line("a-5.0", "1"), line("a-6.0", "2"), line("c-1.0", "5"), line("c-2.0", "6")}}
	f := func(from, until string, want int) {
		t.Helper()
		g := pastGap{gapPayload: gapPayload{From: from}, Until: until}
		if got := g.before(p); got != want {
			t.Errorf("%s until %q stands before line %d, want %d", from, until, got, want)
		}
	}
	f("a-4", "", 0)
	f("a-5", "", 1)
	f("a-6", "3", 2)
	f("b-1", "4", 2)
	f("b-1", "7", 4)
	f("b-1", "", 4)
	f("c-1", "", 3)
	f("nonsense", "", 0)
}

// Nothing is lost or repeated between what was and what comes, wherever the
// connections break.
func TestFollowsWithoutSeam(t *testing.T) {
	f := func(name string, cfg HistoryConfig) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := newServer(t, lamp(), door(), dev(7, "cccc4444", "Mute", ""))
			random := rand.New(rand.NewPCG(3, 4))
			s.cut = func(n int) int {
				if n > 40 {
					return 0
				}
				return 1 + random.IntN(500)
			}
			said := 0
			say := func() {
				said++
				s.say(int64(5+said%2), fmt.Sprintf("line %d", said))
			}
			for range 20 {
				say()
			}
			late := make(chan struct{})
			s.onOpen = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
				if n == 1 { // the history was read: what is said now is in neither answer
					for range 5 {
						say()
					}
					close(late)
				}
				return false
			}
			cfg.Follow, cfg.page = true, 7
			r := look(t, s, cfg)
			<-late
			for range 60 {
				say()
			}
			s.say(5, "end 5")
			s.say(6, "end 6")
			r.out.wait(t, "end 5")
			r.out.wait(t, "end 6")
			r.stop(t)
			seen := map[string]int{}
			last := map[int]int{}
			for _, m := range messages(r.out.String()) {
				seen[m]++
				if n, err := strconv.Atoi(strings.TrimPrefix(m, "line ")); err == nil {
					if n <= last[n%2] {
						t.Errorf("line %d after line %d", n, last[n%2])
					}
					last[n%2] = n
				}
			}
			for n := 1; n <= said; n++ {
				if c := seen[fmt.Sprintf("line %d", n)]; c != 1 {
					t.Errorf("line %d was printed %d times", n, c)
				}
			}
			opened := s.openings()
			if len(opened) < 10 {
				t.Errorf("only %d streams: nothing was broken", len(opened))
			}
			if p, err := logs.ParsePosition(opened[0].lastID); err != nil || p.Of("aaaa2222") != 20 || p.Of("bbbb3333") != 20 || p.Seq != 20 {
				t.Errorf("began after %q", opened[0].lastID)
			}
		})
	}
	n := 0
	f("newest", HistoryConfig{Config: Config{All: true}})
	f("all", HistoryConfig{Config: Config{Devices: []string{"lamp", "door"}}, Lines: &n})
	f("since", HistoryConfig{Config: Config{Model: "sensor"}, Since: "2026-01-01"})
}

// What is followed is filtered like what was read.
func TestFollowsFiltered(t *testing.T) {
	s := newServer(t, lamp())
	s.append(record{device: 5, body: batch("error", "old beacon timeout", "old other")})
	r := look(t, s, HistoryConfig{Config: Config{Devices: []string{"lamp"}, Level: "warn", Tag: "wifi", Word: "beacon*", Grep: "t$"}, Follow: true})
	s.ready(t, 1)
	s.append(record{device: 5, body: batch("info", "beacon not")})
	s.append(record{device: 5, body: batch("error", "beacons are out", "a bacon lost", "beacon timeout!")})
	s.append(record{device: 5, body: batch("error", "the last beacon lost")})
	r.out.wait(t, "last")
	r.stop(t)
	want := []string{"old beacon timeout", "beacons are out", "the last beacon lost"}
	if diff := cmp.Diff(want, messages(r.out.String())); diff != "" {
		t.Error(diff)
	}
}

func TestFollowsLaterDevicesOfTheModel(t *testing.T) {
	s := newServer(t, lamp(), door())
	s.modelOf = map[int64]int64{6: 2, 8: 2}
	r := look(t, s, HistoryConfig{Config: Config{Model: "sensor"}, Follow: true})
	s.ready(t, 1)
	s.mu.Lock()
	s.fleet = append(s.fleet, dev(8, "dddd5555", "Relay", "relay"), dev(9, "eeee6666", "New", "new"))
	s.mu.Unlock()
	s.ready(t, 2)
	s.say(6, "not ours")
	s.say(8, "nor this")
	s.say(9, "hello")
	r.out.wait(t, "hello")
	r.stop(t)
	if diff := cmp.Diff([]string{"hello"}, messages(r.out.String())); diff != "" {
		t.Error(diff)
	}
}

func TestHistoryUsage(t *testing.T) {
	s := newServer(t, lamp())
	s.Close()
	f := func(cfg HistoryConfig, want string) {
		t.Helper()
		if err := look(t, s, cfg).end(t); fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	all := Config{All: true}
	less := -1
	f(HistoryConfig{}, "at least one device")
	f(HistoryConfig{Config: Config{All: true, Model: "sensor"}}, "not two of these")
	f(HistoryConfig{Config: Config{Devices: []string{"x"}, Model: "sensor"}}, "not two of these")
	f(HistoryConfig{Config: Config{All: true, Grep: "("}}, "--grep is not a regular expression")
	f(HistoryConfig{Config: Config{All: true, Word: strings.Repeat("x", 1025)}}, "at most 1024 bytes")
	f(HistoryConfig{Config: all, Since: "soon"}, `--since "soon" is no time`)
	f(HistoryConfig{Config: all, Until: "later"}, `--until "later" is no time`)
	f(HistoryConfig{Config: all, Since: "1h", Until: "2h"}, "--since 1h is later than --until 2h")
	f(HistoryConfig{Config: all, Until: "1h", Follow: true}, "not both")
	f(HistoryConfig{Config: all, Lines: &less}, "at least 0")
	_, err := newHistory(HistoryConfig{Config: Config{All: true, Server: "x", zone: time.UTC}, Since: "00:01"}, midnight)
	if fleet.KindOf(err) != fleet.Invalid || err.Error() != "--since 00:01 is still to come today: give the date too" {
		t.Error(err)
	}
}

func TestHistoryEnds(t *testing.T) {
	f := func(name string, prepare func(*server), cfg Config, kind fleet.Kind, msg string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := day(t)
			if prepare != nil {
				prepare(s)
			}
			err := look(t, s, HistoryConfig{Config: cfg}).end(t)
			if fleet.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), msg) {
				t.Errorf("ended with %v: %v", fleet.KindOf(err), err)
			}
		})
	}
	all := Config{All: true}
	answer := func(status int, body string) func(*server) {
		return func(s *server) {
			s.onPage = func(_ int, w http.ResponseWriter, _ url.Values) bool {
				w.WriteHeader(status)
				io.WriteString(w, body)
				return true
			}
		}
	}
	f("away", func(s *server) { s.Close() }, all, fleet.Unavailable, "Cannot reach http://")
	f("no such device", nil, Config{Devices: []string{"lam"}}, fleet.NotFound, `There is no device "lam"; did you mean lamp_entity?`)
	f("no such model", nil, Config{Model: "senser"}, fleet.NotFound, `There is no device model "senser"; did you mean sensor?`)
	f("no history", answer(200, `{"logs":[],"has_more":false,"complete_to":null,"gaps":[]}`), all, fleet.Unavailable, "The server keeps no history")
	f("401", answer(401, `{"error":"Token has expired"}`), all, fleet.Unauthenticated, "Token has expired")
	f("400", answer(400, `[{"msg":"not a cursor"}]`), all, fleet.Invalid, "not a cursor")
	f("500", answer(500, `{"error":"Internal server error"}`), all, fleet.External, "Internal server error")
	f("another server", answer(200, `<html>`), all, fleet.External, "is it a Signalbox server?")
	f("bad place", answer(200, `{"logs":[],"complete_to":"x"}`), all, fleet.External, "is it a Signalbox server?")
	f("more without a cursor", answer(200, `{"logs":[],"has_more":true,"complete_to":"e-1"}`), all, fleet.External, "is it a Signalbox server?")
}

func TestHistoryTriesAgain(t *testing.T) {
	f := func(name, note string, answer func(http.ResponseWriter)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := day(t)
			s.onPage = func(n int, w http.ResponseWriter, _ url.Values) bool {
				// Twice, since net/http itself repeats a request that had no answer.
				if n%3 != 0 {
					answer(w)
				}
				return n%3 != 0
			}
			r := look(t, s, HistoryConfig{Config: Config{All: true}, Since: "2026-02-01", page: 2})
			if err := r.end(t); err != nil {
				t.Fatal(err)
			}
			if got := messages(r.out.String()); len(got) != 9 {
				t.Errorf("printed %q", got)
			}
			if !strings.Contains(r.err.String(), note) || !strings.Contains(r.err.String(), "--- resumed after ") {
				t.Errorf("Err has %q", r.err)
			}
		})
	}
	f("busy", "--- the server is busy: too many; trying again ---\n", func(w http.ResponseWriter) { problem(w, 503, "too many") })
	f("proxy", "--- connection lost: Bad gateway; trying again ---\n", func(w http.ResponseWriter) { problem(w, 502, "Bad gateway") })
	f("no answer", "--- connection lost: Cannot reach http://", func(http.ResponseWriter) { panic(http.ErrAbortHandler) })
}

func TestFollowsWithoutHistory(t *testing.T) {
	s := newServer(t, lamp())
	s.onPage = func(_ int, w http.ResponseWriter, _ url.Values) bool {
		io.WriteString(w, `{"logs":[],"has_more":false,"complete_to":null,"gaps":[]}`)
		return true
	}
	r := look(t, s, HistoryConfig{Config: Config{All: true}, Follow: true})
	s.ready(t, 1)
	s.say(5, "hello")
	r.out.wait(t, "hello")
	r.stop(t)
	if want := "--- the server keeps no history ---\n"; r.err.String() != want {
		t.Errorf("Err has %q", r.err)
	}
}

// Lines can be long: then a page has fewer of them.
func TestLongAnswersAreAskedForInParts(t *testing.T) {
	s := newServer(t, lamp())
	for range 8 {
		s.sayAt("10:00:00", 5, "info", strings.Repeat("x", 1000))
	}
	body, err := json.Marshal(strings.Repeat("x", 1000))
	if err != nil {
		t.Fatal(err)
	}
	for _, since := range []string{"", "2026-02-01"} {
		cfg := HistoryConfig{Config: Config{All: true}, Since: since, most: int64(3 * len(body))}
		if got := messages(printed(t, s, cfg)); len(got) != 8 {
			t.Errorf("%d lines", len(got))
		}
		cfg.most = 900
		if err := look(t, s, cfg).end(t); fleet.KindOf(err) != fleet.External || !strings.Contains(err.Error(), "is too long") {
			t.Error(err)
		}
	}
}

func TestHistoryIntoClosedPipe(t *testing.T) {
	s := day(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	read.Close()
	if err := look(t, s, HistoryConfig{Config: Config{All: true, Out: write}, Follow: true}).end(t); err != nil {
		t.Error(err)
	}
}

func TestHistoryIsInterrupted(t *testing.T) {
	s := day(t)
	asked := make(chan struct{})
	s.onPage = func(n int, w http.ResponseWriter, _ url.Values) bool {
		if n == 1 {
			close(asked)
		}
		problem(w, 503, "busy")
		return true
	}
	r := look(t, s, HistoryConfig{Config: Config{All: true}})
	<-asked
	r.stop(t)
}
