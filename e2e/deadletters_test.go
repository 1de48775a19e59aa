package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"signalbox/internal/elastictest"
)

// deadLetters runs the command against the server.
func (s *server) deadLetters(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), program, append([]string{"dead-letters"}, args...)...)
	cmd.Dir = s.t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SIGNALBOX_SERVER=" + s.url("")}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Lines that Elasticsearch refuses can be looked at, and are given to it again
// when the operator has mended what was wrong.
func TestDeadLetters(t *testing.T) {
	var mended atomic.Bool
	es := &elastictest.Server{Judge: func(i elastictest.Item) (int, string) {
		switch {
		case bytes.Contains(i.Doc, []byte("hopeless")), bytes.Contains(i.Doc, []byte("poison")) && !mended.Load():
			return http.StatusBadRequest, "document_parsing_exception"
		}
		return http.StatusCreated, ""
	}}
	es.Start(t)
	s := start(t, "ELASTICSEARCH_URL="+es.URL())
	d := s.device("kitchen")
	b := s.board(d)
	const letters = 5
	for i := range letters {
		text := "poison"
		if i == 2 {
			text = "hopeless"
		}
		b.send(fmt.Appendf(nil, `{"entity_id":"kitchen","message":"W (12) wifi: %s <%d>","n":%d}`+"\n"+`{"entity_id":"kitchen","message":"good","n":%d}`, text, i, i+1, 100+i))
	}
	eventually(t, "the others are there", func() bool { return es.Len() == letters })
	type answer struct {
		DeadLetters []struct {
			ID, Time, Sink, Reason, Cursor string
			Key                            string `json:"device_key"`
			Entity                         string `json:"device_entity_id"`
			Document                       line
		} `json:"dead_letters"`
		HasMore bool `json:"has_more"`
		Next    *string
	}
	var all answer
	s.want(200, "GET", "/api/dead-letters", nil).into(t, &all)
	if len(all.DeadLetters) != letters || all.HasMore || all.Next != nil {
		t.Fatalf("%+v", all)
	}
	for i, l := range all.DeadLetters {
		if n := letters - i; l.Document.N != n || l.Key != d.Key || l.Entity != "kitchen" || l.Sink != "elasticsearch" || !strings.Contains(l.Reason, "document_parsing_exception") ||
			l.Time == "" || !strings.HasSuffix(l.Cursor, fmt.Sprintf("-%d.0", n)) || !strings.Contains(l.Document.Message, fmt.Sprintf("<%d>", n-1)) {
			t.Errorf("letter %d is %+v", i, l)
		}
	}
	var seen []string
	for cursor, more := "", true; more; {
		var page answer
		s.want(200, "GET", "/api/dead-letters?sink=elasticsearch&order=oldest&limit=2"+cursor, nil).into(t, &page)
		for _, l := range page.DeadLetters {
			seen = append(seen, l.ID)
		}
		if more = page.HasMore; more {
			cursor = "&cursor=" + *page.Next
		}
	}
	if len(seen) != letters || seen[0] != all.DeadLetters[letters-1].ID {
		t.Errorf("pages give %v", seen)
	}
	for _, bad := range []string{"limit=0", "limit=1001", "order=up", "cursor=x", "cursor=0", "sink=A.*"} {
		s.want(400, "GET", "/api/dead-letters?"+bad, nil)
	}
	s.want(404, "POST", "/api/dead-letters/retry?sink=other", nil)
	s.want(404, "DELETE", "/api/dead-letters", nil)

	out, errs, code := s.deadLetters()
	if code != 0 || errs != "" || strings.Count(out, "document_parsing_exception") != letters || strings.Index(out, "<0>") > strings.Index(out, "<4>") {
		t.Errorf("%d %s\n%s", code, errs, out)
	}
	out, _, code = s.deadLetters("list", "-n", "0", "--json")
	for row := range strings.Lines(out) {
		if !json.Valid([]byte(row)) {
			t.Errorf("no JSON: %s", row)
		}
	}
	if code != 0 || strings.Count(out, "\n") != letters {
		t.Errorf("%d\n%s", code, out)
	}

	// A server that is down changes nothing.
	es.Down()
	s.want(503, "POST", "/api/dead-letters/retry?sink=elasticsearch", nil)
	es.Up(t)
	mended.Store(true)
	if out, _, code := s.deadLetters("retry"); code != 1 || out != "4 taken, 1 refused again\n" {
		t.Errorf("%d %s", code, out)
	}
	if es.Len() != 2*letters-1 {
		t.Errorf("%d documents", es.Len())
	}
	if got := copied(t, es, d)[1]; got.Signalbox.Level != "warn" || got.Signalbox.Cursor != all.DeadLetters[letters-1].Cursor {
		t.Errorf("a line that was tried again is %+v", got)
	}
	s.want(200, "GET", "/api/dead-letters", nil).into(t, &all)
	if len(all.DeadLetters) != 1 || all.DeadLetters[0].Document.N != 3 {
		t.Errorf("left are %+v", all.DeadLetters)
	}
	if out, _, code := s.deadLetters("purge"); code != 0 || out != "1 removed\n" {
		t.Errorf("%d %s", code, out)
	}
	s.want(200, "GET", "/api/dead-letters", nil).into(t, &all)
	if len(all.DeadLetters) != 0 {
		t.Errorf("left are %+v", all.DeadLetters)
	}
}

// What Elasticsearch refused is told as a gap by a history that is there, also
// after a restart, until it has been taken after all.
func TestRejectedGap(t *testing.T) {
	var mended atomic.Bool
	es := &elastictest.Server{Judge: func(i elastictest.Item) (int, string) {
		if bytes.Contains(i.Doc, []byte("poison")) && !mended.Load() {
			return http.StatusBadRequest, "document_parsing_exception"
		}
		return http.StatusCreated, ""
	}}
	es.Start(t)
	s := start(t, "ELASTICSEARCH_URL="+es.URL(), "LOGS_HISTORY=elasticsearch")
	d, other := s.device("kitchen"), s.device("hall")
	s.board(d).send([]byte(`{"entity_id":"kitchen","message":"poison","n":1}` + "\n" + `{"entity_id":"kitchen","message":"fine","n":2}` + "\n" + `{"entity_id":"kitchen","message":"poison","n":3}`))
	s.board(other).send([]byte(`{"entity_id":"hall","message":"fine","n":1}`))
	type answer struct {
		Logs []struct{ Message string }
		Gaps []gap
	}
	query := func(d device) (a answer) {
		s.want(200, "GET", fmt.Sprintf("/api/devices/%d/logs", d.ID), nil).into(t, &a)
		return a
	}
	for range 2 {
		eventually(t, "the gap is told", func() bool { return len(query(d).Gaps) == 1 })
		a := query(d)
		if g := a.Gaps[0]; len(a.Logs) != 1 || g.Reason != "rejected" || g.Count == nil || *g.Count != 2 || g.DeviceID != d.ID {
			t.Errorf("%+v", a)
		}
		if a := query(other); len(a.Logs) != 1 || len(a.Gaps) != 0 {
			t.Errorf("the other device: %+v", a)
		}
		eventually(t, "that is stored", func() bool { return s.metric("iot_logsink_queue_depth") == 0 })
		s.terminate()
		if code := s.awaitExit(patience); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		s.launch()
	}
	mended.Store(true)
	if out, _, code := s.deadLetters("retry"); code != 0 || out != "2 taken, 0 refused again\n" {
		t.Errorf("%d %s", code, out)
	}
	eventually(t, "there is no gap", func() bool { a := query(d); return len(a.Logs) == 3 && len(a.Gaps) == 0 })
}
