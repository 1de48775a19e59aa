package tail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox/internal/fleet"
)

func TestCampaignWindow(t *testing.T) {
	f := func(text string, days []int, from, to string) {
		t.Helper()
		w, err := parseCampaignWindow(text)
		if days == nil {
			if fleet.KindOf(err) != fleet.Invalid || err == nil {
				t.Errorf("%q: %+v, %v", text, w, err)
			}
			return
		}
		if err != nil || !slices.Equal(w.Days, days) || w.From != from || w.To != to {
			t.Errorf("%q: %+v, %v", text, w, err)
		}
	}
	f("1-5 22:00-06:00", []int{1, 2, 3, 4, 5}, "22:00", "06:00")
	f("6,7,6-7 00:00-24:00", []int{6, 7}, "00:00", "24:00")
	f(" 22:00-06:00 ", []int{1, 2, 3, 4, 5, 6, 7}, "22:00", "06:00")
	for _, text := range []string{"", "noon", "0-3 1:00-2:00", "5-1 1:00-2:00", "8 1:00-2:00", "x 1:00-2:00", "1 1:00", "1 2 1:00-2:00", "1, 1:00-2:00"} {
		f(text, nil, "", "")
	}
}

// The commands, with a server that answers what the API says.
func TestCampaignCommands(t *testing.T) {
	var asked []string
	shows := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
		campaign := func(state string, done, failed int, ended string) string {
			return fmt.Sprintf(`{"id": 3, "name": "A\u001b[31m", "state": %q, "created_at": "2026-05-04T12:00:00Z", "ended_at": %s, "wave": 1, "waves": [{"number": 1, "size": 2}],
				"counts": {"total": 2, "done": %d, "failed": %d}}`, state, ended, done, failed)
		}
		switch path := strings.TrimPrefix(r.URL.Path, "/api/"); {
		case path == "devices":
			fmt.Fprint(w, `{"devices": [{"id": 7, "key": "aaaaaaaa", "device_name": "Lamp"}]}`)
		case path == "device-models":
			fmt.Fprint(w, `{"device_models": [{"id": 5, "code": "relay"}]}`)
		case strings.HasSuffix(path, "/devices"):
			next := "null"
			if r.URL.Query().Get("after") == "0" {
				next = "4"
			}
			fmt.Fprintf(w, `{"devices": [{"key": "k%s", "wave": 1, "state": "failed", "reason": "timed out"}], "next": %s}`, r.URL.Query().Get("after"), next)
		case strings.Contains(string(body), "dry_run"):
			fmt.Fprint(w, `{"plan": {"devices": 2, "waves": [{"size": 1}, {"size": 1}], "expected_seconds": 90, "expected_end": "2026-05-04T12:00:00Z",
				"at_risk": [{"key": "k", "risks": [{"kind": "flaky", "detail": "x"}]}], "excluded": [{"device_id": 9, "key": "", "reason": "was not found"}]}}`)
		case r.Method == "GET" && path == "rotation/campaigns/3":
			shows++
			switch shows {
			case 1, 2:
				fmt.Fprint(w, campaign("running", 0, 0, "null"))
			case 3:
				w.WriteHeader(503)
				fmt.Fprint(w, `{"error": "not now"}`)
			default:
				fmt.Fprint(w, campaign("done", 1, 1, `"2026-05-04T13:00:00Z"`))
			}
		case path == "rotation/campaigns" && r.Method == "GET":
			fmt.Fprintf(w, `{"campaigns": [%s]}`, campaign("paused", 1, 1, "null"))
		default:
			fmt.Fprint(w, campaign("running", 0, 0, "null"))
		}
	}))
	defer server.Close()
	var out bytes.Buffer
	cfg := CampaignsConfig{Server: server.URL, Out: &out, Poll: time.Millisecond}
	f := func(err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
		for _, text := range want {
			if !strings.Contains(out.String(), text) {
				t.Errorf("no %q in\n%s", text, &out)
			}
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Errorf("the name drives the terminal: %q", &out)
		}
		out.Reset()
	}
	days, share, wait := 9, 0.5, 90*time.Second
	d := CampaignDraft{Name: "x", Devices: []string{"lamp"}, Models: []string{"relay"}, OlderDays: &days, PauseRate: &share, WavePause: &wait, Windows: []string{"1 22:00-06:00"}}
	f(PlanCampaign(t.Context(), cfg, d), "1m30s", "flaky: x", "device 9", "Nothing was started")
	var sent map[string]any
	if err := json.Unmarshal([]byte(strings.SplitN(asked[len(asked)-1], " ", 3)[2]), &sent); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(sent); got != "map[dry_run:true name:x pause_failure_rate:0.5 selection:map[device_ids:[7] model_ids:[5] secret_older_than_days:9] wave_pause_seconds:90 windows:[map[days:[1] from:22:00 to:06:00]]]" {
		t.Errorf("sent %s", got)
	}
	f(StartCampaign(t.Context(), cfg, CampaignDraft{Name: "x", All: true}), "Campaign  3 A", "State     running")
	f(ListCampaigns(t.Context(), cfg), "1/2  paused")
	f(CampaignDevices(t.Context(), cfg, 3, "failed"), "k0", "k4", "timed out")
	f(SteerCampaign(t.Context(), cfg, 3, "pause"), "running")
	if last := asked[len(asked)-1]; last != "POST /api/rotation/campaigns/3/pause {}" {
		t.Error(last)
	}
	if err := ShowCampaign(t.Context(), cfg, 3, true); fleet.KindOf(err) != fleet.External || !strings.Contains(fmt.Sprint(err), "1 devices failed") {
		t.Errorf("followed to its end: %v", err)
	}
	if text := out.String(); strings.Count(text, "wave 1/1") != 1 || !strings.Contains(text, "1 of 2 done") || shows != 4 {
		t.Errorf("%d asked:\n%s", shows, text)
	}
	if err := PlanCampaign(t.Context(), cfg, CampaignDraft{}); fleet.KindOf(err) != fleet.Invalid || err == nil {
		t.Errorf("of nobody: %v", err)
	}
}
