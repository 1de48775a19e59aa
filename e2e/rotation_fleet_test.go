package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/keycloaktest"
	"signalbox/internal/sim"
)

// keycloak returns the settings with which the clients of devices are in a
// stand-in for Keycloak.
func keycloak(t *testing.T) (realm *keycloaktest.Server, settings []string) {
	t.Helper()
	realm = &keycloaktest.Server{}
	realm.Start(t)
	return realm, []string{
		"KEYCLOAK_BASE_URL=" + realm.URL(), "KEYCLOAK_REALM=" + keycloaktest.Realm, "OIDC_TOKEN_URL=" + realm.TokenURL(),
		"KEYCLOAK_ADMIN_CLIENT_ID=" + keycloaktest.AdminID, "KEYCLOAK_ADMIN_CLIENT_SECRET=" + keycloaktest.AdminSecret,
	}
}

// rotationStory is GET /api/devices/{id}/rotation.
type rotationStory struct {
	State    string  `json:"rotation_state"`
	Step     string  `json:"step"`
	Stuck    bool    `json:"stuck"`
	Trouble  *string `json:"trouble"`
	Failures int     `json:"failures"`
	Attempt  int64   `json:"attempt"`
	Done     *string `json:"completed_at"`
	Attempts []struct {
		Number  int64  `json:"number"`
		Outcome string `json:"outcome"`
		Steps   []struct {
			What string `json:"what"`
		} `json:"steps"`
	} `json:"attempts"`
}

func (s *server) rotation(id int64) (r rotationStory) {
	s.t.Helper()
	s.want(http.StatusOK, "GET", fmt.Sprintf("/api/devices/%d/rotation", id), nil).into(s.t, &r)
	return r
}

// timedOut reports whether an attempt did.
func (r rotationStory) timedOut() bool {
	for _, a := range r.Attempts {
		if a.Outcome == "timeout" {
			return true
		}
		for _, s := range a.Steps { // and was done all the same, later
			if s.What == "timed out" {
				return true
			}
		}
	}
	return false
}

// rotationStatus is GET /api/rotation/status.
type rotationStatus struct {
	Counts map[string]int `json:"counts_by_state"`
}

// simulated is a fleet of the program's own.
type simulated struct {
	devices int
	shares  map[string]float64 // of difficult ones, by flag
	sure    int                // of devices that are rotated whatever happens: the easy ones, and those that are only odd
	back    time.Duration      // within which a device can authenticate, whatever it does; 0 is always
}

// rotate has the fleet rotated at once, and returns what became of each device,
// which were all able to authenticate.
func (f simulated) rotate(t *testing.T, s *server) (report sim.Report) {
	t.Helper()
	dir := t.TempDir()
	state, file := filepath.Join(dir, "state.json"), filepath.Join(dir, "report.json")
	args := []string{"sim", "--devices", fmt.Sprint(f.devices), "--login", "token", "--rate", "0.1", "--seed", "11", "--state", state, "--rotate-report", file}
	for flag, share := range f.shares {
		args = append(args, flag, fmt.Sprint(share))
	}
	cmd, _, says := s.client(args...)
	secrets := func() (all map[string]string) {
		text, err := os.ReadFile(state)
		if err == nil {
			err = json.Unmarshal(text, &all)
		}
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return all
	}
	within(t, 2*patience, "all devices are provisioned", func() bool { return len(secrets()) == f.devices })
	first := secrets()

	var queued struct {
		Queued int `json:"queued_count"`
		Same   int `json:"devices_queued"`
	}
	s.want(http.StatusOK, "POST", "/api/rotation/trigger", nil).into(t, &queued)
	if queued.Queued != f.devices || queued.Same != f.devices {
		t.Fatalf("%+v were queued, want %d", queued, f.devices)
	}
	begin := time.Now()
	var status rotationStatus
	within(t, 5*time.Minute, "every attempt is over", func() bool {
		status = rotationStatus{}
		s.want(http.StatusOK, "GET", "/api/rotation/status", nil).into(t, &status)
		return status.Counts["QUEUED"]+status.Counts["PENDING"] == 0 && status.Counts["OK"] >= f.sure
	})
	t.Logf("after %v: %v", time.Since(begin).Round(time.Second), status.Counts)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its error is the exit code
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: %s", err, tailOf(says))
	}
	if err := json.Unmarshal(text, &report); err != nil || len(report.All) != f.devices {
		t.Fatalf("%d devices in the report: %v", len(report.All), err)
	}
	t.Logf("%v", report.ByKind)

	// Asked by ourselves, with what each device has.
	last := secrets()
	tokenURL := s.credentials(report.All[0].DeviceID).TokenURL
	var asking sync.WaitGroup
	next := make(chan sim.BoardReport)
	for range 4 {
		asking.Go(func() {
			for b := range next {
				c := credentials{ClientID: b.ClientID, ClientSecret: last[b.ClientID], TokenURL: tokenURL}
				for deadline := time.Now().Add(f.back); ; time.Sleep(time.Second) {
					_, err := s.token(c)
					if err == nil {
						break
					}
					if !time.Now().Before(deadline) {
						t.Errorf("%s, %s, is locked out: %v", b.Name, b.Kind, err)
						break
					}
				}
				if rotated := last[b.ClientID] != first[b.ClientID]; rotated != (b.Fetched > 0) {
					t.Errorf("%s, %s: that its secret is another one is %v, and it fetched %d", b.Name, b.Kind, rotated, b.Fetched)
				}
			}
		})
	}
	for _, b := range report.All {
		next <- b
	}
	close(next)
	asking.Wait()
	return report
}

// checkEndings checks what the server says of each device against what the device
// says of itself.
func (f simulated) checkEndings(t *testing.T, s *server, report sim.Report) {
	t.Helper()
	shown := s.dashboard()
	for _, b := range report.All {
		r := s.rotation(b.DeviceID)
		group := shown[b.DeviceID]
		switch b.Kind {
		case sim.Easy, sim.OldFirmware, sim.LostResponse: // the last of them may be about to use it for more than the proof
			if b.Fetched != 1 || r.State != "OK" || r.Done == nil || group != "healthy" {
				t.Errorf("%s, %s: %s with %d secrets fetched; the server says %s %+v", b.Name, b.Kind, b.Ending, b.Fetched, group, r)
			}
		case sim.Off, sim.NeverProves:
			if b.Rotations != 0 || r.State != "TIMEOUT" || r.Failures == 0 || r.Done != nil || !r.timedOut() || group != "warning" {
				t.Errorf("%s, %s: %s; the server says %s %+v", b.Name, b.Kind, b.Ending, group, r)
			}
		default: // in time or not
			if r.State == "TIMEOUT" && (r.Failures == 0 || !r.timedOut() || group != "warning") || r.State == "OK" && r.Done == nil {
				t.Errorf("%s, %s: %s; the server says %s %+v", b.Name, b.Kind, b.Ending, group, r)
			}
		}
	}
	for kind, flag := range map[sim.Kind]string{sim.Flaky: "--flaky", sim.Slow: "--slow", sim.OldFirmware: "--old-firmware", sim.LostResponse: "--lost-response", sim.NeverProves: "--never-proves"} {
		n := 0
		for _, count := range report.ByKind[kind] {
			n += count
		}
		if want := int(f.shares[flag]*float64(f.devices) + 0.5); n != want {
			t.Errorf("%d devices were %s, want %d", n, kind, want)
		}
	}
}

// dashboard returns the group that each device is shown in.
func (s *server) dashboard() map[int64]string {
	s.t.Helper()
	var d map[string]json.RawMessage
	s.want(http.StatusOK, "GET", "/api/rotation/dashboard", nil).into(s.t, &d)
	groups := map[int64]string{}
	for _, name := range []string{"healthy", "warning", "critical", "inactive"} {
		var all []struct{ ID int64 }
		if err := json.Unmarshal(d[name], &all); err != nil {
			s.t.Fatal(err)
		}
		for _, x := range all {
			groups[x.ID] = name
		}
	}
	return groups
}

// A fleet of which a fifth makes it difficult is rotated at once, through the
// broker and the token endpoint: nobody is locked out, the devices that cannot or
// will not are told from the others, and do not keep them from it.
func TestFleetRotates(t *testing.T) {
	s := start(t, "MQTT_AUTH=token", "ROTATION_IN_FLIGHT=20", "ROTATION_TIMEOUT_SECONDS=15s", "ROTATION_RETRY_AFTER=2s", "ROTATION_TRIES=2")
	f := simulated{devices: 200, sure: 172, shares: map[string]float64{
		"--offline": 0.04, "--flaky": 0.04, "--slow": 0.03, "--old-firmware": 0.03, "--lost-response": 0.03, "--never-proves": 0.03,
	}}
	report := f.rotate(t, s)
	if n := report.Endings[sim.LockedOut] + report.Endings[sim.Revoked] + report.Endings[sim.Unknown]; n != 0 {
		t.Errorf("%d devices say that they are refused", n)
	}
	f.checkEndings(t, s, report)
}

// The same where Keycloak holds the clients, one secret of each at a time: a
// device that fetched its new secret and does not use it has its old one back when
// the turn of the new one is over.
func TestFleetRotatesInKeycloak(t *testing.T) {
	t.Parallel() // it mostly waits
	realm, settings := keycloak(t)
	s := start(t, append(settings, "MQTT_AUTH=token", "ROTATION_IN_FLIGHT=20", "ROTATION_TIMEOUT_SECONDS=15s", "ROTATION_TRIES=1", "ROTATION_TURN=1m")...)
	f := simulated{devices: 40, sure: 32, back: 150 * time.Second, shares: map[string]float64{
		"--offline": 0.05, "--flaky": 0.05, "--slow": 0.05, "--old-firmware": 0.05, "--lost-response": 0.05, "--never-proves": 0.05,
	}}
	report := f.rotate(t, s)
	f.checkEndings(t, s, report)
	if n := len(realm.Clients("iotdevice-")); n != f.devices {
		t.Errorf("%d clients, want %d", n, f.devices)
	}
}
