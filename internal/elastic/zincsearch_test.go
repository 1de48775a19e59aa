package elastic_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox/internal/elastic"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/porttest"
)

const zincSearch = "v0.4.10"

// zinc returns the path of ZincSearch. Its own main imports a profiler that does not
// compile any more, and its module lacks the web page that it embeds; so a copy
// gets a smaller main, and an empty page.
func zinc(t *testing.T) string {
	const module = "github.com/zincsearch/zincsearch"
	return built(t, "zincsearch-"+zincSearch, func(dir string, run func(...string) ([]byte, error)) (string, error) {
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module build\n"), 0o600); err != nil {
			return "", err
		}
		out, err := run("mod", "download", "-json", module+"@"+zincSearch)
		if err != nil {
			return "", err
		}
		var had struct{ Dir string }
		if err := json.Unmarshal(out, &had); err != nil {
			return "", err
		}
		for _, part := range []string{"go.mod", "go.sum", "embed.go"} {
			text, err := os.ReadFile(filepath.Join(had.Dir, part))
			if err != nil {
				return "", err
			}
			if err := os.WriteFile(filepath.Join(dir, part), text, 0o600); err != nil {
				return "", err
			}
		}
		for _, part := range []string{"pkg", "docs"} {
			if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(had.Dir, part))); err != nil {
				return "", err
			}
		}
		for name, text := range map[string]string{"web/dist/index.html": "", "cmd/server/main.go": zincMain} {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return "", err
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				return "", err
			}
		}
		return "./cmd/server", nil
	})
}

const zincMain = `package main

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/zincsearch/zincsearch/pkg/config"
	"github.com/zincsearch/zincsearch/pkg/routes"
)

func main() {
	server := gin.New()
	routes.Setup(server)
	panic(http.ListenAndServe(config.Global.ServerAddress+":"+config.Global.ServerPort, server))
}
`

// A real server that knows users, and answers the bulk and search protocols below
// a path of its own.
func TestZincSearch(t *testing.T) {
	program := zinc(t)
	address := porttest.Free(t)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "GIN_MODE=release", "ZINC_DATA_PATH=" + cmd.Dir, "ZINC_SERVER_ADDRESS=" + host, "ZINC_SERVER_PORT=" + port,
		"ZINC_FIRST_ADMIN_USER=ann", "ZINC_FIRST_ADMIN_PASSWORD=sesame", "ZINC_TELEMETRY=false", "ZINC_SENTRY=false"}
	start(t, cmd)
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	ask := func(method, path, body string, said any) error {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.SetBasicAuth("ann", "sesame")
		a, err := client.Do(req)
		if err != nil {
			return err
		}
		defer a.Body.Close()
		if a.StatusCode != http.StatusOK {
			return fmt.Errorf("HTTP %d", a.StatusCode)
		}
		return json.NewDecoder(a.Body).Decode(said)
	}
	await(t, func() error { return ask("GET", "/healthz", "", &struct{}{}) })

	at := time.Now().UTC().Truncate(time.Millisecond)
	lines := make([]logs.SinkLine, 50)
	for i := range lines {
		lines[i] = logs.SinkLine{
			ID: fmt.Sprintf("e-%d.0", i), Seq: uint64(i), Device: "dev00001", Received: at, Meta: []byte(`{"level":"warn"}`),
			Doc: fmt.Appendf(nil, `{"@timestamp":%q,"message":"line number%d \"é\" ]}","entity_id":"kitchen","n":%d}`, at.Format(logs.TimeLayout), i, i),
		}
	}

	// Wrong credentials are not the document's fault: it waits.
	stranger, _ := newClient(t, elastic.Options{URL: "http://" + address + "/es", Username: "ann", Password: "wrong"})
	if refused, err := stranger.Write(t.Context(), lines); fleet.KindOf(err) != fleet.External || refused != nil {
		t.Errorf("with a wrong password: refused %v, %v", refused, err)
	}

	c, _ := newClient(t, elastic.Options{URL: "http://" + address + "/es", Username: "ann", Password: "sesame"})
	for range 2 { // the second time is a retry whose first answer was lost
		if refused, err := c.Write(t.Context(), lines); err != nil || refused != nil {
			t.Fatal(refused, err)
		}
	}
	index := "logstash-http-" + at.Format("2006.01.02")
	var found struct {
		Hits struct {
			Total struct{ Value int } `json:"total"`
			Hits  []struct {
				ID     string         `json:"_id"`
				Source map[string]any `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	search := func(query string) error { return ask("POST", "/es/"+index+"/_search", query, &found) }
	await(t, func() error { // it indexes a moment later
		err := search(`{"query":{"match_all":{}},"size":200}`)
		if n := len(found.Hits.Hits); err == nil && n < len(lines) {
			err = fmt.Errorf("%d documents", n)
		}
		return err
	})
	seen := map[string]bool{}
	for _, h := range found.Hits.Hits {
		if seen[h.ID] {
			t.Errorf("%s is there twice", h.ID)
		}
		seen[h.ID] = true
	}
	if len(seen) != len(lines) {
		t.Errorf("%d documents of %d lines", len(seen), len(lines))
	}
	if err := search(`{"query":{"match":{"message":"number7"}}}`); err != nil || len(found.Hits.Hits) != 1 {
		t.Fatalf("%d documents have the word, %v", len(found.Hits.Hits), err)
	}
	if h := found.Hits.Hits[0]; h.ID != "e-7.0" || h.Source["message"] != `line number7 "é" ]}` || h.Source["entity_id"] != "kitchen" {
		t.Errorf("found %s %v", h.ID, h.Source)
	}
}
