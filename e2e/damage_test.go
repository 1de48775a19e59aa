package e2e_test

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/json"
	"net/http"
	"path/filepath"
	"testing"
)

// Lines that were damaged on the disk are a gap in an export, once however many
// pages it takes, and on the stream of a reader that comes back for them.
func TestDamagedHistory(t *testing.T) {
	s := start(t, "HISTORY_SEAL_AGE=1s", "JOURNAL_MAX_BYTES=64KiB", "JOURNAL_DISK_BYTES=1GiB")
	hurt, other := s.device("hurt"), s.device("other")
	r := s.follow("r", hurt, other)
	a, b := s.board(hurt), s.board(other)
	a.say(1)
	b.say(1)
	r.waitFor(hurt, 1)
	r.waitFor(other, 1)
	r.stop()
	for range 60 { // 6000 lines, which are two pages of an export
		a.say(20)
		b.say(80)
	}
	eventually(t, "everything is sealed", func() bool { return s.metric("iot_history_unsealed_bytes") == 0 })
	eventually(t, "the journal has given up most", func() bool { return s.metric("iot_logsink_journal_bytes") < 128<<10 })

	db, err := sql.Open("sqlite", filepath.Join(s.settings["DATA_DIR"], "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var lost, chunks int
	if err := db.QueryRow("SELECT sum(lines), count(*) FROM log_chunks WHERE device = ?", hurt.Key).Scan(&lost, &chunks); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("UPDATE log_data SET data = x'00' || substr(data, 2) WHERE chunk IN (SELECT id FROM log_chunks WHERE device = ?)", hurt.Key); err != nil {
		t.Fatal(err)
	}

	q, err := http.NewRequestWithContext(t.Context(), "GET", s.url("/api/logs?start=2000-01-01"), nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Accept", "application/x-ndjson")
	exported, err := s.do(q)
	if err != nil || exported.status != http.StatusOK {
		t.Fatalf("export: %d %s %v", exported.status, exported.body, err)
	}
	lines, gaps, missing := 0, 0, 0
	for rows := bufio.NewScanner(bytes.NewReader(exported.body)); rows.Scan(); {
		var row struct{ Gap *gap }
		if err := json.Unmarshal(rows.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		if row.Gap == nil {
			lines++
			continue
		}
		gaps++
		if row.Gap.Reason != "damaged" || row.Gap.DeviceID != hurt.ID || row.Gap.Count == nil {
			t.Fatalf("a gap says %+v", row.Gap)
		}
		missing += *row.Gap.Count
	}
	if gaps != chunks || missing != lost || lines != a.said+b.said-lost {
		t.Errorf("%d lines and %d gaps of %d lines, want %d, %d and %d", lines, gaps, missing, a.said+b.said-lost, chunks, lost)
	}
	if n := s.metric("iot_history_chunks_damaged_total"); int(n) != chunks {
		t.Errorf("%v of %d damaged chunks were counted", n, chunks)
	}

	back := s.newReader("r", hurt, other)
	back.lastID = r.last()
	back.start()
	back.waitFor(other, b.said)
	a.say(1)
	back.waitFor(hurt, a.said)
	back.mu.Lock()
	defer back.mu.Unlock()
	told := 0
	for _, g := range back.gaps[hurt.ID] {
		if g.Reason != "damaged" || g.Count == nil {
			t.Errorf("a reader's gap says %+v", g)
			continue
		}
		told += *g.Count
	}
	if got := len(back.lines[hurt.ID]); told == 0 || got+told != a.said-1 || len(back.gaps[other.ID]) != 0 {
		t.Errorf("a reader got %d lines and was told that %d are missing, of %d; of the other device %+v", got, told, a.said-1, back.gaps[other.ID])
	}
}
