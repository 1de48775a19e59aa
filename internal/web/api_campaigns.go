package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

// Bounds of a campaign's body.
const (
	maxSelected   = 100_000 // device ids
	maxSelectors  = 1000    // models, tags
	shownIDs      = 1000    // device ids of a wave, and of a selection that is shown again
	maxWindows    = 50
	maxCampaigns  = 100
	maxPauseSec   = 7 * 24 * 3600
	maxDeferHours = 24 * 366
)

// campaignOptions is the body of a new campaign, with what it left out, as it is
// kept and shown.
type campaignOptions struct {
	Name         string             `json:"name"`
	Reason       *string            `json:"reason"`
	Selection    rotation.Selection `json:"selection"`
	SelectedIDs  int                `json:"device_ids_count,omitempty"` // when there are more than are kept
	Canary       canaryOptions      `json:"canary"`
	WaveSize     int                `json:"wave_size"`
	InFlight     int                `json:"in_flight"`
	PauseRate    float64            `json:"pause_failure_rate"`
	PauseMin     int                `json:"pause_min_devices"`
	WavePause    int                `json:"wave_pause_seconds"`
	Windows      []windowOptions    `json:"windows"`
	Timezone     string             `json:"timezone"`
	DeferOffline bool               `json:"defer_offline"`
	DeferHours   int                `json:"defer_hours"`
}

type canaryOptions struct {
	Count int `json:"count"`
}

type windowOptions struct {
	Days []int64 `json:"days"`
	From string  `json:"from"`
	To   string  `json:"to"`
}

// campaignBody reads the body of a new campaign.
func (s *Server) campaignBody(w http.ResponseWriter, r *http.Request) (d rotation.CampaignDraft, dry bool, err error) {
	f, err := s.form(w, r)
	if err != nil {
		return d, false, err
	}
	o := campaignOptions{Windows: []windowOptions{}}
	o.Name = f.text("name", rule{least: 1, most: 100, check: printable})
	o.Reason = f.textOrNull("reason", rule{most: 1000, check: printable})
	if v, ok := f.value("selection"); ok {
		f.object([]any{"selection"}, v, func(f *form) { selection(f, &o.Selection) })
	}
	o.Canary.Count = 1
	if v := f.optional("canary"); v != nil {
		f.object([]any{"canary"}, v, func(f *form) { o.Canary.Count = f.within("count", nil, 0, maxSelected) })
	}
	o.WaveSize = f.within("wave_size", new(0), 0, maxSelected)
	o.InFlight = f.within("in_flight", new(1), 1, 1000)
	o.PauseRate = f.share("pause_failure_rate", 0.2)
	o.PauseMin = f.within("pause_min_devices", new(5), 1, maxSelected)
	o.WavePause = f.within("wave_pause_seconds", new(0), 0, maxPauseSec)
	o.Timezone = "UTC"
	if zone := f.textOrNull("timezone", rule{least: 1, most: 100, check: timezone}); zone != nil {
		o.Timezone = *zone
	}
	windows := rotation.Windows{Zone: o.Timezone}
	if v := f.optional("windows"); v != nil {
		list, ok := v.([]any)
		switch {
		case !ok:
			f.fault("list_type", []any{"windows"}, "Input should be a valid list", v)
		case len(list) > maxWindows:
			f.fault("too_long", []any{"windows"}, fmt.Sprintf("List should have at most %d items", maxWindows), nil)
		default:
			for i, v := range list {
				f.object([]any{"windows", i}, v, func(f *form) {
					opts, window := readWindow(f)
					o.Windows, windows.List = append(o.Windows, opts), append(windows.List, window)
				})
			}
		}
	}
	o.DeferOffline = true
	if f.optional("defer_offline") != nil {
		o.DeferOffline = f.boolean("defer_offline")
	}
	o.DeferHours = f.within("defer_hours", new(72), 1, maxDeferHours)
	if f.optional("dry_run") != nil {
		dry = f.boolean("dry_run")
	}
	f.forbidExtra()
	if err := f.err(); err != nil {
		return d, false, err
	}
	d = rotation.CampaignDraft{
		Name: o.Name, Actor: actor(r), Selection: o.Selection, Canaries: o.Canary.Count, WaveSize: o.WaveSize,
		Rules: rotation.CampaignRules{
			InFlight: o.InFlight, WavePause: time.Duration(o.WavePause) * time.Second, PauseRate: o.PauseRate, PauseMin: o.PauseMin, Windows: windows,
			Defer: o.DeferOffline, DeferFor: time.Duration(o.DeferHours) * time.Hour, Inactive: o.Selection.IncludeInactive,
		},
	}
	if o.Reason != nil {
		d.Reason = *o.Reason
	}
	if n := len(o.Selection.DeviceIDs); n > shownIDs {
		o.Selection.DeviceIDs, o.SelectedIDs = o.Selection.DeviceIDs[:shownIDs], n
	}
	if d.Options, err = json.Marshal(o); err != nil {
		return d, false, err
	}
	return d, dry, nil
}

// printable is the rule of texts that are shown in one line.
func printable(text string) error {
	if strings.TrimSpace(text) == "" && text != "" || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return errors.New("must have something to read in it, and no control characters")
	}
	return nil
}

func timezone(name string) error {
	if name == "Local" { // that of the server, which nobody knows
		return errors.New("not a time zone such as Europe/Berlin")
	}
	if _, err := time.LoadLocation(name); err != nil {
		return errors.New("not a time zone such as Europe/Berlin")
	}
	return nil
}

func selection(f *form, s *rotation.Selection) {
	if f.optional("all") != nil {
		s.All = f.boolean("all")
	}
	if f.optional("device_ids") != nil {
		s.DeviceIDs = f.integers("device_ids", maxSelected)
	}
	if f.optional("model_ids") != nil {
		s.ModelIDs = f.integers("model_ids", maxSelectors)
	}
	s.Tags = f.texts("tags", maxSelectors, nil)
	s.States = f.texts("states", 4, []string{"OK", "QUEUED", "PENDING", "TIMEOUT"})
	if f.optional("secret_older_than_days") != nil {
		s.SecretOlderDays = new(f.within("secret_older_than_days", nil, 0, 36500))
	}
	if f.optional("include_inactive") != nil {
		s.IncludeInactive = f.boolean("include_inactive")
	}
	if s.Empty() && len(f.faults) == 0 {
		f.fault("value_error", nil, "Value error, select something: all, device_ids, model_ids, tags, secret_older_than_days or states", f.fields)
	}
}

func readWindow(f *form) (o windowOptions, w rotation.Window) {
	o.Days = f.integers("days", 7)
	if len(o.Days) == 0 && f.has("days") && len(f.faults) == 0 {
		f.fault("too_short", []any{"days"}, "List should have at least 1 item", f.fields["days"])
	}
	for i, d := range o.Days {
		if d < 1 || d > 7 {
			f.fault("value_error", []any{"days", i}, "Value error, days are 1 for Monday to 7 for Sunday", d)
			continue
		}
		w.Days = append(w.Days, int(d))
	}
	clock := func(name string) (text string, minute int) {
		text = f.text(name, rule{check: func(text string) (err error) { minute, err = minuteOf(text); return err }})
		return text, minute
	}
	o.From, w.From = clock("from")
	o.To, w.To = clock("to")
	return o, w
}

// minuteOf reads a time of day; 24:00 is the end of it.
func minuteOf(text string) (int, error) {
	if text == "24:00" {
		return 0, nil // of the next day
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != 5 {
		return 0, errors.New("not a time such as 22:30")
	}
	return t.Hour()*60 + t.Minute(), nil
}

// optional returns a field that may be missing or null.
func (f *form) optional(name string) any {
	f.read[name] = true
	return f.fields[name]
}

// object reads a value that must be an object, whose faults are told as at loc.
func (f *form) object(loc []any, v any, read func(*form)) {
	fields, ok := v.(map[string]any)
	if !ok {
		f.fault("dict_type", loc, "Input should be a valid dictionary", v)
		return
	}
	inner := &form{fields: fields, read: map[string]bool{}}
	read(inner)
	inner.forbidExtra()
	for _, fault := range inner.faults {
		fault.Loc = slices.Concat(loc, fault.Loc)
		f.faults = append(f.faults, fault)
	}
}

// within returns a whole number between bounds; absent may be nil for one that must be there.
func (f *form) within(name string, absent *int, least, most int) int {
	if absent != nil && f.optional(name) == nil {
		return *absent
	}
	before := len(f.faults)
	n := f.integer(name)
	if len(f.faults) > before {
		return least
	}
	switch {
	case n < int64(least):
		f.fault("greater_than_equal", []any{name}, fmt.Sprintf("Input should be greater than or equal to %d", least), f.fields[name])
		return least
	case n > int64(most):
		f.fault("less_than_equal", []any{name}, fmt.Sprintf("Input should be less than or equal to %d", most), f.fields[name])
		return least
	}
	return int(n)
}

// share returns a number from 0 to 1.
func (f *form) share(name string, absent float64) float64 {
	v := f.optional(name)
	if v == nil {
		return absent
	}
	number, ok := v.(json.Number)
	x, err := number.Float64()
	switch {
	case !ok || err != nil:
		f.fault("float_type", []any{name}, "Input should be a valid number", v)
	case x < 0:
		f.fault("greater_than_equal", []any{name}, "Input should be greater than or equal to 0", v)
	case x > 1:
		f.fault("less_than_equal", []any{name}, "Input should be less than or equal to 1", v)
	}
	return x
}

// texts returns a field that may be missing or null, and otherwise must be a list
// of at most that many strings, of those in words if there are such.
func (f *form) texts(name string, most int, words []string) []string {
	v := f.optional(name)
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	switch {
	case !ok:
		f.fault("list_type", []any{name}, "Input should be a valid list", v)
		return nil
	case len(list) > most:
		f.fault("too_long", []any{name}, fmt.Sprintf("List should have at most %d items", most), nil)
		return nil
	}
	var texts []string
	for i, v := range list {
		text, ok := v.(string)
		switch {
		case !ok:
			f.fault("string_type", []any{name, i}, "Input should be a valid string", v)
		case words != nil && !slices.Contains(words, text):
			f.fault("enum", []any{name, i}, "Input should be '"+strings.Join(words[:len(words)-1], "', '")+"' or '"+words[len(words)-1]+"'", v)
		default:
			texts = append(texts, text)
		}
	}
	return texts
}

// campaignPlan is the answer to a dry run.
type campaignPlan struct {
	Devices         int              `json:"devices"`
	Waves           []plannedWave    `json:"waves"`
	ExpectedSeconds int64            `json:"expected_seconds"`
	ExpectedEnd     string           `json:"expected_end"`
	AtRisk          []deviceAtRisk   `json:"at_risk"`
	Excluded        []excludedDevice `json:"excluded"`
}

type plannedWave struct {
	Number  int     `json:"number"`
	Size    int     `json:"size"`
	Devices []int64 `json:"devices"` // the first thousand
}

type deviceAtRisk struct {
	DeviceID   int64           `json:"device_id"`
	Key        string          `json:"key"`
	DeviceName *string         `json:"device_name"`
	Risks      []rotation.Risk `json:"risks"`
}

type excludedDevice struct {
	DeviceID int64  `json:"device_id"`
	Key      string `json:"key"`
	Reason   string `json:"reason"`
}

// campaign is a campaign on the wire.
type campaign struct {
	ID            int64                  `json:"id"`
	Name          string                 `json:"name"`
	Reason        *string                `json:"reason"`
	State         rotation.CampaignState `json:"state"`
	StateReason   *string                `json:"state_reason"`
	CreatedBy     *string                `json:"created_by"`
	CreatedAt     string                 `json:"created_at"`
	StartedAt     *string                `json:"started_at"`
	EndedAt       *string                `json:"ended_at"`
	ExpectedEnd   *string                `json:"expected_end"`
	NextWindowAt  *string                `json:"next_window_at"`
	InFlightLimit int                    `json:"in_flight_limit"`
	PauseRate     float64                `json:"pause_failure_rate"`
	Wave          int                    `json:"wave"`
	Waves         []campaignWave         `json:"waves"`
	Counts        campaignCounts         `json:"counts"`
	FailureRate   *float64               `json:"failure_rate"`
	Options       json.RawMessage        `json:"options"`
}

type campaignWave struct {
	Number   int `json:"number"`
	Size     int `json:"size"`
	Done     int `json:"done"`
	Failed   int `json:"failed"`
	Deferred int `json:"deferred"`
}

type campaignCounts struct {
	Total    int `json:"total"`
	Waiting  int `json:"waiting"`
	Deferred int `json:"deferred"`
	InFlight int `json:"in_flight"`
	Done     int `json:"done"`
	Failed   int `json:"failed"`
	Skipped  int `json:"skipped"`
}

func timeOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return new(timestamp(t))
}

func campaignOf(c *rotation.Campaign, now time.Time) campaign {
	course := &c.Course
	all := course.Counts()
	a := campaign{
		ID: c.ID, Name: c.Name, Reason: textOrNull(c.Reason), State: course.State, StateReason: textOrNull(course.Reason), CreatedBy: textOrNull(c.Actor),
		CreatedAt: timestamp(c.CreatedAt), StartedAt: timeOrNull(course.StartedAt), EndedAt: timeOrNull(course.EndedAt),
		InFlightLimit: c.Rules.InFlight, PauseRate: c.Rules.PauseRate, Wave: course.Wave, Waves: make([]campaignWave, len(course.Waves)), Options: c.Options,
		Counts: campaignCounts{all.Total(), all.Waiting, all.Deferred, all.InFlight, all.Done, all.Failed, all.Skipped},
	}
	for i := range course.Waves {
		w := &course.Waves[i]
		a.Waves[i] = campaignWave{i + 1, w.Total(), w.Done, w.Failed, w.Deferred}
	}
	if rate, ok := course.Rate(); ok {
		a.FailureRate = &rate
	}
	switch course.State {
	case rotation.CampaignRunning, rotation.CampaignWaiting:
		a.ExpectedEnd = new(timestamp(c.Rules.Expect(course, now)))
		if !c.Rules.Windows.Open(now) {
			if next, ok := c.Rules.Windows.Next(now); ok {
				a.NextWindowAt = new(timestamp(next))
			}
		}
	}
	return a
}

func (s *Server) createCampaign(w http.ResponseWriter, r *http.Request) error {
	d, dry, err := s.campaignBody(w, r)
	if err != nil {
		return err
	}
	if s.campaigns == nil {
		return fleet.ErrOperation("start the campaign", "nothing is rotated here")
	}
	sees := s.scope(r).sees
	if dry {
		audited(r.Context()).silent = true
		start := time.Now()
		f, err := s.campaigns.Forecast(r.Context(), d, sees)
		if err != nil {
			return err
		}
		plan := campaignPlan{
			Waves: []plannedWave{}, ExpectedSeconds: int64(max(0, f.End.Sub(start)).Round(time.Second).Seconds()), ExpectedEnd: timestamp(f.End),
			AtRisk: []deviceAtRisk{}, Excluded: []excludedDevice{},
		}
		for i, wave := range f.Waves {
			plan.Devices += len(wave)
			p := plannedWave{Number: i + 1, Size: len(wave), Devices: []int64{}}
			for _, c := range wave[:min(len(wave), shownIDs)] {
				p.Devices = append(p.Devices, c.Ref.ID)
			}
			plan.Waves = append(plan.Waves, p)
		}
		for _, a := range f.AtRisk {
			plan.AtRisk = append(plan.AtRisk, deviceAtRisk{a.Device.ID, a.Device.Key, textOrNull(a.Device.Name), a.Risks})
		}
		for _, e := range f.Excluded {
			plan.Excluded = append(plan.Excluded, excludedDevice{e.Device, e.Key, e.Reason})
		}
		s.writeLarge(w, r, map[string]campaignPlan{"plan": plan})
		return nil
	}
	c, err := s.campaigns.Create(r.Context(), d, sees)
	if err != nil {
		return err
	}
	e := audited(r.Context())
	e.about("campaign", c.ID, c.Name)
	all := c.Course.Counts()
	e.detail("devices", all.Total())
	s.write(w, r, http.StatusCreated, campaignOf(&c, time.Now()))
	return nil
}

// seesCampaign reports whether all devices of a campaign are in the scope. Those
// that were deleted are nobody's.
func (s *Server) seesCampaign(ctx context.Context, sc scope, id int64) (bool, error) {
	if sc.whole() {
		return true, nil
	}
	ids, err := s.campaigns.MemberIDs(ctx, id)
	if err != nil {
		return false, err
	}
	some := false
	for _, id := range ids {
		d, ok := sc.directory.ByID(id)
		if ok && !sc.sees(d) {
			return false, nil
		}
		some = some || ok
	}
	return some, nil
}

// scopedCampaign returns the campaign that a request is about, if it is in the
// scope of the one who sent it.
func (s *Server) scopedCampaign(r *http.Request) (c rotation.Campaign, err error) {
	id, err := pathID(r)
	if err != nil {
		return c, err
	}
	if s.campaigns == nil {
		return c, fleet.ErrNotFound("Campaign", id)
	}
	if c, err = s.campaigns.Campaign(r.Context(), id); err != nil {
		return c, err
	}
	ok, err := s.seesCampaign(r.Context(), s.scope(r), id)
	if err == nil && !ok {
		err = fleet.ErrNotFound("Campaign", id)
	}
	if err == nil {
		audited(r.Context()).about("campaign", id, c.Name)
	}
	return c, err
}

func (s *Server) listCampaigns(w http.ResponseWriter, r *http.Request) error {
	a := struct {
		Campaigns []campaign `json:"campaigns"`
		Count     int        `json:"count"`
	}{Campaigns: []campaign{}}
	if s.campaigns != nil {
		sc, now := s.scope(r), time.Now()
		list, err := s.campaigns.Newest(r.Context(), maxCampaigns, func(c rotation.Campaign) (bool, error) { return s.seesCampaign(r.Context(), sc, c.ID) })
		if err != nil {
			return err
		}
		for i := range list {
			a.Campaigns = append(a.Campaigns, campaignOf(&list[i], now))
		}
	}
	a.Count = len(a.Campaigns)
	s.writeLarge(w, r, a)
	return nil
}

func (s *Server) showCampaign(w http.ResponseWriter, r *http.Request) error {
	c, err := s.scopedCampaign(r)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, campaignOf(&c, time.Now()))
	return nil
}

type campaignDevice struct {
	DeviceID   int64              `json:"device_id"`
	Key        string             `json:"key"`
	DeviceName *string            `json:"device_name"`
	Wave       int                `json:"wave"`
	State      rotation.TurnState `json:"state"`
	Reason     *string            `json:"reason"`
	StartedAt  *string            `json:"started_at"`
	EndedAt    *string            `json:"ended_at"`
}

// listCampaignDevices answers ?state=&limit=&after=.
func (s *Server) listCampaignDevices(w http.ResponseWriter, r *http.Request) error {
	c, err := s.scopedCampaign(r)
	if err != nil {
		return err
	}
	p := params{values: r.URL.Query()}
	f := rotation.MemberFilter{State: rotation.TurnState(p.values.Get("state")), Limit: p.number("limit", 100, 1, 1000), After: int64(p.number("after", 0, 0, 1<<31-1))}
	if f.State != "" && !slices.Contains(rotation.TurnStates(), f.State) {
		p.fault("state", "enum", "Input should be 'waiting', 'deferred', 'in_flight', 'done', 'failed' or 'skipped'")
	}
	if len(p.faults) > 0 {
		return p.faults
	}
	limit := f.Limit
	f.Limit++ // whether there are more
	members, err := s.campaigns.Members(r.Context(), c.ID, f)
	if err != nil {
		return err
	}
	a := struct {
		Devices []campaignDevice `json:"devices"`
		Next    *int64           `json:"next"` // the next page: after=
	}{Devices: []campaignDevice{}}
	if len(members) > limit {
		members = members[:limit]
		a.Next = &members[limit-1].Position
	}
	sc := s.scope(r)
	for _, m := range members {
		d, ok := sc.directory.ByID(m.Device)
		if !ok && !sc.whole() {
			continue // what is left of devices that were deleted is for those who see everything
		}
		a.Devices = append(a.Devices, campaignDevice{
			m.Device, m.Key, textOrNull(d.Name), m.Wave, m.State, textOrNull(m.Reason), timeOrNull(m.StartedAt), timeOrNull(m.EndedAt),
		})
	}
	s.writeLarge(w, r, a)
	return nil
}

func (s *Server) pauseCampaign(w http.ResponseWriter, r *http.Request) error {
	return s.steerCampaign(w, r, func(ctx context.Context, id int64) (rotation.Campaign, error) {
		return s.campaigns.Pause(ctx, id, actor(r))
	})
}

func (s *Server) resumeCampaign(w http.ResponseWriter, r *http.Request) error {
	return s.steerCampaign(w, r, s.campaigns.Resume)
}

func (s *Server) abortCampaign(w http.ResponseWriter, r *http.Request) error {
	return s.steerCampaign(w, r, func(ctx context.Context, id int64) (rotation.Campaign, error) {
		return s.campaigns.Abort(ctx, id, actor(r))
	})
}

func (s *Server) steerCampaign(w http.ResponseWriter, r *http.Request, does func(context.Context, int64) (rotation.Campaign, error)) error {
	c, err := s.scopedCampaign(r)
	if err != nil {
		return err
	}
	if c, err = does(r.Context(), c.ID); err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, campaignOf(&c, time.Now()))
	return nil
}
