package e2e_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// filesWith returns the files below the data directory, and the log, that hold
// the text.
func (s *server) filesWith(text string) (found []string) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Dir(s.log), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(text)) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// A secret that a device logs reaches neither a reader nor the disk.
func TestRedaction(t *testing.T) {
	const token, pin, field, broken = "Zm9vYmFyLXNlY3JldC0x", "90817263", "hunter2hunter2", "broken0broken0"
	s := start(t, `LOG_REDACT_PATTERNS=["pin is ([0-9]+)"]`)
	d := s.device("lamp")
	r := s.follow("r", d)
	b := s.board(d)
	b.send([]byte(`{"entity_id":"lamp","n":1,"message":"GET /x, Authorization: Bearer ` + token + ` sent","extra":{"wifi_password":"` + field + `"}}
{"entity_id":"lamp","n":2,"message":"the pin is ` + pin + ` today"}
{"entity_id":"stranger","message":"psk=` + field + `"}
not JSON, password: ` + broken))
	b.send([]byte("not JSON, password: " + broken))
	r.waitFor(d, 2)
	r.mu.Lock()
	var texts []string
	for _, l := range r.lines[d.ID] {
		texts = append(texts, l.Message)
	}
	r.mu.Unlock()
	if want := "GET /x, Authorization: Bearer [redacted] sent|the pin is [redacted] today"; strings.Join(texts, "|") != want {
		t.Errorf("the reader got %q", texts)
	}
	for _, rule := range []string{"bearer", "field", "password", "own"} {
		if n := s.metric(`iot_logsink_redactions_total{rule="` + rule + `"}`); n != 1 {
			t.Errorf("%v secrets were counted for %s", n, rule)
		}
	}

	s.terminate() // so that all is on the disk
	if code := s.awaitExit(patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, secret := range []string{token, pin, field, broken} {
		if found := s.filesWith(secret); len(found) > 0 {
			t.Errorf("%s is in %v", secret, found)
		}
	}
	if len(s.filesWith("[redacted] sent")) == 0 || len(s.filesWith("not JSON")) == 0 {
		t.Error("what was said besides is in no file: the search finds nothing")
	}
}
