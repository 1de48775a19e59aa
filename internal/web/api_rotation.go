package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

// actor returns who sent a request, for the history of a rotation.
func actor(r *http.Request) string {
	who, _ := access.FromContext(r.Context())
	return cmp.Or(who.Name, who.Email, who.Subject)
}

// rotateDevice queues one device, before all others.
func (s *Server) rotateDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	queued, err := s.rotation.Queue(r.Context(), id, true, true, rotation.Ask{Actor: actor(r), Reason: "asked for"})
	if err != nil {
		return err
	}
	status := "already_pending"
	if queued {
		status = "queued"
	}
	s.write(w, r, http.StatusOK, struct {
		Status string `json:"status"`
	}{status})
	return nil
}

// rotations returns what rotates the fleet.
func (s *Server) rotations() (*rotation.Fleet, error) {
	if s.fleet == nil {
		return nil, fleet.E(fleet.Unavailable, nil, "Nothing is rotated here")
	}
	return s.fleet, nil
}

// rotationStatus is how the rotation of the fleet stands.
type rotationStatus struct {
	Counts    map[fleet.RotationState]int `json:"counts_by_state"`
	Inactive  int                         `json:"inactive"`
	Pending   *int64                      `json:"pending_device_id"`
	Completed *string                     `json:"last_rotation_completed_at"`
	Next      *string                     `json:"next_scheduled_rotation"`
	InFlight  int                         `json:"in_flight"`
	Stuck     int                         `json:"stuck"`
	Schedule  *rotationSchedule           `json:"schedule"`
	OldestAt  *string                     `json:"oldest_secret_at"`
}

type rotationSchedule struct {
	Cron     string  `json:"cron"`
	Timezone string  `json:"timezone"`
	LastAt   *string `json:"last_scheduled_at"`
}

// showRotation answers how the rotation of the fleet, or of what the caller has
// to do with, stands.
func (s *Server) showRotation(w http.ResponseWriter, r *http.Request) error {
	f, err := s.rotations()
	if err != nil {
		return err
	}
	all, err := f.Standings(r.Context())
	if err != nil {
		return err
	}
	schedule, last, err := f.Schedule(r.Context())
	if err != nil {
		return err
	}
	status := rotationStatus{Counts: map[fleet.RotationState]int{fleet.RotationOK: 0, fleet.RotationQueued: 0, fleet.RotationPending: 0, fleet.RotationTimeout: 0}}
	var completed, oldest time.Time
	sc := s.scope(r)
	for i := range all {
		st := &all[i]
		if _, err := sc.device(st.Device); err != nil {
			continue
		}
		status.Counts[st.Wire]++
		if st.Stuck {
			status.Stuck++
		}
		if !st.Active {
			status.Inactive++
		}
		if st.Wire == fleet.RotationPending {
			if !st.Stuck {
				status.InFlight++
			}
			if status.Pending == nil || st.Device < *status.Pending {
				status.Pending = &st.Device
			}
		}
		if st.CompletedAt.After(completed) {
			completed = st.CompletedAt
		}
		if st.Active && !st.Revoked && !st.SecretAt.IsZero() && (oldest.IsZero() || st.SecretAt.Before(oldest)) {
			oldest = st.SecretAt
		}
	}
	status.Completed, status.OldestAt = momentOrNull(completed), momentOrNull(oldest)
	if !schedule.Never() {
		status.Schedule = &rotationSchedule{schedule.Expression(), schedule.Zone(), momentOrNull(last)}
		if next := schedule.Next(time.Now()); !next.IsZero() {
			status.Next = new(next.Format(time.RFC3339))
		}
	}
	s.write(w, r, http.StatusOK, status)
	return nil
}

// triggerRotation queues all devices, or those that the caller has to do with.
func (s *Server) triggerRotation(w http.ResponseWriter, r *http.Request) error {
	f, err := s.rotations()
	if err != nil {
		return err
	}
	if r.ContentLength > s.maxBody { // there is none to be read, and who sends that means something else
		return fleet.E(fleet.TooLarge, nil, "The request body has more than %d bytes", s.maxBody)
	}
	var only []int64
	if sc := s.scope(r); !sc.whole() {
		only = []int64{}
		for _, d := range sc.devices() {
			only = append(only, d.ID)
		}
	}
	n, err := f.Trigger(r.Context(), only, rotation.Ask{Actor: actor(r), Reason: "asked for, with all others"})
	if err != nil {
		return err
	}
	audited(r.Context()).detail("devices", n)
	s.write(w, r, http.StatusOK, struct {
		Queued  int `json:"queued_count"`
		Devices int `json:"devices_queued"` // what the reference's page reads
	}{n, n})
	return nil
}

// stepNames are the words for the steps of an attempt.
var stepNames = [...]string{rotation.Idle: "idle", rotation.Creating: "creating", rotation.Offered: "offered", rotation.Proven: "proven"}

const day = 24 * time.Hour

// The groups of the dashboard, in the order of the answer.
const (
	healthy = iota
	warning
	critical
	inactive
)

// showRotationDashboard answers every device under how well it does. With ten
// thousand devices that is five megabytes, so it is written without detours.
func (s *Server) showRotationDashboard(w http.ResponseWriter, r *http.Request) error {
	f, err := s.rotations()
	if err != nil {
		return err
	}
	all, err := f.Standings(r.Context())
	if err != nil {
		return err
	}
	type row struct {
		*rotation.Standing
		fleet.DeviceRef
		days int
	}
	sc, now := s.scope(r), time.Now()
	var groups [inactive + 1][]row
	for i := range all {
		if d, err := sc.device(all[i].Device); err == nil {
			group, days := s.judge(&all[i], now)
			groups[group] = append(groups[group], row{&all[i], d, days})
		}
	}
	body := make(jsonText, 0, 512*(len(all)+1)) // about what it takes
	for group, name := range [...]string{healthy: "healthy", warning: "warning", critical: "critical", inactive: "inactive"} {
		body.name(name)
		body = append(body, '[')
		slices.SortFunc(groups[group], func(a, b row) int { return cmp.Compare(a.Key, b.Key) })
		for i := range groups[group] {
			if i > 0 {
				body = append(body, ',')
			}
			one := &groups[group][i]
			body.standing(one.Standing, &one.DeviceRef, one.days)
		}
		body = append(body, ']')
	}
	body.name("counts")
	body = fmt.Appendf(body, `{"healthy":%d,"warning":%d,"critical":%d,"inactive":%d}}`,
		len(groups[healthy]), len(groups[warning]), len(groups[critical]), len(groups[inactive]))
	s.sendLarge(w, r, append(body, '\n'))
	return nil
}

// judge returns the group of a device, and the whole days since its last
// rotation; -1: there was none.
func (s *Server) judge(st *rotation.Standing, now time.Time) (group, days int) {
	days = -1
	if !st.CompletedAt.IsZero() {
		days = max(0, int(now.Sub(st.CompletedAt)/day))
	}
	// One that was never rotated has had its secret for as long as that is there,
	// and is not better for it.
	since := st.CompletedAt
	if since.IsZero() {
		since = st.SecretAt
	}
	if since.IsZero() {
		since = st.CreatedAt
	}
	switch {
	case !st.Active:
		return inactive, days
	case st.Wire != fleet.RotationTimeout:
		return healthy, days
	case now.Sub(since) >= time.Duration(s.criticalDays)*day:
		return critical, days
	}
	return warning, days
}

// jsonText is an object in JSON that is being written.
type jsonText []byte

// standing adds what the dashboard shows of a device.
func (b *jsonText) standing(st *rotation.Standing, d *fleet.DeviceRef, days int) {
	*b = append(*b, '{')
	b.number("id", d.ID)
	b.text("key", d.Key)
	b.textOrNull("device_name", d.Name)
	b.text("device_model_code", d.ModelCode)
	b.truth("active", st.Active)
	b.text("rotation_state", string(st.Wire))
	b.moment("last_rotation_completed_at", st.CompletedAt)
	if b.name("days_since_rotation"); days < 0 {
		*b = append(*b, "null"...)
	} else {
		*b = strconv.AppendInt(*b, int64(days), 10)
	}
	b.truth("stuck", st.Stuck)
	b.number("failures", int64(st.Failures))
	b.text("step", stepNames[st.Step])
	b.moment("secret_created_at", st.SecretAt)
	b.moment("last_rotation_attempt_at", st.StartedAt)
	b.moment("deadline", st.Deadline)
	b.moment("retry_at", st.RetryAt)
	b.textOrNull("trouble", st.Trouble)
	if b.name("campaign_id"); st.Campaign == 0 {
		*b = append(*b, "null"...)
	} else {
		*b = strconv.AppendInt(*b, st.Campaign, 10)
	}
	*b = append(*b, '}')
}

// name begins the next member, whose name needs no escapes.
func (b *jsonText) name(name string) {
	switch n := len(*b); {
	case n == 0:
		*b = append(*b, '{')
	case (*b)[n-1] != '{':
		*b = append(*b, ',')
	}
	*b = append(append(append(*b, '"'), name...), '"', ':')
}

func (b *jsonText) number(name string, n int64) {
	b.name(name)
	*b = strconv.AppendInt(*b, n, 10)
}

func (b *jsonText) truth(name string, v bool) {
	b.name(name)
	*b = strconv.AppendBool(*b, v)
}

func (b *jsonText) moment(name string, t time.Time) {
	b.name(name)
	if t.IsZero() {
		*b = append(*b, "null"...)
		return
	}
	*b = append(appendTimestamp(append(*b, '"'), t), '"')
}

// appendTimestamp adds what timestamp returns, four times as fast.
func appendTimestamp(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, date := t.Date()
	hour, minute, second := t.Clock()
	if year < 0 || year > 9999 {
		return append(b, timestamp(t)...)
	}
	digits := func(n, width int) {
		var d [6]byte
		for i := width - 1; i >= 0; i-- {
			d[i] = '0' + byte(n%10)
			n /= 10
		}
		b = append(b, d[:width]...)
	}
	digits(year, 4)
	b = append(b, '-')
	digits(int(month), 2)
	b = append(b, '-')
	digits(date, 2)
	b = append(b, 'T')
	digits(hour, 2)
	b = append(b, ':')
	digits(minute, 2)
	b = append(b, ':')
	digits(second, 2)
	b = append(b, '.')
	digits(t.Nanosecond()/1000, 6)
	return append(b, 'Z')
}

func (b *jsonText) textOrNull(name, text string) {
	if text != "" {
		b.text(name, text)
		return
	}
	b.name(name)
	*b = append(*b, "null"...)
}

func (b *jsonText) text(name, text string) {
	b.name(name)
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			quoted, err := json.Marshal(text)
			if err != nil {
				panic(err) // a text can always be written
			}
			*b = append(*b, quoted...)
			return
		}
	}
	*b = append(append(append(*b, '"'), text...), '"')
}

func numberOrNull(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

// deviceRotation is the story of one device.
type deviceRotation struct {
	State       fleet.RotationState `json:"rotation_state"`
	Step        string              `json:"step"`
	Stuck       bool                `json:"stuck"`
	Trouble     *string             `json:"trouble"`
	Failures    int                 `json:"failures"`
	Attempt     int64               `json:"attempt"`
	StartedAt   *string             `json:"started_at"`
	Deadline    *string             `json:"deadline"`
	FetchedAt   *string             `json:"fetched_at"`
	RetryAt     *string             `json:"retry_at"`
	CompletedAt *string             `json:"completed_at"`
	SecretAt    *string             `json:"secret_created_at"`
	Believed    bool                `json:"believed"`
	Campaign    *int64              `json:"campaign_id"`
	Attempts    []attempt           `json:"attempts"`
}

type attempt struct {
	Number    int64            `json:"number"`
	Actor     *string          `json:"actor"`
	Reason    *string          `json:"reason"`
	Campaign  *int64           `json:"campaign_id"`
	StartedAt string           `json:"started_at"`
	EndedAt   *string          `json:"ended_at"`
	Outcome   rotation.Outcome `json:"outcome"`
	Steps     []attemptStep    `json:"steps"`
}

type attemptStep struct {
	At     string  `json:"at"`
	What   string  `json:"what"`
	Detail *string `json:"detail"`
}

// showDeviceRotation answers where the rotation of a device stands, and what
// became of the last ?limit= attempts.
func (s *Server) showDeviceRotation(w http.ResponseWriter, r *http.Request) error {
	f, err := s.rotations()
	if err != nil {
		return err
	}
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	limit := 20
	if text := r.URL.Query().Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > rotation.KeptAttempts {
			return fleet.E(fleet.Invalid, nil, "limit must be a whole number from 1 to %d", rotation.KeptAttempts)
		}
	}
	rec, attempts, err := f.Story(r.Context(), id, limit)
	if err != nil {
		return err
	}
	st := rec.State
	out := deviceRotation{
		State: cmp.Or(st.Wire, fleet.RotationOK), Step: stepNames[st.Step], Stuck: rec.Stuck, Trouble: textOrNull(rec.Trouble), Failures: st.Failures,
		Attempt: st.Attempt, StartedAt: momentOrNull(st.StartedAt), Deadline: momentOrNull(st.Deadline), FetchedAt: momentOrNull(st.FetchedAt),
		RetryAt: momentOrNull(st.RetryAt), CompletedAt: momentOrNull(st.CompletedAt), SecretAt: momentOrNull(rec.SecretAt), Believed: st.Believed,
		Campaign: numberOrNull(rec.Campaign), Attempts: make([]attempt, len(attempts)),
	}
	for i, a := range attempts {
		steps := make([]attemptStep, len(a.Steps))
		for n, e := range a.Steps {
			steps[n] = attemptStep{timestamp(e.At), e.What, textOrNull(e.Detail)}
		}
		out.Attempts[i] = attempt{
			a.Number, textOrNull(a.Actor), textOrNull(a.Reason), numberOrNull(a.Campaign), timestamp(a.StartedAt), momentOrNull(a.EndedAt), a.Outcome, steps,
		}
	}
	s.writeLarge(w, r, out)
	return nil
}

// abortRotation ends the attempt of a device, or takes it from the queue.
func (s *Server) abortRotation(w http.ResponseWriter, r *http.Request) error {
	return s.changeRotation(w, r, (*rotation.Fleet).Abort, "aborted", "not_rotating")
}

// retryRotation does at once what failed for a device before.
func (s *Server) retryRotation(w http.ResponseWriter, r *http.Request) error {
	return s.changeRotation(w, r, (*rotation.Fleet).Retry, "retried", "nothing_to_retry")
}

func (s *Server) changeRotation(w http.ResponseWriter, r *http.Request, does func(*rotation.Fleet, context.Context, int64) (bool, error), did, not string) error {
	f, err := s.rotations()
	if err != nil {
		return err
	}
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	status := not
	changed, err := does(f, r.Context(), id)
	switch {
	case err != nil:
		return err
	case changed:
		status = did
	}
	audited(r.Context()).detail("status", status)
	s.write(w, r, http.StatusOK, struct {
		Status string `json:"status"`
	}{status})
	return nil
}
