package rotation_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// office is a process that looks after campaigns, beside the runner of a rig.
type office struct {
	*rotation.Campaigns
	r    *rig
	stop func()

	mu        sync.Mutex
	offline   map[int64]bool
	announced int
	most      int // devices in flight, of all that were announced
}

// mortalCampaigns is what the process has of the store until it is killed.
type mortalCampaigns struct {
	rotation.CampaignStore
	k *killer
}

func (m mortalCampaigns) LiveCampaigns(ctx context.Context) ([]rotation.Campaign, error) {
	if m.k.killed() {
		return nil, errKilled
	}
	return m.CampaignStore.LiveCampaigns(ctx)
}

func (m mortalCampaigns) CommitCampaign(ctx context.Context, c rotation.CampaignChange) error {
	return m.k.do(func() error { return m.CampaignStore.CommitCampaign(ctx, c) })
}

func (m mortalCampaigns) MarkQueued(ctx context.Context, id int64, devices []int64, at time.Time) error {
	return m.k.do(func() error { return m.CampaignStore.MarkQueued(ctx, id, devices, at) })
}

func (m mortalCampaigns) ReleaseCampaignLease(ctx context.Context, holder string) error {
	if m.k.killed() {
		return errKilled
	}
	return m.CampaignStore.ReleaseCampaignLease(ctx, holder)
}

// open starts the process; reg may be nil, and presence says who is online.
func (r *rig) open(presence bool, reg *prometheus.Registry) *office {
	o := &office{r: r, offline: map[int64]bool{}}
	options := rotation.CampaignOptions{Store: mortalCampaigns{r.db, r.kill}, Runner: r.runner, Poll: time.Second, Announce: func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.announced++
		live, err := r.db.LiveCampaigns(context.Background())
		if err != nil {
			r.t.Error(err)
		}
		for _, c := range live {
			o.most = max(o.most, c.Course.Counts().InFlight)
		}
	}}
	if reg != nil {
		options.Registerer = reg
	}
	if presence {
		options.Presence = func(device int64) rotation.Contact {
			o.mu.Lock()
			defer o.mu.Unlock()
			return rotation.Contact{Online: !o.offline[device], LastSeen: time.Now().Add(-time.Hour)}
		}
	}
	o.Campaigns = rotation.NewCampaigns(options)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := o.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	o.stop = func() { cancel(); <-done }
	return o
}

func (o *office) away(d *sim, away bool) { o.mu.Lock(); o.offline[d.id] = away; o.mu.Unlock() }

func everybody(fleet.DeviceRef) bool { return true }

func (o *office) create(d rotation.CampaignDraft) int64 {
	o.r.t.Helper()
	d.Selection.All = true
	if d.Rules.InFlight == 0 {
		d.Rules.InFlight = 1
	}
	if d.Rules.PauseMin == 0 {
		d.Rules.PauseRate, d.Rules.PauseMin = 0.2, 5
	}
	if d.Rules.DeferFor == 0 {
		d.Rules.Defer, d.Rules.DeferFor = true, 72*time.Hour
	}
	d.Name, d.Actor = "a test", "anna"
	c, err := o.Create(context.Background(), d, everybody)
	if err != nil {
		o.r.t.Fatal(err)
	}
	return c.ID
}

func (o *office) at(id int64) rotation.Campaign {
	o.r.t.Helper()
	c, err := o.r.db.Campaign(context.Background(), id)
	if err != nil {
		o.r.t.Fatal(err)
	}
	return c
}

func (o *office) member(id int64, d *sim) rotation.Member {
	o.r.t.Helper()
	list, err := o.r.db.Members(context.Background(), id, rotation.MemberFilter{Limit: 1000})
	if err != nil {
		o.r.t.Fatal(err)
	}
	for _, m := range list {
		if m.Device == d.id {
			return m
		}
	}
	o.r.t.Fatalf("device %d is not in campaign %d", d.id, id)
	return rotation.Member{}
}

func (o *office) is(id int64, state rotation.CampaignState, reason string, want rotation.Counts) {
	o.r.t.Helper()
	c := o.at(id)
	if got := c.Course.Counts(); c.Course.State != state || !strings.Contains(c.Course.Reason, reason) || got != want {
		o.r.t.Errorf("%s (%s) %+v, want %s (%s) %+v", c.Course.State, c.Course.Reason, got, state, reason, want)
	}
}

// attempts returns how many attempts a device had, and the outcome of the last.
func attempts(t *testing.T, d *sim) (n int, last rotation.Attempt) {
	t.Helper()
	list, err := d.r.db.RotationAttempts(context.Background(), d.id, 99)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) > 0 {
		last = list[0]
	}
	return len(list), last
}

// staff runs f with a server, devices at the built-in issuer, and campaigns.
func staff(t *testing.T, n int, presence bool, f func(*testing.T, *rig, *office, []*sim)) {
	t.Helper()
	staffed(t, n, presence, nil, f)
}

// staffed is staff with other options of the runner.
func staffed(t *testing.T, n int, presence bool, change func(*rotation.Options), f func(*testing.T, *rig, *office, []*sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, builtIn)
		if change != nil {
			r.change = change
		}
		all := r.devices(n)
		r.begin(-1, false)
		defer func() { r.stop() }()
		o := r.open(presence, r.reg)
		defer func() { o.stop() }()
		f(t, r, o, all)
	})
}

// Canaries first, then wave after wave, with a pause in between and never more in
// flight than is allowed.
func TestCampaignInWaves(t *testing.T) {
	staff(t, 9, false, func(t *testing.T, r *rig, o *office, all []*sim) {
		id := o.create(rotation.CampaignDraft{Canaries: 2, WaveSize: 4, Rules: rotation.CampaignRules{InFlight: 3, WavePause: 2 * time.Minute}})
		wave, paused := 0, 0
		began := map[int]time.Time{}
		until(t, all, func() bool {
			c := o.at(id)
			counts := c.Course.Counts()
			for i := range c.Course.Waves[c.Course.Wave:] {
				if w := c.Course.Waves[c.Course.Wave+i]; w.Waiting != w.Total() {
					t.Errorf("wave %d has begun in wave %d", c.Course.Wave+i+1, c.Course.Wave)
				}
			}
			if c.Course.Wave != wave {
				wave = c.Course.Wave
				began[wave] = time.Now()
				if wave > 1 && c.Course.Waves[wave-2].Done != c.Course.Waves[wave-2].Total() {
					t.Errorf("wave %d begins in %+v", wave, c.Course.Waves)
				}
			}
			if c.Course.State == rotation.CampaignWaiting {
				paused++
				if !strings.Contains(c.Course.Reason, "pause") {
					t.Errorf("waits for %s", c.Course.Reason)
				}
				if counts.InFlight > 0 {
					t.Errorf("in flight in a pause: %+v", counts)
				}
			}
			return c.Course.State == rotation.CampaignDone
		})
		o.is(id, rotation.CampaignDone, "", rotation.Counts{Done: 9})
		if wave != 3 || paused < 2*100 {
			t.Errorf("wave %d, %d times in a pause", wave, paused)
		}
		if d := began[3].Sub(began[2]); d < 2*time.Minute {
			t.Errorf("wave 3 is %v after wave 2", d)
		}
		for i, d := range all {
			m := o.member(id, d)
			n, last := attempts(t, d)
			if n != 1 || last.Campaign != id || last.Actor != "anna" || last.Reason != "a test" || last.Outcome != rotation.Done {
				t.Errorf("device %d: %d attempts, %+v", i, n, last)
			}
			if m.State != rotation.TurnDone || m.StartedAt.IsZero() || m.EndedAt.Before(m.StartedAt) {
				t.Errorf("%+v", m)
			}
		}
		c := o.at(id)
		if c.Course.StartedAt.IsZero() || c.Course.EndedAt.IsZero() {
			t.Errorf("%+v", c.Course)
		}
		o.mu.Lock()
		if o.announced < 6 || o.most != 3 {
			t.Errorf("%d announced, at most %d in flight", o.announced, o.most)
		}
		o.mu.Unlock()
		time.Sleep(20 * time.Second)
		for label, want := range map[string]float64{"done": 1, "running": 0, "paused": 0} {
			if got := metric(t, r, "iot_rotation_campaigns", label); got != want {
				t.Errorf("%s: %v", label, got)
			}
		}
		if got := metric(t, r, "iot_rotation_campaign_failure_rate", fmt.Sprint(id)); got != -1 {
			t.Errorf("the rate of a campaign that has ended: %v", got)
		}
	})
}

// A canary that fails pauses the campaign. Who goes on in spite of that is not
// paused again by it; and the device that came late counts as done.
func TestCampaignCanaryFails(t *testing.T) {
	staff(t, 4, false, func(t *testing.T, r *rig, o *office, all []*sim) {
		canary := all[0] // the oldest secret
		id := o.create(rotation.CampaignDraft{Canaries: 1, Rules: rotation.CampaignRules{InFlight: 3}})
		until(t, all[1:], func() bool { return o.at(id).Course.State == rotation.CampaignPaused })
		o.is(id, rotation.CampaignPaused, "canary", rotation.Counts{Failed: 1, Waiting: 3})
		if m := o.member(id, canary); m.State != rotation.TurnFailed || m.Wave != 1 || m.Reason == "" {
			t.Errorf("%+v", m)
		}
		time.Sleep(30 * time.Second)
		if got := metric(t, r, "iot_rotation_campaign_failure_rate", fmt.Sprint(id)); got != 1 { // as of the round after
			t.Errorf("failure rate %v", got)
		}
		for _, d := range all[1:] {
			if n, _ := attempts(t, d); n > 0 {
				t.Error("a device has begun in a pause")
			}
		}
		if _, err := o.Resume(context.Background(), id); err != nil {
			t.Fatal(err)
		}
		until(t, all[1:], func() bool { return o.at(id).Course.Counts().Done == 3 })
		o.is(id, rotation.CampaignDone, "", rotation.Counts{Failed: 1, Done: 3})
		until(t, all, func() bool { return o.at(id).Course.Counts().Done == 4 })
		if m := o.member(id, canary); m.State != rotation.TurnDone || m.Reason != "late" {
			t.Errorf("%+v", m)
		}
		if _, err := o.Pause(context.Background(), id, "anna"); fleet.KindOf(err) != fleet.InvalidOperation {
			t.Errorf("pause: %v", err)
		}
	})
}

// Too many failures pause the campaign, but not before enough is known; those in
// flight go on.
func TestCampaignPauses(t *testing.T) {
	lengthy(t)
	staff(t, 12, false, func(t *testing.T, r *rig, o *office, all []*sim) {
		id := o.create(rotation.CampaignDraft{Rules: rotation.CampaignRules{InFlight: 2, PauseRate: 0.3, PauseMin: 4}})
		silent := []*sim{all[0], all[3], all[4]}
		lively := slices.DeleteFunc(slices.Clone(all), func(d *sim) bool { return slices.Contains(silent, d) })
		until(t, lively, func() bool { return o.at(id).Course.State == rotation.CampaignPaused })
		c := o.at(id)
		counts := c.Course.Counts()
		if rate, _ := c.Course.Rate(); rate <= 0.3 || counts.Done+counts.Failed < 4 || !strings.Contains(c.Course.Reason, "failed") {
			t.Errorf("paused at %v, %+v: %s", rate, counts, c.Course.Reason)
		}
		until(t, all, func() bool { return o.at(id).Course.Counts().InFlight == 0 })
		if _, err := o.Resume(context.Background(), id); err != nil {
			t.Fatal(err)
		}
		until(t, all, func() bool { return o.at(id).Course.Counts().Done == 12 })
		o.is(id, rotation.CampaignDone, "", rotation.Counts{Done: 12})
	})
}

// Who is offline holds nobody up, and has their turn later; or never, if it takes
// too long.
func TestCampaignOffline(t *testing.T) {
	staff(t, 5, true, func(t *testing.T, r *rig, o *office, all []*sim) {
		here, short, long := all[2:], all[0], all[1]
		o.away(short, true)
		o.away(long, true)
		id := o.create(rotation.CampaignDraft{Canaries: 1, WaveSize: 2, Rules: rotation.CampaignRules{InFlight: 1, Defer: true, DeferFor: 20 * time.Minute}})
		if m := o.member(id, here[0]); m.Wave != 1 {
			t.Errorf("the canary is offline: %+v", m)
		}
		until(t, here, func() bool { return o.at(id).Course.Counts().Done == 3 })
		time.Sleep(time.Second)
		o.is(id, rotation.CampaignWaiting, "2 offline", rotation.Counts{Done: 3, Deferred: 2})
		if n, _ := attempts(t, short); n != 0 {
			t.Error("a device that is offline has begun")
		}
		o.away(short, false)
		until(t, []*sim{short}, func() bool { return o.at(id).Course.Counts().Done == 4 })
		o.is(id, rotation.CampaignWaiting, "1 offline", rotation.Counts{Done: 4, Deferred: 1})
		time.Sleep(20 * time.Minute)
		o.is(id, rotation.CampaignDone, "", rotation.Counts{Done: 4, Skipped: 1})
		if m := o.member(id, long); m.State != rotation.TurnSkipped || m.Reason != "was offline" {
			t.Errorf("%+v", m)
		}
	})
}

// A canary wave that showed nothing is no reason to go on.
func TestCampaignWithoutCanary(t *testing.T) {
	staff(t, 3, true, func(t *testing.T, r *rig, o *office, all []*sim) {
		for _, d := range all {
			o.away(d, true)
		}
		id := o.create(rotation.CampaignDraft{Canaries: 1, Rules: rotation.CampaignRules{Defer: true, DeferFor: 10 * time.Minute}})
		for _, d := range all[1:] {
			o.away(d, false)
		}
		time.Sleep(time.Minute)
		o.is(id, rotation.CampaignWaiting, "no canary", rotation.Counts{Waiting: 2, Deferred: 1})
		time.Sleep(10 * time.Minute)
		o.is(id, rotation.CampaignPaused, "no canary", rotation.Counts{Waiting: 2, Skipped: 1})
		if _, err := o.Resume(context.Background(), id); err != nil {
			t.Fatal(err)
		}
		until(t, all[1:], func() bool { return o.at(id).Course.State == rotation.CampaignDone })
	})
}

// A window over midnight: nobody begins outside of it.
func TestCampaignWindow(t *testing.T) {
	lengthy(t)
	staff(t, 16, false, func(t *testing.T, r *rig, o *office, all []*sim) {
		azores, err := time.LoadLocation("Atlantic/Azores") // where it is an hour before midnight when the test begins, a Friday
		if err != nil {
			t.Fatal(err)
		}
		window := rotation.Windows{Zone: "Atlantic/Azores", List: []rotation.Window{{Days: []int{5}, From: 23*60 + 58, To: 1}}}
		id := o.create(rotation.CampaignDraft{Rules: rotation.CampaignRules{Windows: window}})
		time.Sleep(time.Minute)
		o.is(id, rotation.CampaignWaiting, "window", rotation.Counts{Waiting: 16})
		open, end := time.Date(1999, 12, 31, 23, 58, 0, 0, azores), time.Date(2000, 1, 1, 0, 1, 0, 0, azores)
		time.Sleep(time.Until(open.Add(-2 * time.Second)))
		o.is(id, rotation.CampaignWaiting, "window", rotation.Counts{Waiting: 16})
		time.Sleep(4 * time.Second)
		o.is(id, rotation.CampaignRunning, "", rotation.Counts{Waiting: 15, InFlight: 1})
		for time.Now().Before(end.Add(30 * time.Second)) { // they are slow
			time.Sleep(20 * time.Second)
			for _, d := range all {
				d.live()
			}
			if now, c := time.Now(), o.at(id); now.Before(end) != (c.Course.State == rotation.CampaignRunning) && now.Sub(end).Abs() > 2*time.Second {
				t.Errorf("%v: %+v", now, c.Course)
			}
		}
		done := o.at(id).Course.Counts()
		time.Sleep(10 * time.Minute)
		if c := o.at(id); c.Course.State != rotation.CampaignWaiting || c.Course.Counts().Waiting != done.Waiting {
			t.Errorf("%+v after the window, %+v at its end", c.Course, done)
		}
		for _, d := range all {
			if m := o.member(id, d); !m.StartedAt.IsZero() && (m.StartedAt.Before(open) || !m.StartedAt.Before(end)) {
				t.Errorf("it began at %v", m.StartedAt)
			}
		}
		if n := done.Done; n == 0 || n == 16 {
			t.Errorf("%d were done: the test shows nothing", n)
		}
	})
}

// An abort skips who did not begin, and ends attempts; whose new secret is proven
// is done.
func TestCampaignAborted(t *testing.T) {
	staff(t, 5, false, func(t *testing.T, r *rig, o *office, all []*sim) {
		id := o.create(rotation.CampaignDraft{Rules: rotation.CampaignRules{InFlight: 2}})
		until(t, all[:1], func() bool { return o.at(id).Course.Counts().Done == 1 })
		time.Sleep(time.Second)
		if _, err := o.Abort(context.Background(), id, "anna"); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Abort(context.Background(), id, "anna"); err != nil {
			t.Errorf("twice: %v", err)
		}
		time.Sleep(2 * time.Second)
		o.is(id, rotation.CampaignAborted, "aborted by anna", rotation.Counts{Done: 1, Skipped: 4})
		if o.at(id).Course.EndedAt.IsZero() {
			t.Error("it goes on")
		}
		for _, d := range all[1:] {
			if rec := d.record(); rec.State.Wire == fleet.RotationPending || rec.State.Wire == fleet.RotationQueued {
				t.Errorf("%+v", rec.State)
			}
			if m := o.member(id, d); m.Reason != "the campaign was aborted" {
				t.Errorf("%+v", m)
			}
			if !d.login() {
				t.Error("locked out")
			}
		}
		for op, f := range map[string]func() error{
			"pause":  func() error { _, err := o.Pause(context.Background(), id, ""); return err },
			"resume": func() error { _, err := o.Resume(context.Background(), id); return err },
		} {
			if err := f(); fleet.KindOf(err) != fleet.InvalidOperation {
				t.Errorf("%s: %v", op, err)
			}
		}
		// They are free for another campaign.
		if next := o.create(rotation.CampaignDraft{}); o.at(next).Course.Waves[0].Total() != 5 {
			t.Errorf("%+v", o.at(next).Course.Waves)
		}
	})
}

// Two campaigns have no device in common, and nobody else's rotation is theirs.
func TestCampaignBusy(t *testing.T) {
	staff(t, 4, false, func(t *testing.T, r *rig, o *office, all []*sim) {
		all[3].queue()
		time.Sleep(time.Second)
		d := rotation.CampaignDraft{Selection: rotation.Selection{DeviceIDs: []int64{all[0].id, all[1].id, 4711}}, Rules: rotation.CampaignRules{InFlight: 1, PauseMin: 5, PauseRate: 0.2}}
		first, err := o.Create(context.Background(), d, everybody)
		if err != nil {
			t.Fatal(err)
		}
		f, err := o.Forecast(context.Background(), rotation.CampaignDraft{Selection: rotation.Selection{All: true}, Rules: rotation.CampaignRules{InFlight: 1}}, everybody)
		if err != nil {
			t.Fatal(err)
		}
		busy := fmt.Sprintf("busy: in campaign %d", first.ID)
		want := []rotation.Exclusion{{Device: all[0].id, Reason: busy}, {Device: all[1].id, Reason: busy}, {Device: all[3].id, Reason: "busy: it is being rotated"}}
		for i := range f.Excluded {
			f.Excluded[i].Key = ""
		}
		if !slices.Equal(f.Excluded, want) || len(f.Waves) != 1 || len(f.Waves[0]) != 1 {
			t.Errorf("%+v, %+v", f.Excluded, f.Waves)
		}
		if _, err := o.Create(context.Background(), d, everybody); fleet.KindOf(err) != fleet.InvalidOperation {
			t.Errorf("a second one: %v", err)
		}
		if _, err := o.Create(context.Background(), d, func(fleet.DeviceRef) bool { return false }); fleet.KindOf(err) != fleet.InvalidOperation {
			t.Errorf("of nobody: %v", err)
		}
		// Somebody else rotates the second device before its turn.
		if !all[1].queue() {
			t.Fatal("it was not queued")
		}
		until(t, all[:1], func() bool { return o.at(first.ID).Course.State == rotation.CampaignDone })
		o.is(first.ID, rotation.CampaignDone, "", rotation.Counts{Done: 1, Skipped: 1})
		if m := o.member(first.ID, all[1]); !strings.HasPrefix(m.Reason, "busy") {
			t.Errorf("%+v", m)
		}
	})
}

// Whatever the process is killed at, with or without an effect: the next one goes
// on, no device is rotated twice, and none is left out.
func TestCampaignKilled(t *testing.T) {
	lengthy(t)
	for _, effect := range []bool{false, true} {
		n := 0
		for ; n < 100; n++ {
			over := false
			if !t.Run(fmt.Sprintf("%d %v", n, effect), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { over = !killedCampaign(t, n, effect) })
			}) {
				return
			}
			if over {
				break
			}
		}
		if n < 8 {
			t.Errorf("a campaign has %d steps only", n)
		}
	}
}

// killedCampaign reports whether the process was killed before the campaign ended.
func killedCampaign(t *testing.T, things int, effect bool) (was bool) {
	r := newRig(t, builtIn)
	all := r.devices(4)
	r.begin(-1, false)
	defer func() { r.stop() }()
	r.kill = &killer{left: things, effect: effect} // of the campaigns alone
	mine := r.kill
	o := r.open(false, nil)
	defer func() { o.stop() }()
	id := o.create(rotation.CampaignDraft{Canaries: 1, Rules: rotation.CampaignRules{InFlight: 2}})
	until(t, all, func() bool {
		if mine.killed() && !was {
			was = true
			o.stop()
			r.kill = &killer{left: -1}
			o = r.open(false, nil)
		}
		c := o.at(id)
		if n := c.Course.Counts().InFlight; n > 2 {
			t.Errorf("%d in flight", n)
		}
		return !c.Course.EndedAt.IsZero()
	})
	o.is(id, rotation.CampaignDone, "", rotation.Counts{Done: 4})
	for _, d := range all {
		if n, last := attempts(t, d); n != 1 || last.Campaign != id || last.Outcome != rotation.Done {
			t.Errorf("%d attempts, %+v", n, last)
		}
	}
	return was
}

// Of two processes one looks after the campaigns, and the other when that ends.
func TestCampaignTwoProcesses(t *testing.T) {
	shared := func(o *rotation.Options) { o.Sole = false }
	staffed(t, 6, false, shared, func(t *testing.T, r *rig, o *office, all []*sim) {
		other := r.open(false, nil)
		defer func() { other.stop() }()
		id := o.create(rotation.CampaignDraft{})
		until(t, all, func() bool { return o.at(id).Course.Counts().Done >= 2 })
		o.stop()
		until(t, all, func() bool { return o.at(id).Course.State == rotation.CampaignDone })
		o.is(id, rotation.CampaignDone, "", rotation.Counts{Done: 6})
		for _, d := range all {
			if n, _ := attempts(t, d); n != 1 {
				t.Errorf("%d attempts", n)
			}
		}
	})
}

// Ten thousand devices in one campaign: it is made within a second, and a round of
// the process costs no more than with a few. The test looks for what is out of all
// proportion only; BenchmarkCampaignRound has the figures.
func TestCampaignLarge(t *testing.T) {
	lengthy(t)
	r := newRig(t, builtIn)
	r.fleet(10_000)
	r.begin(-1, false)
	defer func() { r.stop() }()
	o := rotation.NewCampaigns(rotation.CampaignOptions{Store: r.db, Runner: r.runner})
	start := time.Now()
	c, err := o.Create(t.Context(), rotation.CampaignDraft{
		Name: "x", Selection: rotation.Selection{All: true}, Canaries: 10, WaveSize: 1000, Rules: rotation.CampaignRules{InFlight: 20, PauseRate: 0.2, PauseMin: 5},
	}, everybody)
	took := time.Since(start)
	if err != nil || c.Course.Counts().Waiting != 10_000 || len(c.Course.Waves) != 11 {
		t.Fatalf("%+v, %v", c.Course, err)
	}
	t.Logf("made in %v", took)
	if took > 15*time.Second {
		t.Errorf("made in %v", took)
	}
}

// fleet makes so many devices, which are not at the issuer.
func (r *rig) fleet(n int) {
	r.t.Helper()
	now := time.Now()
	err := r.db.Tx(r.t.Context(), func(q registry.Queries) error {
		model, err := q.InsertModel(r.t.Context(), fleet.Model{Code: "relay", Name: "Relay", CreatedAt: now, UpdatedAt: now})
		if err != nil {
			return err
		}
		for range n {
			if _, err := q.InsertDevice(r.t.Context(), fleet.Device{Key: fleet.NewKey(), Model: fleet.Model{ID: model}, Active: true, Config: "{}", Rotation: fleet.RotationOK,
				SecretCreatedAt: &now, CreatedAt: now, UpdatedAt: now}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// BenchmarkCampaignRound is what a round costs in which a campaign has twenty
// devices in flight and nothing changes: it is the same for every size of it.
func BenchmarkCampaignRound(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newRig(b, builtIn)
			r.fleet(n)
			runner := rotation.NewRunner(rotation.Options{Store: r.db, Issuer: r.provider.Issuer, Box: r.box, Policy: policy(false), Sole: true})
			o := rotation.NewCampaigns(rotation.CampaignOptions{Store: r.db, Runner: runner})
			if _, err := o.Create(b.Context(), rotation.CampaignDraft{
				Name: "x", Selection: rotation.Selection{All: true}, Canaries: 0, Rules: rotation.CampaignRules{InFlight: 20, PauseRate: 0.2, PauseMin: 5},
			}, everybody); err != nil {
				b.Fatal(err)
			}
			round := o.Rounds()
			for range 3 {
				if err := round(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if err := round(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
