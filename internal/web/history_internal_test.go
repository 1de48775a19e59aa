package web

import (
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/logs"
)

func TestParseTime(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		got, ok := parseTime(text)
		if !ok && want != "" || ok && timestamp(got) != want {
			t.Errorf("%q: %s, %v; want %s", text, timestamp(got), ok, want)
		}
	}
	f("2026-07-04T08:00:00Z", "2026-07-04T08:00:00.000000Z")
	f("2026-07-04T08:00:00.123456789Z", "2026-07-04T08:00:00.123456Z")
	f("2026-07-04t08:00:00.5+02:00", "2026-07-04T06:00:00.500000Z")
	f("2026-07-04 08:00:00+0200", "2026-07-04T06:00:00.000000Z")
	f("2026-07-04T08:00:00", "2026-07-04T08:00:00.000000Z") // without a zone: UTC
	f("2026-07-04_08:00", "2026-07-04T08:00:00.000000Z")
	f("2026-07-04T08:00z", "2026-07-04T08:00:00.000000Z")
	f("2026-07-04", "2026-07-04T00:00:00.000000Z")
	f("1783152000", "2026-07-04T08:00:00.000000Z")
	f("1783152000.25", "2026-07-04T08:00:00.250000Z")
	f("1783152000250", "2026-07-04T08:00:00.250000Z") // milliseconds
	f("-1", "1969-12-31T23:59:59.000000Z")
	f("", "")
	f("yesterday", "")
	f("2026-13-01", "")
	f("NaN", "")
	f("Inf", "")
	f("1e300", "")
}

func FuzzParseTime(f *testing.F) {
	f.Add("2026-07-04T08:00:00Z")
	f.Add("1e9")
	f.Fuzz(func(t *testing.T, text string) {
		if got, ok := parseTime(text); ok && (got.Year() < -1 || got.Year() > 10_000) {
			t.Errorf("%q is %v", text, got)
		}
	})
}

func TestHistoryQuery(t *testing.T) {
	now := time.Date(2026, 7, 4, 8, 0, 0, 0, time.UTC)
	at := func(hour int) time.Time { return time.Date(2026, 7, 4, hour, 0, 0, 0, time.UTC) }
	cursor := logs.LineCursor{Cursor: logs.Cursor{Epoch: "e", Seq: 7}, Line: 3}
	f := func(query string, want logs.Query, window bool) {
		t.Helper()
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if want.Limit == 0 {
			want.Limit = 1000
		}
		got, w, err := historyQuery(v, now)
		if diff := cmp.Diff(want, got); diff != "" || w != window || err != nil {
			t.Errorf("%q: window %v, %v %s", query, w, err, diff)
		}
	}
	// The modes of the reference system.
	f("", logs.Query{Start: at(7), End: at(8)}, true)
	f("start=2026-07-04T05:00", logs.Query{Start: at(5), End: at(8)}, true)
	f("start=2026-07-04T05:00&end=2026-07-04T06:00", logs.Query{Start: at(5), End: at(6)}, true)
	f("end=2026-07-04T06:00", logs.Query{End: at(6), Backward: true}, true)
	// And by cursor.
	f("before=e-7.3&limit=10000", logs.Query{Before: cursor, Backward: true, Limit: 10_000}, false)
	f("after=e-7.3&start=2026-07-04T05:00", logs.Query{After: cursor, Start: at(5)}, false)
	f("after=e-7.3&before=e-7.3&level=WARN&tag=wifi&query=a*&regex=b", logs.Query{
		After: cursor, Before: cursor, Filter: logs.Filter{Level: logs.Warn, Tag: "wifi", Pattern: "a*", Regex: "b"},
	}, false)

	bad := func(query, loc string) {
		t.Helper()
		v, _ := url.ParseQuery(query)
		_, _, err := historyQuery(v, now)
		faults, ok := err.(violations) //nolint:errorlint // it is what historyQuery returns, not wrapped
		if !ok || len(faults) != 1 || faults[0].Loc[0] != loc {
			t.Errorf("%q: %v, want a violation of %s", query, err, loc)
		}
	}
	bad("start=x", "start")
	bad("end=x", "end")
	bad("before=x", "before")
	bad("after=E-1", "after")
	bad("limit=0", "limit")
	bad("limit=10001", "limit")
	bad("limit=x", "limit")
	bad("level=loud", "level")
}

// A page that is gone on from by time never ends within an instant.
func TestWholeInstants(t *testing.T) {
	lines := func(seconds ...int64) (l []logs.Line) {
		for _, s := range seconds {
			l = append(l, logs.Line{Received: time.Unix(s, 0)})
		}
		return l
	}
	f := func(backward bool, in []logs.Line, want int) {
		t.Helper()
		if got := wholeInstants(in, backward); len(got) != want {
			t.Errorf("%d lines, want %d", len(got), want)
		}
	}
	f(true, lines(1, 1, 2, 3), 2)
	f(false, lines(1, 2, 3, 3), 2)
	f(true, lines(1, 1, 1), 3) // all of one instant: better too many than none
	f(false, lines(1, 1), 2)
	f(true, nil, 0)
}

func TestExportFormat(t *testing.T) {
	f := func(accept, want string) {
		t.Helper()
		if got := exportFormat(accept, asText); got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
	f("", "")
	f("application/json, text/plain, */*", "") // what fetch libraries send
	f("text/plain", asText)
	f("application/x-ndjson;q=1", asLines)
	f("application/ndjson, application/json", asLines)
	f("*/*", "")
	f("text/html,text/plain", asText)
}
