package elastic_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"signalbox/internal/elastic"
	"signalbox/internal/logs"
	"signalbox/internal/porttest"
)

const (
	victoriaLogs    = "v1.47.1-0.20260225221819-a408207c2242"
	victoriaMetrics = "v1.136.1-0.20260225205418-cd2026e4308c" // what it replaces its own requirement with
)

// victoria returns the path of VictoriaLogs. It replaces a dependency, which "go
// install" does not allow, so it is built in a module of its own.
func victoria(t *testing.T) string {
	const module = "github.com/VictoriaMetrics/"
	return built(t, "victoria-logs-"+victoriaLogs, func(dir string, run func(...string) ([]byte, error)) (string, error) {
		text := "module build\n\ngo 1.26.0\n\nrequire " + module + "VictoriaLogs " + victoriaLogs + "\n\n" +
			"replace " + module + "VictoriaMetrics => " + module + "VictoriaMetrics " + victoriaMetrics + "\n"
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o600); err != nil {
			return "", err
		}
		_, err := run("mod", "download", module+"VictoriaLogs")
		return module + "VictoriaLogs/app/victoria-logs", err
	})
}

// A real server that speaks the bulk protocol below a path of its own.
func TestVictoriaLogs(t *testing.T) {
	program := victoria(t)
	address := porttest.Free(t)
	start(t, exec.Command(program, "-httpListenAddr="+address, "-storageDataPath="+t.TempDir(), "-retentionPeriod=100y"))

	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	get := func(path string, query url.Values) (string, error) {
		a, err := client.Get("http://" + address + path + "?" + query.Encode())
		if err != nil {
			return "", err
		}
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		if err == nil && a.StatusCode != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %s", a.StatusCode, text)
		}
		return string(text), err
	}
	await(t, func() error { _, err := get("/health", nil); return err })

	c, _ := newClient(t, elastic.Options{URL: "http://" + address + "/insert/elasticsearch?_msg_field=message&_time_field=@timestamp&_stream_fields=entity_id"})
	const n = 2500
	now := time.Now().UTC().Truncate(time.Microsecond)
	for from := 0; from < n; from += 1000 {
		var lines []logs.SinkLine
		for i := from; i < min(n, from+1000); i++ {
			at := now.Add(time.Duration(i) * time.Microsecond)
			lines = append(lines, logs.SinkLine{
				ID: fmt.Sprintf("e-%d.0", i), Seq: uint64(i), Device: "dev00001", Received: at, Meta: []byte(`{"level":"warn"}`),
				Doc: fmt.Appendf(nil, `{"@timestamp":%q,"message":"line %d \"é\" ]}","entity_id":"kitchen","n":%d}`, at.Format(logs.TimeLayout), i, i),
			})
		}
		if refused, err := c.Write(t.Context(), lines); err != nil || refused != nil {
			t.Fatal(refused, err)
		}
	}
	seen := map[string]bool{}
	for deadline := time.Now().Add(30 * time.Second); len(seen) < n && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		text, err := get("/select/logsql/query", url.Values{"query": {`entity_id:kitchen`}, "limit": {strconv.Itoa(2 * n)}})
		if err != nil {
			t.Fatal(err)
		}
		clear(seen)
		for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
			var got map[string]string
			if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			i, _ := strconv.Atoi(got["n"])
			want := map[string]string{
				"_msg": fmt.Sprintf(`line %d "é" ]}`, i), "signalbox.cursor": fmt.Sprintf("e-%d.0", i), "signalbox.device": "dev00001", "signalbox.level": "warn",
			}
			for field, text := range want {
				if got[field] != text {
					t.Fatalf("%s is %q, want %q", field, got[field], text)
				}
			}
			if at, err := time.Parse(time.RFC3339Nano, got["_time"]); err != nil || !at.Equal(now.Add(time.Duration(i)*time.Microsecond)) {
				t.Fatalf("line %d is at %s", i, got["_time"])
			}
			if seen[got["n"]] {
				t.Fatalf("line %d is there twice", i)
			}
			seen[got["n"]] = true
		}
	}
	if len(seen) != n {
		t.Errorf("%d lines arrived of %d", len(seen), n)
	}
}
