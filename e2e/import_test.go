package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox/internal/elastictest"
)

// importer returns the command that imports into the server's history.
func (s *server) importer(es *elastictest.Server, args ...string) (cmd *exec.Cmd, out, errs *bytes.Buffer) {
	s.t.Helper()
	cmd = exec.Command(program, append([]string{"import", "--elasticsearch", es.URL()}, args...)...)
	cmd.Dir = filepath.Dir(s.log)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATA_DIR=" + s.settings["DATA_DIR"], "DATABASE_URL=" + s.settings["DATABASE_URL"]}
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, errs
	return cmd, out, errs
}

// stored is a line as a page of the history has it.
type stored struct {
	Timestamp, Message, Cursor string
}

// pages reads the whole history of a device, page by page, by cursors.
func (s *server) pages(d device, limit int) (all []stored) {
	s.t.Helper()
	for query := "start=2000-01-01"; ; {
		var page struct {
			Logs       []stored
			HasMore    bool   `json:"has_more"`
			LastCursor string `json:"last_cursor"`
		}
		s.want(200, "GET", fmt.Sprintf("/api/devices/%d/logs?limit=%d&%s", d.ID, limit, query), nil).into(s.t, &page)
		all = append(all, page.Logs...)
		if !page.HasMore {
			return all
		}
		query = "after=" + page.LastCursor
	}
}

// An import that is killed again and again, beside a server that takes lines,
// stores every line of a known device once, in order, before all lines of the
// server's own.
func TestImport(t *testing.T) {
	es := &elastictest.Server{Pause: 100 * time.Millisecond}
	es.Start(t)
	s := start(t, "ELASTICSEARCH_URL="+es.URL(), "HISTORY_SEAL_AGE=1s")
	devices := []device{s.device("kitchen"), s.device("hall"), s.device("attic")}
	const documents = 20_000
	begin := time.Now().UTC().Add(-48 * time.Hour).Truncate(time.Millisecond)
	type document struct{ stamp, id, message string }
	want := map[string][]document{}
	ids := rand.Perm(documents) // they break ties
	for i := range documents {
		entity := []string{"kitchen", "hall", "attic", "nobody"}[i%4]
		at := begin.Add(time.Duration(i/40)*time.Millisecond + time.Duration(i/20%2)*7*time.Microsecond)
		message := fmt.Sprintf("W (%d) wifi: old line %d", i, i)
		doc, err := json.Marshal(map[string]any{"@timestamp": at.Format("2006-01-02T15:04:05.000000+00:00"), "entity_id": entity, "message": message, "heap": i})
		if err != nil {
			t.Fatal(err)
		}
		es.Store(elastictest.Item{Index: "logstash-http-" + at.Format("2006.01.02"), ID: fmt.Sprintf("%06d", ids[i]), Doc: doc})
		want[entity] = append(want[entity], document{at.Format("2006-01-02T15:04:05.000000Z"), fmt.Sprintf("%06d", ids[i]), message})
	}
	for _, all := range want {
		slices.SortFunc(all, func(a, b document) int { return strings.Compare(a.stamp+a.id, b.stamp+b.id) })
	}

	cmd, out, errs := s.importer(es, "--dry-run")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	if text := out.String(); !strings.Contains(text, "20000 documents read, 15000 lines to import\n") || !strings.Contains(text, `5000  "kitchen"`) || !strings.Contains(text, `5000  "nobody"`) {
		t.Errorf("dry run:\n%s", text)
	}
	if n := len(s.pages(devices[0], 1000)); n != 0 {
		t.Errorf("a dry run stored %d lines", n)
	}

	// Slower than an import on a busy machine, which ends where the index does.
	var talkers []*talker
	for i, d := range devices {
		talkers = append(talkers, s.talk(d, 50*time.Millisecond, 1+i, false))
	}
	kills := 0
	for code := -1; code != 0; kills++ {
		cmd, out, errs = s.importer(es)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if process := cmd.Process; kills < 8 {
			time.AfterFunc(200*time.Millisecond+rand.N(1800*time.Millisecond), func() { _ = process.Kill() }) // it may have ended
		}
		_ = cmd.Wait() // its code is looked at
		if code = cmd.ProcessState.ExitCode(); code > 0 {
			t.Fatalf("exit code %d\n%s", code, errs)
		}
	}
	t.Logf("%d lives, %s", kills, out)
	if kills < 2 {
		t.Errorf("%d lives", kills)
	}
	if text := out.String(); !strings.Contains(text, " 15000 lines imported\n") || !strings.Contains(text, `5000  "nobody"`) || strings.Contains(text, `"kitchen"`) {
		t.Errorf("%s", text)
	}
	for _, k := range talkers {
		k.stop()
	}
	check := func() {
		t.Helper()
		for i, d := range devices {
			acked, _, _ := talkers[i].state()
			lines := s.pages(d, 997)
			old := want[d.Entity]
			if len(lines) < len(old)+acked {
				t.Fatalf("%s: %d lines, want %d old ones and %d", d.Entity, len(lines), len(old), acked)
			}
			seen := map[string]bool{}
			for n, l := range lines {
				if seen[l.Cursor] {
					t.Fatalf("%s: %s is there twice", d.Entity, l.Cursor)
				}
				seen[l.Cursor] = true
				isOld := strings.Contains(l.Message, "old line")
				if n < len(old) && (l.Timestamp != old[n].stamp || l.Message != old[n].message) || n >= len(old) && isOld {
					t.Fatalf("%s: line %d is %+v", d.Entity, n, l)
				}
			}
			// And back from the end.
			var page struct{ Logs []stored }
			s.want(200, "GET", fmt.Sprintf("/api/devices/%d/logs?limit=10&before=%s", d.ID, lines[100].Cursor), nil).into(t, &page)
			if !slices.Equal(page.Logs, lines[90:100]) {
				t.Errorf("%s: before line 100 stand %+v", d.Entity, page.Logs)
			}
		}
	}
	check()
	// Again: nothing but what came through the server is new, and that it has.
	eventually(t, "everything is copied", func() bool { return s.metric("iot_logsink_queue_depth") == 0 })
	cmd, out, errs = s.importer(es)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	if text := out.String(); !strings.Contains(text, " 15000 lines imported\n") || !strings.Contains(text, "came through Signalbox itself") {
		t.Errorf("again:\n%s", text)
	}
	check()
	eventually(t, "everything is sealed", func() bool { return s.metric("iot_history_unsealed_bytes") == 0 })
	s.kill()
	s.launch()
	check()

	// With other bounds it would have every line again.
	cmd, _, errs = s.importer(es, "--until", "2100-01-01")
	_ = cmd.Run() // its code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(errs.String(), "no --since and no --until") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	check()

	// Interrupted, it says so, and how to go on.
	cmd, _, errs = s.importer(es, "--index", "logstash-http-20*")
	before := es.Searches()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "some pages were asked for", func() bool { return es.Searches() >= before+3 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(errs.String(), "the same command goes on there") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	es.Down()
	cmd, _, errs = s.importer(es)
	_ = cmd.Run() // its code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(errs.String(), "Connection failed") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}
