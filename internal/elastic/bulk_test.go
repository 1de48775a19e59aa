package elastic

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

func TestParseBulk(t *testing.T) {
	f := func(body string, n int, want ...logs.Refusal) {
		t.Helper()
		got, err := parseBulk([]byte(body), n)
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", body, diff)
		}
	}
	item := func(status, err string) string {
		return `{"errors":true,"items":[{"index":{"status":` + status + err + `}}]}`
	}
	f(`{"took":1,"errors":false,"items":[{"index":{"status":201}},{"create":{"status":200}}]}`, 2)
	f(`{"errors":false,"items":[]}`, 5)
	f(`{"errors":false}`, 5)
	f(`{"errors":false,"error":"","items":[{"index":{"status":200}}]}`, 1)
	f(item("409", `,"error":{"type":"version_conflict_engine_exception"}`), 1)
	f(item("400", `,"error":{"type":"document_parsing_exception","reason":"no","caused_by":{"reason":"since"}}`), 1,
		logs.Refusal{Kind: fleet.Invalid, Reason: "HTTP 400: document_parsing_exception: no: since"})
	f(item("400", `,"error":{"type":"validation_exception","reason":"this action would add 2 shards"}`), 1,
		logs.Refusal{Kind: fleet.Unavailable, Reason: "HTTP 400: validation_exception: this action would add 2 shards"})
	f(item("400", `,"error":"MapperParsingException[no]"`), 1, logs.Refusal{Kind: fleet.Invalid, Reason: `HTTP 400: "MapperParsingException[no]"`})
	f(item("413", ``), 1, logs.Refusal{Kind: fleet.TooLarge, Reason: "HTTP 413"})
	f(item("429", `,"error":{"type":"es_rejected_execution_exception"}`), 1, logs.Refusal{Kind: fleet.TooMany, Reason: "HTTP 429: es_rejected_execution_exception"})
	f(item("403", `,"error":{"type":"cluster_block_exception"}`), 1, logs.Refusal{Kind: fleet.Unavailable, Reason: "HTTP 403: cluster_block_exception"})
	f(item("404", ``), 1, logs.Refusal{Kind: fleet.Unavailable, Reason: "HTTP 404"})
	f(item("503", ``), 1, logs.Refusal{Kind: fleet.Unavailable, Reason: "HTTP 503"})
	f(`{"errors":true,"items":[{"index":{"status":201}},{"index":{"status":503}},{"index":{"status":201}}]}`, 3, logs.Refusal{Index: 1, Kind: fleet.Unavailable, Reason: "HTTP 503"})
	got, _ := parseBulk([]byte(item("400", `,"error":{"reason":"`+strings.Repeat("é", 5000)+`"}`)), 1)
	if len(got) != 1 || len(got[0].Reason) > maxReason {
		t.Errorf("a long reason: %d refusals", len(got))
	}

	bad := func(body string, n int) {
		t.Helper()
		if got, err := parseBulk([]byte(body), n); fleet.KindOf(err) != fleet.External {
			t.Errorf("%q: %v, %v; want an error of kind external", body, got, err)
		}
	}
	bad(`{"errors":false,"error":"bufio.Scanner: token too long","items":[]}`, 5)
	bad(`{"errors":false,"error":{"reason":"no room"},"items":[{"index":{"status":200}}]}`, 1)
	bad("", 1)
	bad("<html>", 1)
	bad("{}", 1)
	bad("null", 1)
	bad("[]", 1)
	bad(`{"items":[{"index":{"status":201}}]}`, 1)
	bad(`{"errors":true,"items":[]}`, 1)
	bad(`{"errors":false,"items":[{"index":{"status":201}}]}`, 2)
	bad(`{"errors":false,"items":[{"index":{"status":201}},{"index":{"status":201}}]}`, 1)
	bad(`{"errors":false,"items":[{"index":{"status":201}},{"index":{"sta`, 2)
	bad(`{"errors":false,"items":[{}]}`, 1)
	bad(`{"errors":false,"items":[{"index":{}}]}`, 1)
	bad(`{"errors":false,"items":[{"index":null}]}`, 1)
	bad(`{"errors":false,"items":[{"index":{"status":201},"create":{"status":201}}]}`, 1)
	bad(`{"errors":false,"items":[{"index":{"status":"201"}}]}`, 1)
	bad(`{"errors":false,"items":[{"index":{"status":100}}]}`, 1)
}

func FuzzParseBulk(f *testing.F) {
	f.Add([]byte(`{"took":1,"errors":true,"items":[{"index":{"status":201}},{"index":{"status":400,"error":{"type":"a","reason":"b"}}}]}`), 2)
	f.Add([]byte(`{"errors":false}`), 1)
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		refused, err := parseBulk(body, n)
		if err != nil {
			if fleet.KindOf(err) != fleet.External || refused != nil {
				t.Errorf("%v, %v", refused, err)
			}
			return
		}
		last := -1
		for _, r := range refused {
			if r.Index <= last || r.Index >= n || r.Kind == fleet.Internal || len(r.Reason) > maxReason {
				t.Errorf("%+v of %d after %d", r, n, last)
			}
			last = r.Index
		}
	})
}

func TestAppendLine(t *testing.T) {
	c, err := New(Options{URL: "http://127.0.0.1:1", IndexPrefix: "logstash-http-"})
	if err != nil {
		t.Fatal(err)
	}
	zone := time.FixedZone("", 5*3600)
	f := func(l logs.SinkLine, want string) {
		t.Helper()
		l.Received = time.Date(2026, 7, 4, 3, 0, 0, 0, zone) // still the third in UTC
		got, ok := c.appendLine([]byte("before\n"), &l)
		if want != "" {
			want = `{"index":{"_index":"logstash-http-2026.07.03","_id":"` + l.ID + "\"}}\n" + want + "\n"
		}
		if ok != (want != "") || string(got) != "before\n"+want {
			t.Errorf("got %v:\n%s\nwant:\n%s", ok, got, want)
		}
		if _, doc, _ := strings.Cut(want, "}}\n"); ok && !json.Valid([]byte(doc)) {
			t.Errorf("no JSON: %s", doc)
		}
	}
	f(logs.SinkLine{ID: "e-7.0", Seq: 7, Device: "dev00001", Doc: []byte(`{"message":"a"}`)},
		`{"message":"a","signalbox":{"device":"dev00001","cursor":"e-7.0","epoch":"e","seq":7,"line":0}}`)
	f(logs.SinkLine{ID: "e-7.3", Seq: 7, N: 3, Doc: []byte(`{"message":"a"}`), Meta: []byte(`{"level":"warn","uptime_ms":5}`)},
		`{"message":"a","signalbox":{"cursor":"e-7.3","epoch":"e","seq":7,"line":3,"level":"warn","uptime_ms":5}}`)
	// A device's own field of our name.
	f(logs.SinkLine{ID: "e-1.0", Seq: 1, Doc: []byte(`{"message":"a","signalbox":{"seq":99}}`)},
		`{"message":"a","signalbox_sent":{"seq":99},"signalbox":{"cursor":"e-1.0","epoch":"e","seq":1,"line":0}}`)
	f(logs.SinkLine{ID: "e-1.0", Seq: 1, Doc: []byte(`{"message":"a","signalbox.device":"dev00002"}`)},
		`{"message":"a","signalbox_sent.device":"dev00002","signalbox":{"cursor":"e-1.0","epoch":"e","seq":1,"line":0}}`)
	f(logs.SinkLine{ID: "e-1.0", Seq: 1, Doc: []byte(`{"message":"b","a":{"signalbox":1},"z":"signalbox"}`)},
		`{"message":"b","a":{"signalbox":1},"z":"signalbox","signalbox":{"cursor":"e-1.0","epoch":"e","seq":1,"line":0}}`)
	for _, doc := range []string{"", "{}", "rubbish", `"text"`, `{"a":1`} {
		f(logs.SinkLine{ID: "e-1.0", Doc: []byte(doc)}, "")
	}
}
