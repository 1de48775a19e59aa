package web

import (
	"net/http"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// maxSeries bounds for how many devices one request gets the minutes.
const maxSeries = 200

// fleetActivity is what a device said of late.
type fleetActivity struct {
	DeviceID   int64     `json:"device_id"`
	Last       *lastLine `json:"last"`
	LinesHour  int       `json:"lines_hour"`
	ErrorsHour int       `json:"errors_hour"`
	Watchers   int       `json:"watchers"`
}

type lastLine struct {
	Timestamp string  `json:"timestamp"`
	Message   string  `json:"message"`
	Level     *string `json:"level"`
	Cursor    string  `json:"cursor"`
}

// showFleet answers what every device said of late, with ?since=TOKEN only of
// those of which that changed since the answer with the token.
func (s *Server) showFleet(w http.ResponseWriter, r *http.Request) error {
	sc, now := s.scope(r), time.Now()
	// One of another scope knows of other devices.
	since, same := strings.CutSuffix(r.URL.Query().Get("since"), sc.mark())
	if !same {
		since = ""
	}
	// The token first: what changes meanwhile is told now and once more.
	changes := s.activity.Changes(since, now)
	var devices []fleet.DeviceRef
	if changes.All {
		devices = sc.devices()
	}
	for _, id := range changes.Devices {
		if d, err := sc.device(id); err == nil {
			devices = append(devices, d)
		}
	}
	keys := make([]string, len(devices))
	for i, d := range devices {
		keys[i] = d.Key
	}
	watchers := s.connections.Watchers()
	list := make([]fleetActivity, len(devices))
	for i, a := range s.activity.Recent(keys, now) {
		id := devices[i].ID
		list[i] = fleetActivity{DeviceID: id, Last: lastOf(a.Last), LinesHour: a.Lines, ErrorsHour: a.Errors, Watchers: watchers[id]}
	}
	s.writeLarge(w, r, struct {
		Now      string          `json:"now"`
		Token    string          `json:"token"`
		Complete bool            `json:"complete"`
		Filled   bool            `json:"filled"`
		Devices  []fleetActivity `json:"devices"`
	}{timestamp(now), changes.Token + sc.mark(), changes.All, changes.Filled, list})
	return nil
}

func lastOf(l logs.LastLine) *lastLine {
	if l.Received.IsZero() {
		return nil
	}
	return &lastLine{timestamp(l.Received), l.Message, textOrNull(l.Level.String()), l.Cursor.String()}
}

// minutes is how much a device said in each of the last minutes.
type minutes struct {
	DeviceID int64                     `json:"device_id"`
	Lines    [logs.ActivityMinutes]int `json:"lines"`
	Errors   [logs.ActivityMinutes]int `json:"errors"`
}

// showSeries answers that of the devices with ?device_ids=1,2.
func (s *Server) showSeries(w http.ResponseWriter, r *http.Request) error {
	devices, err := namedDevices(s.scope(r), r.URL.Query(), maxSeries)
	if err != nil {
		return err
	}
	if len(devices) == 0 {
		return fleet.E(fleet.Invalid, nil, "device_ids is missing")
	}
	now := time.Now()
	list := make([]minutes, len(devices))
	for i, d := range devices {
		list[i].DeviceID = d.ID
		list[i].Lines, list[i].Errors = s.activity.Minutes(d.Key, now)
	}
	s.writeLarge(w, r, struct {
		End    string    `json:"end"`
		Step   int       `json:"step"`
		Series []minutes `json:"series"`
	}{timestamp(now.Truncate(time.Minute).Add(time.Minute)), 60, list})
	return nil
}
