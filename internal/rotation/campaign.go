package rotation

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"signalbox/internal/fleet"
)

// This file is the judgement of campaigns, as machine.go is of one device: it does
// no I/O and knows no clock.

// CampaignState is where a campaign stands, as on the wire.
type CampaignState string

// The states of campaigns. A campaign that is waiting is running: there is only
// nothing to begin now.
const (
	CampaignRunning CampaignState = "running"
	CampaignWaiting CampaignState = "waiting"
	CampaignPaused  CampaignState = "paused"
	CampaignDone    CampaignState = "done"
	CampaignAborted CampaignState = "aborted"
)

// TurnState is what became of the turn of a device in a campaign, as on the wire.
type TurnState string

// The states of turns. Those from TurnDone on are ends, though a device that
// failed may be done yet.
const (
	TurnWaiting  TurnState = "waiting"
	TurnDeferred TurnState = "deferred" // it was offline at its turn
	TurnInFlight TurnState = "in_flight"
	TurnDone     TurnState = "done"
	TurnFailed   TurnState = "failed"
	TurnSkipped  TurnState = "skipped"
)

// TurnStates are all of them.
func TurnStates() []TurnState {
	return []TurnState{TurnWaiting, TurnDeferred, TurnInFlight, TurnDone, TurnFailed, TurnSkipped}
}

// Counts is how many devices there are in each state.
type Counts struct {
	Waiting  int `json:"w,omitempty"`
	Deferred int `json:"d,omitempty"`
	InFlight int `json:"i,omitempty"`
	Done     int `json:"o,omitempty"`
	Failed   int `json:"f,omitempty"`
	Skipped  int `json:"s,omitempty"`
}

// Of returns the number in a state; nil for a word that is none.
func (c *Counts) Of(s TurnState) *int {
	switch s {
	case TurnWaiting:
		return &c.Waiting
	case TurnDeferred:
		return &c.Deferred
	case TurnInFlight:
		return &c.InFlight
	case TurnDone:
		return &c.Done
	case TurnFailed:
		return &c.Failed
	case TurnSkipped:
		return &c.Skipped
	}
	return nil
}

// Open returns how many have their turn still before them, or are in it.
func (c Counts) Open() int { return c.Waiting + c.Deferred + c.InFlight }

// Total returns how many devices there are.
func (c Counts) Total() int { return c.Open() + c.Done + c.Failed + c.Skipped }

func (c *Counts) add(o Counts) {
	for _, s := range TurnStates() {
		*c.Of(s) += *o.Of(s)
	}
}

// CampaignRules is what was decided of a campaign when it was made.
type CampaignRules struct {
	InFlight   int           // devices of it in an attempt at once
	Canary     bool          // the first wave is there to fail first
	WavePause  time.Duration // between the end of a wave and the begin of the next
	PauseRate  float64       // more failures than that of all outcomes, and it pauses
	PauseMin   int           // but not before there are so many outcomes
	Windows    Windows       // outside of which no device begins; none: always
	Defer      bool          // devices that are offline at their turn have it later
	DeferFor   time.Duration // for so long; then they are skipped
	Inactive   bool          // inactive devices take part
	EachDevice time.Duration // that one is expected to take
}

// Course is how far a campaign has come. The zero Wave is none so far.
type Course struct {
	State     CampaignState
	Reason    string // why it waits, is paused or was aborted; for people
	Wave      int    // the one that is running, from 1
	Waves     []Counts
	NotBefore time.Time // when the wave may begin; zero: at once

	StartedAt time.Time // zero: no device has begun
	EndedAt   time.Time // zero: it goes on
	ResumedAt time.Time // when a person had it go on last; zero: never

	// Outcomes since then, by which it is judged whether it is to pause.
	Done, Failed, CanaryFailed int
}

// Counts returns the devices of all waves by their state.
func (c Course) Counts() (all Counts) {
	for _, w := range c.Waves {
		all.add(w)
	}
	return all
}

// Rate returns the share of failures among the outcomes since a person had it
// go on; ok is false when there are none.
func (c Course) Rate() (rate float64, ok bool) {
	if c.Done+c.Failed == 0 {
		return 0, false
	}
	return float64(c.Failed) / float64(c.Done+c.Failed), true
}

// Move is the change of the turn of a device. It is stored with the course that
// it makes.
type Move struct {
	Device   int64
	Wave     int
	From, To TurnState
	Reason   string
	At       time.Time
	Attempt  int64     // of the device; 0: none, or as it was
	Failed   time.Time // when From is TurnFailed: when it did
}

// Apply makes the move in the counts.
func (c *Course) Apply(rules *CampaignRules, m Move) {
	w := &c.Waves[m.Wave-1]
	*w.Of(m.From)--
	*w.Of(m.To)++
	canary := rules.Canary && m.Wave == 1
	if m.From == TurnFailed {
		if m.Failed.After(c.ResumedAt) { // it was counted
			c.Failed--
			if canary && c.CanaryFailed > 0 {
				c.CanaryFailed--
			}
		} else {
			return // what was before is forgotten either way
		}
	}
	switch m.To {
	case TurnInFlight:
		if c.StartedAt.IsZero() {
			c.StartedAt = m.At
		}
	case TurnDone:
		c.Done++
	case TurnFailed:
		c.Failed++
		if canary {
			c.CanaryFailed++
		}
	}
}

// Room is which devices may begin now.
type Room struct {
	Devices int  // so many
	Fresh   bool // also those of the wave that did not have their turn yet
}

// Why a campaign waits; for people.
const (
	waitsWindow = "outside its windows"
	waitsPause  = "the pause before the next wave"
	waitsCanary = "no canary has been online so far"
)

// Judge returns how a course goes on at a time, after the outcomes that are known
// were applied, and how many devices may begin.
func (r *CampaignRules) Judge(c Course, now time.Time) (Course, Room) {
	all := c.Counts()
	switch {
	case !c.EndedAt.IsZero():
		return c, Room{}
	case c.State == CampaignAborted:
		if all.InFlight == 0 {
			c.EndedAt = now
		}
		return c, Room{}
	case all.Open() == 0:
		c.State, c.Reason, c.EndedAt = CampaignDone, "", now
		return c, Room{}
	case c.State == CampaignPaused:
		return c, Room{}
	}
	pause := func(format string, args ...any) (Course, Room) {
		c.State, c.Reason = CampaignPaused, fmt.Sprintf(format, args...)
		return c, Room{}
	}
	if c.CanaryFailed > 0 {
		return pause("a canary failed")
	}
	if rate, ok := c.Rate(); ok && c.Done+c.Failed >= r.PauseMin && rate > r.PauseRate {
		return pause("%d of %d devices failed (%.0f %%), which is more than %.0f %%", c.Failed, c.Done+c.Failed, rate*100, r.PauseRate*100)
	}
	room := Room{Devices: max(0, r.InFlight-all.InFlight), Fresh: true}
	wait := func(why string) { c.State, c.Reason, room.Fresh = CampaignWaiting, why, false }

	if c.Wave == 0 {
		c.Wave = 1
	}
	w := c.Waves[c.Wave-1]
	// A canary wave in which nobody was rotated has shown nothing. A person who had the
	// campaign go on since has decided about that.
	blind := c.Wave == 1 && r.Canary && w.Done == 0 && c.ResumedAt.IsZero()
	over := w.Waiting+w.InFlight == 0
	switch {
	case over && c.Wave == len(c.Waves): // others are out still, from waves before or put off
	case over && blind && w.Deferred == 0:
		return pause("no canary could be rotated")
	case over && !blind:
		c.Wave++
		c.NotBefore = time.Time{}
		if r.WavePause > 0 {
			c.NotBefore = now.Add(r.WavePause)
		}
	}
	c.State, c.Reason = CampaignRunning, ""
	switch {
	case !r.Windows.Open(now):
		wait(waitsWindow)
		room.Devices = 0
	case now.Before(c.NotBefore):
		wait(waitsPause) // those that come back are of waves before
	case over && blind:
		wait(waitsCanary)
	case all.Open() == all.Deferred:
		wait(fmt.Sprintf("%d offline", all.Deferred))
	}
	return c, room
}

// Turn is a device that may begin.
type Turn struct {
	Device     int64
	Wave       int
	DeferredAt time.Time // zero: it was not
	Gone       bool      // it was deleted
	Revoked    bool
	Inactive   bool
	Busy       bool     // something else rotates it
	Contact    *Contact // nil: nobody knows
}

// Pick returns what is to be done with devices whose turn it is, in that order.
// back are those that were deferred. It stops when the room is used up.
func (r *CampaignRules) Pick(room Room, back, fresh []Turn, now time.Time) (moves []Move) {
	left := room.Devices
	move := func(t Turn, to TurnState, reason string) {
		from := TurnWaiting
		if !t.DeferredAt.IsZero() {
			from = TurnDeferred
		}
		moves = append(moves, Move{Device: t.Device, Wave: t.Wave, From: from, To: to, Reason: reason, At: now})
		if to == TurnInFlight {
			left--
		}
	}
	offline := func(t Turn) bool { return r.Defer && t.Contact != nil && !t.Contact.Online }
	for _, t := range back {
		why := r.unfit(t)
		switch {
		case t.Gone || t.Revoked: // it need not come back for that
			move(t, TurnSkipped, why)
		case offline(t):
			if !now.Before(t.DeferredAt.Add(r.DeferFor)) {
				move(t, TurnSkipped, "was offline")
			}
		case left > 0 && why != "":
			move(t, TurnSkipped, why)
		case left > 0:
			move(t, TurnInFlight, "")
		}
	}
	if !room.Fresh {
		return moves
	}
	for _, t := range fresh {
		if left <= 0 {
			break
		}
		switch why := r.unfit(t); {
		case why != "":
			move(t, TurnSkipped, why)
		case offline(t):
			move(t, TurnDeferred, "offline")
		default:
			move(t, TurnInFlight, "")
		}
	}
	return moves
}

// unfit returns why a device is passed over; "" if it is not.
func (r *CampaignRules) unfit(t Turn) string {
	switch {
	case t.Gone:
		return "was deleted"
	case t.Revoked:
		return "revoked"
	case t.Inactive && !r.Inactive:
		return "inactive"
	case t.Busy:
		return "busy: it was rotated by something else"
	}
	return ""
}

// Flight is a device in flight, with what is committed of its rotation.
type Flight struct {
	Device   int64
	Wave     int
	QueuedAt time.Time // zero: it is not known to have been queued
	Gone     bool      // the device was deleted

	Attempt int64     // its attempt for this campaign; 0: there is none
	Outcome Outcome   // of that
	EndedAt time.Time // of that

	Wire     fleet.RotationState // of the device now
	Campaign int64               // that its rotation is for now
	Stuck    bool
	Trouble  string
}

// ours reports whether the device waits for, or is in, the attempt for the campaign.
func (f *Flight) ours(campaign int64) bool {
	return f.Campaign == campaign && (f.Wire == fleet.RotationQueued || f.Wire == fleet.RotationPending)
}

// Land returns what became of a device in flight; ok is false while it is there.
func (f *Flight) Land(campaign int64, aborted bool, now time.Time) (m Move, ok bool) {
	m = Move{Device: f.Device, Wave: f.Wave, From: TurnInFlight, To: TurnSkipped, At: now, Attempt: f.Attempt}
	switch {
	case f.Gone:
		m.Reason = "was deleted"
		return m, true
	case f.Outcome == Done || f.Outcome == Believed:
		m.To, m.At = TurnDone, f.EndedAt
		return m, true
	case f.Outcome == TimedOut:
		m.To, m.At, m.Reason = TurnFailed, f.EndedAt, "timed out"
		return m, true
	case f.Outcome == Aborted && aborted:
		m.Reason = "the campaign was aborted"
		return m, true
	case f.Outcome == Aborted:
		m.Reason = "its rotation was aborted"
		return m, true
	case f.ours(campaign) && f.Stuck && f.Attempt != 0:
		m.To, m.Reason = TurnFailed, "stuck: "+f.Trouble
		return m, true
	case f.ours(campaign):
		return m, false
	case f.Attempt == 0 && f.QueuedAt.IsZero() && !aborted:
		return m, false // it is to be queued
	case aborted:
		m.Reason = "the campaign was aborted"
	case f.Attempt != 0:
		m.Reason = "its rotation was set back"
	case f.Wire == fleet.RotationQueued || f.Wire == fleet.RotationPending:
		m.Reason = "busy: it was rotated by something else"
	default:
		m.Reason = "was taken from the queue"
	}
	return m, true
}

// AbortCampaign ends a course: nobody begins any more.
func (c *Course) abort(by string, now time.Time) {
	for i := range c.Waves {
		w := &c.Waves[i]
		w.Skipped += w.Waiting + w.Deferred
		w.Waiting, w.Deferred = 0, 0
	}
	c.State, c.Reason = CampaignAborted, by
	if all := c.Counts(); all.InFlight == 0 {
		c.EndedAt = now
	}
}

// resume has a paused course go on. What failed so far is not held against it.
func (c *Course) resume(now time.Time) {
	c.State, c.Reason, c.ResumedAt = CampaignRunning, "", now
	c.Done, c.Failed, c.CanaryFailed = 0, 0, 0
}

// Window is a time of day on some days of the week.
type Window struct {
	Days []int // 1 is Monday, 7 Sunday: those on which it opens
	From int   // minute of the day
	To   int   // minute at which it closes, on the next day if it is not after From
}

// Windows are times of a zone. They follow the clocks on the wall: what these
// leave out in spring does not come, and what they show twice in autumn comes twice.
type Windows struct {
	List []Window
	Zone string // as of the IANA database; "" is UTC
}

// block is how far the clocks of every zone go on without a leap: since 1972
// they have changed at quarters of an hour of UTC only.
const block = 15 * time.Minute

func (w Windows) zone() *time.Location {
	zone, err := time.LoadLocation(w.Zone)
	if err != nil {
		return time.UTC // it was looked at when the campaign was made
	}
	return zone
}

// Open reports whether a time is in a window. Without windows every time is.
func (w Windows) Open(t time.Time) bool { return len(w.List) == 0 || w.openIn(t, w.zone()) }

func (w Windows) openIn(t time.Time, zone *time.Location) bool {
	if len(w.List) == 0 {
		return true
	}
	local := t.In(zone)
	minute := local.Hour()*60 + local.Minute()
	day := (int(local.Weekday())+6)%7 + 1
	before := (day+5)%7 + 1
	for _, x := range w.List {
		if x.From < x.To {
			if minute >= x.From && minute < x.To && slices.Contains(x.Days, day) {
				return true
			}
			continue
		}
		if minute >= x.From && slices.Contains(x.Days, day) || minute < x.To && slices.Contains(x.Days, before) {
			return true
		}
	}
	return false
}

// turn returns the first time after t at which it may be otherwise.
func (w Windows) turn(t time.Time, zone *time.Location) time.Time {
	next := t.Truncate(block).Add(block)
	local := t.In(zone)
	minute := local.Hour()*60 + local.Minute()
	at := t.Truncate(time.Minute)
	look := func(edge int) {
		if edge > minute {
			if e := at.Add(time.Duration(edge-minute) * time.Minute); e.Before(next) {
				next = e
			}
		}
	}
	for _, x := range w.List {
		look(x.From)
		look(x.To)
	}
	return next
}

// Next returns the first time, not before t, that is in a window; ok is false if
// none is within the next weeks.
func (w Windows) Next(t time.Time) (next time.Time, ok bool) {
	zone := w.zone()
	for end := t.AddDate(0, 0, 22); t.Before(end); t = w.turn(t, zone) {
		if w.openIn(t, zone) {
			return t, true
		}
	}
	return time.Time{}, false
}

// farthest is how far ahead anything is foretold.
const farthest = 5 * 366 * 24 * time.Hour

// Spend returns when so much time was spent in windows from t on, at most five
// years later.
func (w Windows) Spend(t time.Time, work time.Duration) time.Time {
	end := t.Add(farthest)
	if len(w.List) == 0 {
		return t.Add(min(work, farthest))
	}
	zone := w.zone()
	for t.Before(end) {
		next := w.turn(t, zone)
		if w.openIn(t, zone) {
			if d := next.Sub(t); d >= work {
				return t.Add(work)
			} else {
				work -= d
			}
		} else if work <= 0 {
			return t
		}
		t = next
	}
	return end
}

// Expect returns when a course is expected to end that goes on at now: every open
// device takes as long as others did, and there are no failures.
func (r *CampaignRules) Expect(c *Course, now time.Time) time.Time {
	at, first := now, max(1, c.Wave)
	var late int // of waves before
	for i, w := range c.Waves {
		if i+1 < first {
			late += w.InFlight + w.Deferred
			continue
		}
		n := w.Open()
		if i+1 == first {
			n += late
			if c.NotBefore.After(at) {
				at = c.NotBefore
			}
		} else {
			at = at.Add(r.WavePause)
		}
		rounds := (n + r.InFlight - 1) / r.InFlight
		at = r.Windows.Spend(at, time.Duration(min(float64(rounds)*float64(r.EachDevice), float64(farthest))))
	}
	if most := now.Add(farthest); at.After(most) {
		return most
	}
	return at
}

// Candidate is a device that may be chosen for a campaign, with what is known of it.
type Candidate struct {
	Ref      fleet.DeviceRef
	Active   bool
	State    fleet.RotationState
	SecretAt time.Time // zero: not known
	Failures int       // time-outs since its last rotation
	Stuck    bool
	Campaign int64 // that it takes part in now; 0: none
}

// Selection chooses devices: those that are named by any of All, DeviceIDs,
// ModelIDs and Tags, or all when none of them is given, as far as the rest
// lets them pass.
type Selection struct {
	All             bool     `json:"all,omitempty"`
	DeviceIDs       []int64  `json:"device_ids,omitempty"`
	ModelIDs        []int64  `json:"model_ids,omitempty"`
	Tags            []string `json:"tags,omitempty"`
	SecretOlderDays *int     `json:"secret_older_than_days,omitempty"` // nil: of any age; one of unknown age is older
	States          []string `json:"states,omitempty"`                 // none: all
	IncludeInactive bool     `json:"include_inactive,omitempty"`
}

// Empty reports whether it says nothing at all.
func (s *Selection) Empty() bool {
	return !s.All && len(s.DeviceIDs) == 0 && len(s.ModelIDs) == 0 && len(s.Tags) == 0 && s.SecretOlderDays == nil && len(s.States) == 0
}

// Exclusion is a device that was chosen and does not take part.
type Exclusion struct {
	Device int64
	Key    string // "" if there is no such device
	Reason string
}

// choose returns the devices of a selection, those whose secret is oldest first,
// and who of them does not take part.
func (s *Selection) choose(all []Candidate, now time.Time) (in []Candidate, out []Exclusion) {
	named := map[int64]bool{}
	for _, id := range s.DeviceIDs {
		named[id] = true
	}
	models, tags, states := map[int64]bool{}, map[string]bool{}, map[string]bool{}
	for _, id := range s.ModelIDs {
		models[id] = true
	}
	for _, t := range s.Tags {
		tags[t] = true
	}
	for _, st := range s.States {
		states[st] = true
	}
	every := s.All || len(named)+len(models)+len(tags) == 0
	tagged := func(d fleet.DeviceRef) bool {
		if len(tags) == 0 {
			return false
		}
		for t := range d.Tags.All() {
			if tags[t] {
				return true
			}
		}
		return false
	}
	known := map[int64]bool{}
	for _, c := range all {
		d := c.Ref
		if named[d.ID] {
			known[d.ID] = true
		}
		if !every && !named[d.ID] && !models[d.ModelID] && !tagged(d) {
			continue
		}
		if len(states) > 0 && !states[string(c.State)] {
			continue
		}
		if s.SecretOlderDays != nil && !c.SecretAt.IsZero() && c.SecretAt.After(now.AddDate(0, 0, -*s.SecretOlderDays)) {
			continue
		}
		if why := c.excluded(s.IncludeInactive); why != "" {
			out = append(out, Exclusion{d.ID, d.Key, why})
			continue
		}
		in = append(in, c)
	}
	for id := range named {
		if !known[id] {
			out = append(out, Exclusion{id, "", "was not found"})
		}
	}
	slices.SortFunc(in, func(a, b Candidate) int {
		return cmp.Or(a.SecretAt.Compare(b.SecretAt), cmp.Compare(a.Ref.ID, b.Ref.ID))
	})
	slices.SortFunc(out, func(a, b Exclusion) int { return cmp.Compare(a.Device, b.Device) })
	return in, out
}

func (c *Candidate) busy() string {
	switch {
	case c.Campaign != 0:
		return fmt.Sprintf("busy: in campaign %d", c.Campaign)
	case c.State == fleet.RotationQueued:
		return "busy: its rotation is queued"
	case c.State == fleet.RotationPending:
		return "busy: it is being rotated"
	}
	return ""
}

func (c *Candidate) excluded(inactive bool) string {
	switch {
	case c.Ref.Revoked:
		return "revoked"
	case !c.Active && !inactive:
		return "inactive"
	}
	return c.busy()
}

// Risk is why the rotation of a device may fail.
type Risk struct {
	Kind   string `json:"kind"` // unseen, flaky, clock, failed_before, revoked, busy
	Detail string `json:"detail"`
}

// What is a risk.
const (
	unseenAfter = 24 * time.Hour
	flakyDrops  = 5
	clockOff    = 30 * time.Second
)

// risks returns why the rotation of a device may fail; contact is nil if nobody
// knows how it keeps in touch.
func (c *Candidate) risks(contact *Contact, now time.Time) (risks []Risk) {
	add := func(kind, format string, args ...any) {
		risks = append(risks, Risk{kind, fmt.Sprintf(format, args...)})
	}
	if contact != nil {
		switch {
		case contact.Online:
		case contact.LastSeen.IsZero():
			add("unseen", "was never heard of")
		case now.Sub(contact.LastSeen) > unseenAfter:
			add("unseen", "was heard of last on %s", contact.LastSeen.UTC().Format("2006-01-02 15:04 UTC"))
		}
		if contact.Drops >= flakyDrops {
			add("flaky", "lost its connection %d times within 24 hours", contact.Drops)
		}
		if off := contact.ClockOff.Abs(); contact.ClockSaid && off > clockOff {
			way := "ahead"
			if contact.ClockOff < 0 {
				way = "behind"
			}
			add("clock", "its clock is %s %s", off.Round(time.Second), way)
		}
	}
	switch {
	case c.Stuck:
		add("failed_before", "its rotation is stuck")
	case c.Failures == 1:
		add("failed_before", "timed out once since its last rotation")
	case c.Failures > 1:
		add("failed_before", "timed out %d times since its last rotation", c.Failures)
	case c.State == fleet.RotationTimeout:
		add("failed_before", "its last rotation timed out")
	}
	if c.Ref.Revoked {
		add("revoked", "its credential is withdrawn")
	}
	if why := c.busy(); why != "" {
		add("busy", "%s", why[len("busy: "):])
	}
	return risks
}

// waves cuts devices into waves: canaries, whom nothing speaks against as far as
// there are such, and then the rest in their order. size 0 is all in one.
func waves(in []Candidate, canaries, size int, good func(*Candidate) bool) (list [][]Candidate) {
	canaries = min(canaries, len(in))
	if canaries > 0 {
		var first, rest []Candidate
		for i := range in {
			if len(first) < canaries && good(&in[i]) {
				first = append(first, in[i])
			} else {
				rest = append(rest, in[i])
			}
		}
		lack := canaries - len(first)
		first, rest = append(first, rest[:lack]...), rest[lack:]
		list, in = append(list, first), rest
	}
	if size == 0 {
		size = max(1, len(in))
	}
	for len(in) > 0 {
		n := min(size, len(in))
		list, in = append(list, in[:n:n]), in[n:]
	}
	return list
}

// usual is how long a device takes of which nothing is known.
const usual = 30 * time.Second

// Took is how long a device's rotation took.
type Took struct {
	Device int64
	Time   time.Duration
}

// median returns what is usual for the devices, or else for all of whom it is known.
func median(took []Took, of map[int64]bool) time.Duration {
	var theirs, all []time.Duration
	for _, t := range took {
		if t.Time <= 0 {
			continue
		}
		if of[t.Device] {
			theirs = append(theirs, t.Time)
		}
		all = append(all, t.Time)
	}
	if len(theirs) > 0 {
		all = theirs
	}
	if len(all) == 0 {
		return usual
	}
	slices.Sort(all)
	return time.Duration(math.Max(float64(time.Second), float64(all[len(all)/2])))
}
