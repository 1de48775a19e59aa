package rotation

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
)

// CampaignOptions is what Campaigns are made of.
type CampaignOptions struct {
	Store      CampaignStore
	Runner     *Runner
	Presence   Presence      // nil: nobody knows who is online, and nobody is deferred
	Announce   func()        // is called after each commit; nil is nobody
	Poll       time.Duration // how often campaigns are looked after; 0 is 250 ms
	Lease      time.Duration // of the process that does so; 0 is 10 s
	Registerer prometheus.Registerer
	Log        *slog.Logger
	Now        func() time.Time // nil: time.Now
}

// Campaigns rotate many devices each, in waves. All that is known of them is in
// the store, and what became of their devices is read from the attempts that are
// committed: whichever process looks after them, it goes on where the last one
// was. Its methods may be called by any number of goroutines.
type Campaigns struct {
	opts    CampaignOptions
	holder  string
	wake    chan struct{}
	members memberCache

	campaigns *prometheus.GaugeVec
	rate      *prometheus.GaugeVec
	devices   *prometheus.GaugeVec
}

// The bounds of campaigns.
const (
	maxWaves     = 1000
	pickAhead    = 64                 // devices beyond the room, as some are skipped
	backEvery    = 3 * time.Second    // deferred devices are looked for
	lateEvery    = 5 * time.Second    // devices that failed, too
	lateIdle     = time.Minute        // when no campaign runs
	lateFor      = 7 * 24 * time.Hour // after which a failure stays one
	lateMost     = 1000
	tookMost     = 2000
	abortEvery   = 5 * time.Second
	stepsAtOnce  = 64
	deferredMost = 1 << 20
)

// NewCampaigns returns Campaigns. For them to go on one process must call Run.
func NewCampaigns(o CampaignOptions) *Campaigns {
	o.Poll, o.Lease = cmp.Or(o.Poll, 250*time.Millisecond), cmp.Or(o.Lease, 10*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Announce == nil {
		o.Announce = func() {}
	}
	gauge := func(name, help, label string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{label})
	}
	s := &Campaigns{
		opts: o, holder: rand.Text(), wake: make(chan struct{}, 1),
		campaigns: gauge("iot_rotation_campaigns", "Campaigns by state.", "state"),
		rate:      gauge("iot_rotation_campaign_failure_rate", "Share of failures among the outcomes of a campaign that has not ended, since a person had it go on.", "campaign"),
		devices:   gauge("iot_rotation_campaign_devices", "Devices of the campaigns that have not ended, by state.", "state"),
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(s.campaigns, s.rate, s.devices)
	}
	return s
}

// CampaignDraft is a campaign that is to be made.
type CampaignDraft struct {
	Name, Reason, Actor string
	Selection           Selection
	Canaries            int           // devices of the first wave; 0: there is no such wave
	WaveSize            int           // devices of each later one; 0: there is one more
	Rules               CampaignRules // without Canary and EachDevice
	Options             json.RawMessage
}

// AtRisk is a device whose rotation may fail.
type AtRisk struct {
	Device fleet.DeviceRef
	Risks  []Risk
}

// CampaignForecast is what a campaign would be.
type CampaignForecast struct {
	Waves    [][]Candidate
	Rules    CampaignRules
	End      time.Time // if it began now, and nobody failed
	AtRisk   []AtRisk
	Excluded []Exclusion
}

// Forecast returns what would become of a draft now, of the devices that sees lets pass.
func (s *Campaigns) Forecast(ctx context.Context, d CampaignDraft, sees func(fleet.DeviceRef) bool) (f CampaignForecast, err error) {
	now := s.now()
	all, err := s.opts.Store.Candidates(ctx)
	if err != nil {
		return f, err
	}
	all = slices.DeleteFunc(all, func(c Candidate) bool { return !sees(c.Ref) })
	in, out := d.Selection.choose(all, now)
	took, err := s.opts.Store.TookLately(ctx, tookMost)
	if err != nil {
		return f, err
	}
	risks, theirs, at := map[int64][]Risk{}, map[int64]bool{}, map[int64]*Candidate{}
	for i := range all {
		at[all[i].Ref.ID] = &all[i]
	}
	look := func(id int64) {
		c, ok := at[id]
		if !ok {
			return
		}
		if r := c.risks(s.contact(id), now); len(r) > 0 {
			risks[id] = r
			f.AtRisk = append(f.AtRisk, AtRisk{c.Ref, r})
		}
	}
	for _, c := range in {
		theirs[c.Ref.ID] = true
		look(c.Ref.ID)
	}
	for _, e := range out {
		look(e.Device)
	}
	f.Excluded = out
	f.Waves = waves(in, d.Canaries, d.WaveSize, func(c *Candidate) bool {
		contact := s.contact(c.Ref.ID)
		return len(risks[c.Ref.ID]) == 0 && (contact == nil || contact.Online)
	})
	if len(f.Waves) > maxWaves {
		return f, fleet.E(fleet.Invalid, nil, "The campaign would have %d waves, and can have %d: make them larger", len(f.Waves), maxWaves)
	}
	f.Rules = d.Rules
	f.Rules.Canary, f.Rules.EachDevice = d.Canaries > 0, median(took, theirs)
	course := Course{Waves: sizes(f.Waves)}
	f.End = f.Rules.Expect(&course, now)
	return f, nil
}

func sizes(list [][]Candidate) []Counts {
	counts := make([]Counts, len(list))
	for i, w := range list {
		counts[i].Waiting = len(w)
	}
	return counts
}

func (s *Campaigns) contact(device int64) *Contact {
	if s.opts.Presence == nil {
		return nil
	}
	c := s.opts.Presence(device)
	return &c
}

// Create makes a campaign, which begins at once. fleet.InvalidOperation: nobody
// would take part.
func (s *Campaigns) Create(ctx context.Context, d CampaignDraft, sees func(fleet.DeviceRef) bool) (Campaign, error) {
	for tries := 0; ; tries++ {
		f, err := s.Forecast(ctx, d, sees)
		if err != nil {
			return Campaign{}, err
		}
		if len(f.Waves) == 0 {
			why := "no device is selected"
			if n := len(f.Excluded); n > 0 {
				why = "none of the " + strconv.Itoa(n) + " selected devices can take part now"
			}
			return Campaign{}, fleet.ErrOperation("start the campaign", "%s", why)
		}
		c := Campaign{
			Name: d.Name, Reason: d.Reason, Actor: d.Actor, CreatedAt: s.now(), Rules: f.Rules, Options: d.Options,
			Course: Course{State: CampaignRunning, Waves: sizes(f.Waves)},
		}
		var members []Member
		for i, w := range f.Waves {
			for _, x := range w {
				members = append(members, Member{Position: int64(len(members) + 1), Device: x.Ref.ID, Key: x.Ref.Key, Wave: i + 1})
			}
		}
		id, err := s.opts.Store.CreateCampaign(ctx, c, members)
		if err != nil {
			if fleet.KindOf(err) == fleet.Exists && tries < 5 { // another campaign was faster
				continue
			}
			return Campaign{}, err
		}
		s.opts.Announce()
		s.Wake()
		return s.opts.Store.Campaign(ctx, id)
	}
}

// Campaign returns one.
func (s *Campaigns) Campaign(ctx context.Context, id int64) (Campaign, error) {
	return s.opts.Store.Campaign(ctx, id)
}

// Newest returns at most limit campaigns of those that keep lets pass, the newest
// first.
func (s *Campaigns) Newest(ctx context.Context, limit int, keep func(Campaign) (bool, error)) (list []Campaign, err error) {
	for before := int64(0); len(list) < limit; {
		page, err := s.opts.Store.Campaigns(ctx, before, limit)
		if err != nil {
			return nil, err
		}
		for _, c := range page {
			before = c.ID
			ok, err := keep(c)
			if err != nil {
				return nil, err
			}
			if ok && len(list) < limit {
				list = append(list, c)
			}
		}
		if len(page) < limit {
			break
		}
	}
	return list, nil
}

// Members returns devices of a campaign.
func (s *Campaigns) Members(ctx context.Context, id int64, f MemberFilter) ([]Member, error) {
	return s.opts.Store.Members(ctx, id, f)
}

// MemberIDs returns the ids of all devices of a campaign. The slice must not be
// changed.
func (s *Campaigns) MemberIDs(ctx context.Context, id int64) ([]int64, error) {
	if ids, ok := s.members.get(id); ok {
		return ids, nil
	}
	ids, err := s.opts.Store.MemberIDs(ctx, id)
	if err == nil && len(ids) > 0 {
		s.members.put(id, ids)
	}
	return ids, err
}

// memberCache keeps which devices a campaign is about: they never change.
type memberCache struct {
	mu   sync.Mutex
	of   map[int64][]int64
	size int
}

const cachedMembers = 1 << 20 // ids, 8 bytes each

func (m *memberCache) get(id int64) ([]int64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids, ok := m.of[id]
	return ids, ok
}

func (m *memberCache) put(id int64, ids []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil || m.size+len(ids) > cachedMembers {
		m.of, m.size = map[int64][]int64{}, 0
	}
	if _, ok := m.of[id]; !ok {
		m.size += len(ids)
	}
	m.of[id] = ids
}

// Pause has no more devices of a campaign begin; those in flight go on. One that
// is paused stays so. fleet.InvalidOperation: it has ended.
func (s *Campaigns) Pause(ctx context.Context, id int64, actor string) (Campaign, error) {
	return s.change(ctx, id, "pause", func(c *CampaignChange, _ time.Time) bool {
		if c.Campaign.Course.State == CampaignPaused {
			return false
		}
		c.Campaign.Course.State, c.Campaign.Course.Reason = CampaignPaused, by("paused", actor)
		return true
	})
}

// Resume has a campaign go on. What failed so far does not pause it again, and
// devices that are deferred are so from now on. One that is not paused stays as it
// is. fleet.InvalidOperation: it has ended.
func (s *Campaigns) Resume(ctx context.Context, id int64) (Campaign, error) {
	return s.change(ctx, id, "resume", func(c *CampaignChange, now time.Time) bool {
		if c.Campaign.Course.State != CampaignPaused {
			return false
		}
		c.Campaign.Course.resume(now)
		c.Deferred = now
		return true
	})
}

// Abort ends a campaign: devices that did not begin are skipped, and the
// attempts in flight aborted, as far as the new secret is not proven yet. One that
// was aborted stays so. fleet.InvalidOperation: it is done.
func (s *Campaigns) Abort(ctx context.Context, id int64, actor string) (Campaign, error) {
	return s.change(ctx, id, "abort", func(c *CampaignChange, now time.Time) bool {
		if c.Campaign.Course.State == CampaignAborted {
			return false
		}
		c.Campaign.Course.abort(by("aborted", actor), now)
		c.SkipOpen = "the campaign was aborted"
		return true
	})
}

func by(what, actor string) string {
	if actor == "" {
		return what
	}
	return what + " by " + actor
}

func (s *Campaigns) change(ctx context.Context, id int64, op string, f func(*CampaignChange, time.Time) bool) (Campaign, error) {
	var last error
	for range 20 {
		c, err := s.opts.Store.Campaign(ctx, id)
		if err != nil {
			return c, err
		}
		now := s.now()
		ch := CampaignChange{Campaign: c, At: now}
		if !c.Course.EndedAt.IsZero() && (c.Course.State != CampaignAborted || op != "abort") || c.Course.State == CampaignAborted && op != "abort" {
			return c, fleet.ErrOperation(op+" the campaign", "it is %s", c.Course.State)
		}
		if !f(&ch, now) {
			return c, nil
		}
		switch err := s.opts.Store.CommitCampaign(ctx, ch); {
		case err == nil:
			s.opts.Announce()
			s.Wake()
			return s.opts.Store.Campaign(ctx, id)
		case fleet.KindOf(err) != fleet.Exists:
			return c, err
		default:
			last = err // it was changed meanwhile
		}
	}
	return Campaign{}, fleet.E(fleet.Unavailable, last, "The campaign changes too fast")
}

// Wake has Run look after the campaigns at once.
func (s *Campaigns) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Campaigns) now() time.Time { return clean(s.opts.Now()) }

// Run looks after the campaigns until ctx ends. Of several processes one does at a
// time. What it costs grows with the campaigns that have not ended and with their
// devices in flight, not with the fleet.
func (s *Campaigns) Run(ctx context.Context) error {
	run := &campaigning{Campaigns: s, back: map[int64]time.Time{}, aborted: map[int64]time.Time{}}
	defer func() {
		if !run.until.IsZero() {
			giveUp(ctx, s.opts.Store.ReleaseCampaignLease, s.holder, s.opts.Log, "campaigns")
		}
	}()
	rounds(ctx, run.round, s.opts.Poll, s.wake, s.opts.Log, "campaigns")
	return nil
}

// campaigning is the state of Run.
type campaigning struct {
	*Campaigns
	until   time.Time           // the lease
	late    time.Time           // when late devices were looked for last
	counted time.Time           // the gauge of campaigns
	back    map[int64]time.Time // when deferred devices were, by campaign
	aborted map[int64]time.Time // when the attempt of a device was, last
}

// errNotLed says that another process looks after the campaigns now.
var errNotLed = errors.New("another process looks after the campaigns")

// lead takes or keeps the lease.
func (r *campaigning) lead(ctx context.Context) error {
	now := r.now()
	// One that is longer than it can be is of before the clock was set back.
	if left := r.until.Sub(now); left > 0 && left >= r.opts.Lease*2/3 && left <= r.opts.Lease {
		return nil
	}
	until := now.Add(r.opts.Lease)
	got, err := r.opts.Store.CampaignLease(ctx, r.holder, r.opts.Runner.leaseEnds(now), until)
	switch {
	case err != nil && now.Before(r.until):
		return nil // it is ours for a while
	case err != nil:
		return err
	case !got:
		r.until = time.Time{}
		return errNotLed
	}
	r.until = until
	return nil
}

func (r *campaigning) round(ctx context.Context) error {
	live, err := r.opts.Store.LiveCampaigns(ctx)
	if err != nil {
		return err
	}
	if err := r.measure(ctx, live); err != nil {
		return err
	}
	every := lateEvery
	if len(live) == 0 {
		every = lateIdle
	}
	late := r.now().Sub(r.late) >= every
	if len(live) == 0 && !late {
		return nil
	}
	if err := r.lead(ctx); err != nil {
		if errors.Is(err, errNotLed) {
			return nil
		}
		return err
	}
	if late {
		if err := r.pardon(ctx); err != nil {
			return err
		}
		r.late = r.now()
		if live, err = r.opts.Store.LiveCampaigns(ctx); err != nil {
			return err
		}
	}
	var failed []error
	for i := range live {
		for range stepsAtOnce {
			again, err := r.step(ctx, &live[i])
			if err != nil {
				if errors.Is(err, errNotLed) {
					return errors.Join(failed...)
				}
				failed = append(failed, err) // it does not keep the other campaigns from going on
			}
			if err != nil || !again {
				break
			}
		}
	}
	return errors.Join(failed...)
}

// pardon has devices count as done that failed first.
func (r *campaigning) pardon(ctx context.Context) error {
	list, err := r.opts.Store.LateDevices(ctx, r.now().Add(-lateFor), lateMost)
	if err != nil || len(list) == 0 {
		return err
	}
	of := map[int64][]Move{}
	for _, l := range list {
		of[l.Campaign] = append(of[l.Campaign], l.Move)
	}
	for id, moves := range of {
		c, err := r.opts.Store.Campaign(ctx, id)
		if err != nil {
			return err
		}
		for _, m := range moves {
			c.Course.Apply(&c.Rules, m)
		}
		switch err := r.opts.Store.CommitCampaign(ctx, CampaignChange{Campaign: c, Moves: moves, At: r.now()}); {
		case err == nil:
			r.opts.Announce()
		case fleet.KindOf(err) != fleet.Exists: // then it is done the next time
			return err
		}
	}
	return nil
}

// step takes a campaign as far as it can now, and reports whether it may get on
// further at once.
func (r *campaigning) step(ctx context.Context, c *Campaign) (again bool, err error) {
	if err := r.lead(ctx); err != nil {
		return false, err
	}
	now, before := r.now(), c.Course
	course := before
	course.Waves = slices.Clone(before.Waves)
	var moves []Move
	apply := func(list ...Move) {
		for _, m := range list {
			course.Apply(&c.Rules, m)
			moves = append(moves, m)
		}
	}
	all := course.Counts()
	var queue, abort []int64
	if all.InFlight > 0 {
		flights, err := r.opts.Store.Flights(ctx, c.ID)
		if err != nil {
			return false, err
		}
		aborted := course.State == CampaignAborted
		for _, f := range flights {
			m, landed := f.Land(c.ID, aborted, now)
			switch {
			case landed:
				delete(r.aborted, f.Device)
				if m.At.Before(course.ResumedAt) {
					m.At = now // it is held against the course as it is now
				}
				apply(m)
			case aborted:
				if now.Sub(r.aborted[f.Device]) >= abortEvery {
					abort = append(abort, f.Device)
				}
			case f.QueuedAt.IsZero():
				queue = append(queue, f.Device)
			}
		}
	}
	course, room := c.Rules.Judge(course, now)
	picked, err := r.pick(ctx, c, &course, room, now)
	if err != nil {
		return false, err
	}
	apply(picked...)
	for _, m := range picked {
		if m.To == TurnInFlight {
			queue = append(queue, m.Device)
		}
	}
	same := course.State == before.State && course.Reason == before.Reason && course.Wave == before.Wave && course.EndedAt.Equal(before.EndedAt)
	if len(moves) > 0 || !same {
		c.Course = course
		err := r.opts.Store.CommitCampaign(ctx, CampaignChange{Campaign: *c, Moves: moves, At: now})
		if fleet.KindOf(err) == fleet.Exists && err != nil {
			return false, nil // a person changed it: the next round sees that
		}
		if err != nil {
			return false, err
		}
		c.Version++
		r.opts.Announce()
		if course.State != before.State {
			r.opts.Log.InfoContext(ctx, "a campaign goes on otherwise", "campaign", c.ID, "name", c.Name, "state", string(course.State), "why", course.Reason)
		}
		if !course.EndedAt.IsZero() {
			delete(r.back, c.ID)
		}
	}
	if err := r.queue(ctx, c, queue); err != nil {
		return false, err
	}
	var failed []error
	for _, id := range abort {
		if err := r.opts.Runner.Abort(ctx, id); err != nil && fleet.KindOf(err) != fleet.NotFound {
			failed = append(failed, err) // in the next round
			continue
		}
		r.aborted[id] = now
	}
	return len(moves) > 0 || !same || len(abort) > 0, errors.Join(failed...)
}

// pick returns what is done with devices whose turn it is.
func (r *campaigning) pick(ctx context.Context, c *Campaign, course *Course, room Room, now time.Time) ([]Move, error) {
	if course.State == CampaignPaused || course.State == CampaignAborted || !course.EndedAt.IsZero() {
		return nil, nil
	}
	var back, fresh []Turn
	var err error
	if all := course.Counts(); all.Deferred > 0 && now.Sub(r.back[c.ID]) >= backEvery {
		if back, err = r.opts.Store.Turns(ctx, c.ID, TurnDeferred, 0, deferredMost); err != nil {
			return nil, err
		}
		r.back[c.ID] = now
	}
	if room.Fresh && room.Devices > 0 && course.Waves[course.Wave-1].Waiting > 0 {
		if fresh, err = r.opts.Store.Turns(ctx, c.ID, TurnWaiting, course.Wave, room.Devices+pickAhead); err != nil {
			return nil, err
		}
	}
	for _, list := range [][]Turn{back, fresh} {
		for i := range list {
			list[i].Contact = r.contact(list[i].Device)
		}
	}
	return c.Rules.Pick(room, back, fresh, now), nil
}

// queue asks for the rotation of devices, of which it is committed that they are
// in flight. Who is queued already stays so; whom something else rotates is found
// out when its attempt is looked for.
func (r *campaigning) queue(ctx context.Context, c *Campaign, devices []int64) error {
	var queued []int64
	var failed error
	for _, id := range devices {
		if failed = r.lead(ctx); failed != nil {
			break
		}
		_, err := r.opts.Runner.Queue(ctx, id, true, false, Ask{Actor: c.Actor, Reason: cmp.Or(c.Reason, c.Name), Campaign: c.ID})
		switch {
		case err == nil || fleet.KindOf(err) == fleet.NotFound:
			queued = append(queued, id)
		case fleet.KindOf(err) == fleet.Unavailable && ctx.Err() == nil: // in the next round
			failed = err
		default:
			return err
		}
	}
	if len(queued) > 0 {
		if err := r.opts.Store.MarkQueued(ctx, c.ID, queued, r.now()); err != nil {
			return err
		}
	}
	return failed
}

// countCampaignsEvery is how old the gauge of campaigns that have ended may be.
const countCampaignsEvery = 15 * time.Second

func (r *campaigning) measure(ctx context.Context, live []Campaign) error {
	var all Counts
	states := map[CampaignState]int{CampaignRunning: 0, CampaignWaiting: 0, CampaignPaused: 0}
	r.rate.Reset()
	for i := range live {
		c := &live[i].Course
		all.add(c.Counts())
		if c.State != CampaignAborted {
			states[c.State]++
		}
		rate, _ := c.Rate()
		r.rate.WithLabelValues(strconv.FormatInt(live[i].ID, 10)).Set(rate)
	}
	for _, s := range TurnStates() {
		r.devices.WithLabelValues(string(s)).Set(float64(*all.Of(s)))
	}
	for s, n := range states {
		r.campaigns.WithLabelValues(string(s)).Set(float64(n))
	}
	now := r.now()
	if now.Sub(r.counted) < countCampaignsEvery {
		return nil
	}
	counts, err := r.opts.Store.CampaignCounts(ctx)
	if err != nil {
		return err
	}
	for _, s := range []CampaignState{CampaignDone, CampaignAborted} {
		r.campaigns.WithLabelValues(string(s)).Set(float64(counts[s]))
	}
	r.counted = now
	return nil
}
