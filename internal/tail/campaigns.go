package tail

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"signalbox/internal/fleet"
)

// CampaignsConfig says which server has the campaigns, and where to print.
type CampaignsConfig struct {
	Server, Token string
	JSON          bool
	Out           io.Writer

	// Poll is how often a campaign that is followed is looked at; 0 is 2 s.
	Poll time.Duration
}

// CampaignDraft is a campaign as it is asked for on the command line. What is nil
// or "" is left to the server.
type CampaignDraft struct {
	Name, Reason string

	All             bool
	Devices         []string // by key, entity id or name
	Models          []string // codes
	Tags            []string
	States          []string
	OlderDays       *int
	IncludeInactive bool

	Canary, WaveSize, InFlight, PauseMin *int
	PauseRate                            *float64
	WavePause                            *time.Duration
	Windows                              []string // as in "1-5 22:00-06:00"
	Timezone                             string
	DeferOffline                         *bool
	DeferHours                           *int
}

// campaignTime is how long the server may take to make or plan one.
const campaignTime = time.Minute

type campaignWindow struct {
	Days []int  `json:"days"`
	From string `json:"from"`
	To   string `json:"to"`
}

// parseCampaignWindow reads days and times, as in "1-5 22:00-06:00", "6,7 00:00-24:00",
// or a time alone for every day. The server looks at the times.
func parseCampaignWindow(text string) (w campaignWindow, err error) {
	wrong := fleet.E(fleet.Invalid, nil, "--window %q is none: use one like \"1-5 22:00-06:00\", where 1 is Monday and 7 is Sunday", text)
	fields := strings.Fields(text)
	if len(fields) == 1 {
		fields = []string{"1-7", fields[0]}
	}
	if len(fields) != 2 {
		return w, wrong
	}
	for part := range strings.SplitSeq(fields[0], ",") {
		first, last, span := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		b := a
		if err == nil && span {
			b, err = strconv.Atoi(last)
		}
		if err != nil || a < 1 || b > 7 || a > b {
			return w, wrong
		}
		for d := a; d <= b; d++ {
			if !slices.Contains(w.Days, d) {
				w.Days = append(w.Days, d)
			}
		}
	}
	var ok bool
	if w.From, w.To, ok = strings.Cut(fields[1], "-"); !ok {
		return w, wrong
	}
	return w, nil
}

// body returns the body of the request for the draft.
func (d *CampaignDraft) body(ctx context.Context, a *api, dry bool) (map[string]any, error) {
	selection := map[string]any{}
	if d.All {
		selection["all"] = true
	}
	if len(d.Devices) > 0 {
		all, err := a.devices(ctx, 0)
		if err != nil {
			return nil, err
		}
		picked, err := pick(all, d.Devices)
		if err != nil {
			return nil, err
		}
		ids := make([]int64, len(picked))
		for i, p := range picked {
			ids[i] = p.ID
		}
		selection["device_ids"] = ids
	}
	if len(d.Models) > 0 {
		all, err := a.models(ctx)
		if err != nil {
			return nil, err
		}
		var ids []int64
		for _, code := range d.Models {
			id, err := findModel(all, code)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		selection["model_ids"] = ids
	}
	if len(d.Tags) > 0 {
		selection["tags"] = d.Tags
	}
	if len(d.States) > 0 {
		selection["states"] = d.States
	}
	if d.OlderDays != nil {
		selection["secret_older_than_days"] = *d.OlderDays
	}
	if len(selection) == 0 {
		return nil, fleet.E(fleet.Invalid, nil, "Say which devices: --all, --device, --model, --tag, --older-than or --state")
	}
	if d.IncludeInactive {
		selection["include_inactive"] = true
	}
	body := map[string]any{"name": cmp.Or(d.Name, "plan"), "selection": selection}
	if d.Reason != "" {
		body["reason"] = d.Reason
	}
	if d.Canary != nil {
		body["canary"] = map[string]int{"count": *d.Canary}
	}
	for name, n := range map[string]*int{"wave_size": d.WaveSize, "in_flight": d.InFlight, "pause_min_devices": d.PauseMin, "defer_hours": d.DeferHours} {
		if n != nil {
			body[name] = *n
		}
	}
	if d.PauseRate != nil {
		body["pause_failure_rate"] = *d.PauseRate
	}
	if d.WavePause != nil {
		body["wave_pause_seconds"] = int(d.WavePause.Seconds())
	}
	if d.DeferOffline != nil {
		body["defer_offline"] = *d.DeferOffline
	}
	if d.Timezone != "" {
		body["timezone"] = d.Timezone
	}
	var windows []campaignWindow
	for _, text := range d.Windows {
		w, err := parseCampaignWindow(text)
		if err != nil {
			return nil, err
		}
		windows = append(windows, w)
	}
	if windows != nil {
		body["windows"] = windows
	}
	if dry {
		body["dry_run"] = true
	}
	return body, nil
}

// with runs f with the server's API.
func (cfg *CampaignsConfig) with(ctx context.Context, f func(*api) error) error {
	a, err := newAPI(cfg.Server, cfg.Token, nil, defaultPace)
	if err != nil {
		return err
	}
	defer a.close()
	return outcome(ctx, f(a))
}

func (cfg *CampaignsConfig) json(raw json.RawMessage) error {
	_, err := fmt.Fprintln(cfg.Out, escapeJSON(strings.TrimSpace(string(raw))))
	return err
}

// PlanCampaign prints what a campaign would be.
func PlanCampaign(ctx context.Context, cfg CampaignsConfig, d CampaignDraft) error {
	return cfg.with(ctx, func(a *api) error {
		body, err := d.body(ctx, a, true)
		if err != nil {
			return err
		}
		var answer struct {
			Plan json.RawMessage `json:"plan"`
		}
		if err := a.call(ctx, http.MethodPost, a.base.JoinPath("api/rotation/campaigns"), campaignTime, body, &answer); err != nil {
			return err
		}
		if cfg.JSON {
			return cfg.json(answer.Plan)
		}
		var plan struct {
			Devices int `json:"devices"`
			Waves   []struct {
				Size int `json:"size"`
			} `json:"waves"`
			Seconds int64  `json:"expected_seconds"`
			End     string `json:"expected_end"`
			AtRisk  []struct {
				Key   string  `json:"key"`
				Name  *string `json:"device_name"`
				Risks []struct {
					Kind   string `json:"kind"`
					Detail string `json:"detail"`
				} `json:"risks"`
			} `json:"at_risk"`
			Excluded []struct {
				ID     int64  `json:"device_id"`
				Key    string `json:"key"`
				Reason string `json:"reason"`
			} `json:"excluded"`
		}
		if err := json.Unmarshal(answer.Plan, &plan); err != nil {
			return a.stranger(err)
		}
		var sizes []string
		for i, w := range plan.Waves {
			if i == 12 {
				sizes = append(sizes, "…")
				break
			}
			sizes = append(sizes, strconv.Itoa(w.Size))
		}
		t := tabwriter.NewWriter(cfg.Out, 0, 8, 2, ' ', 0)
		fmt.Fprintf(t, "Devices\t%d\n", plan.Devices)
		fmt.Fprintf(t, "Waves\t%d: %s\n", len(plan.Waves), strings.Join(sizes, ", "))
		fmt.Fprintf(t, "Takes about\t%s, until %s\n", time.Duration(plan.Seconds)*time.Second, localTime(plan.End))
		fmt.Fprintf(t, "At risk\t%d\n", len(plan.AtRisk))
		for _, d := range plan.AtRisk {
			for _, r := range d.Risks {
				fmt.Fprintf(t, "  %s\t%s: %s\n", escape(cmp.Or(text(d.Name), d.Key)), escape(r.Kind), escape(r.Detail))
			}
		}
		fmt.Fprintf(t, "Left out\t%d\n", len(plan.Excluded))
		for _, d := range plan.Excluded {
			fmt.Fprintf(t, "  %s\t%s\n", escape(cmp.Or(d.Key, "device "+strconv.FormatInt(d.ID, 10))), escape(d.Reason))
		}
		fmt.Fprintln(t, "Nothing was started.\t")
		return t.Flush()
	})
}

// shownCampaign is what is printed of a campaign.
type shownCampaign struct {
	ID          int64   `json:"id"`
	Name        string  `json:"name"`
	Reason      *string `json:"reason"`
	State       string  `json:"state"`
	StateReason *string `json:"state_reason"`
	CreatedBy   *string `json:"created_by"`
	CreatedAt   string  `json:"created_at"`
	EndedAt     *string `json:"ended_at"`
	ExpectedEnd *string `json:"expected_end"`
	NextWindow  *string `json:"next_window_at"`
	Wave        int     `json:"wave"`
	Waves       []struct {
		Number, Size, Done, Failed, Deferred int
	} `json:"waves"`
	Counts struct {
		Total    int `json:"total"`
		Waiting  int `json:"waiting"`
		Deferred int `json:"deferred"`
		InFlight int `json:"in_flight"`
		Done     int `json:"done"`
		Failed   int `json:"failed"`
		Skipped  int `json:"skipped"`
	} `json:"counts"`
	FailureRate *float64 `json:"failure_rate"`
}

// over reports whether nothing will happen to it any more.
func (c *shownCampaign) over() bool { return c.EndedAt != nil }

// state is its state with the reason.
func (c *shownCampaign) state() string {
	switch {
	case c.StateReason == nil:
		return escape(c.State)
	case strings.HasPrefix(*c.StateReason, c.State): // "paused by ann"
		return escape(*c.StateReason)
	}
	return escape(c.State) + " (" + escape(*c.StateReason) + ")"
}

// progress is where it stands, in one line.
func (c *shownCampaign) progress() string {
	n := c.Counts
	return fmt.Sprintf("%s  wave %d/%d  %d of %d done, %d in flight, %d waiting, %d deferred, %d failed, %d skipped",
		c.state(), c.Wave, len(c.Waves), n.Done, n.Total, n.InFlight, n.Waiting, n.Deferred, n.Failed, n.Skipped)
}

func localTime(iso string) string {
	t, err := time.Parse(time.RFC3339, iso)
	if err != nil {
		return escape(iso)
	}
	return t.Local().Format("2006-01-02 15:04")
}

func (cfg *CampaignsConfig) print(c *shownCampaign) error {
	t := tabwriter.NewWriter(cfg.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "Campaign\t%d %s\n", c.ID, escape(c.Name))
	if c.Reason != nil {
		fmt.Fprintf(t, "Reason\t%s\n", escape(*c.Reason))
	}
	fmt.Fprintf(t, "Begun\t%s by %s\n", localTime(c.CreatedAt), escape(cmp.Or(text(c.CreatedBy), "somebody")))
	fmt.Fprintf(t, "State\t%s\n", c.state())
	if c.EndedAt != nil {
		fmt.Fprintf(t, "Ended\t%s\n", localTime(*c.EndedAt))
	}
	if c.NextWindow != nil {
		fmt.Fprintf(t, "Next window\t%s\n", localTime(*c.NextWindow))
	}
	if c.ExpectedEnd != nil {
		fmt.Fprintf(t, "Expected end\t%s\n", localTime(*c.ExpectedEnd))
	}
	n := c.Counts
	fmt.Fprintf(t, "Devices\t%d: %d done, %d in flight, %d waiting, %d deferred, %d failed, %d skipped\n", n.Total, n.Done, n.InFlight, n.Waiting, n.Deferred, n.Failed, n.Skipped)
	if c.FailureRate != nil {
		fmt.Fprintf(t, "Failures\t%.0f %%\n", *c.FailureRate*100)
	}
	for _, w := range c.Waves {
		mark := ""
		if w.Number == c.Wave && !c.over() {
			mark = "  <- now"
		}
		fmt.Fprintf(t, "  Wave %d\t%d of %d done, %d failed, %d deferred%s\n", w.Number, w.Done, w.Size, w.Failed, w.Deferred, mark)
	}
	return t.Flush()
}

func (cfg *CampaignsConfig) show(a *api, raw json.RawMessage) (c shownCampaign, err error) {
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, a.stranger(err)
	}
	if cfg.JSON {
		return c, cfg.json(raw)
	}
	return c, cfg.print(&c)
}

// StartCampaign makes a campaign and prints it.
func StartCampaign(ctx context.Context, cfg CampaignsConfig, d CampaignDraft) error {
	return cfg.with(ctx, func(a *api) error {
		body, err := d.body(ctx, a, false)
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := a.call(ctx, http.MethodPost, a.base.JoinPath("api/rotation/campaigns"), campaignTime, body, &raw); err != nil {
			return err
		}
		_, err = cfg.show(a, raw)
		return err
	})
}

// ListCampaigns prints the newest campaigns.
func ListCampaigns(ctx context.Context, cfg CampaignsConfig) error {
	return cfg.with(ctx, func(a *api) error {
		var answer struct {
			Campaigns []json.RawMessage `json:"campaigns"`
		}
		if err := a.get(ctx, "api/rotation/campaigns", nil, campaignTime, &answer); err != nil {
			return err
		}
		t := tabwriter.NewWriter(cfg.Out, 0, 8, 2, ' ', 0)
		for _, raw := range answer.Campaigns {
			if cfg.JSON {
				if err := cfg.json(raw); err != nil {
					return err
				}
				continue
			}
			var c shownCampaign
			if err := json.Unmarshal(raw, &c); err != nil {
				return a.stranger(err)
			}
			fmt.Fprintf(t, "%d\t%s\t%s\t%d/%d\t%s\n", c.ID, localTime(c.CreatedAt), escape(c.Name), c.Counts.Done, c.Counts.Total, c.state())
		}
		return t.Flush()
	})
}

// ShowCampaign prints a campaign. With follow it goes on with a line for each
// change until the campaign ends.
func ShowCampaign(ctx context.Context, cfg CampaignsConfig, id int64, follow bool) error {
	return cfg.with(ctx, func(a *api) error {
		path := "api/rotation/campaigns/" + strconv.FormatInt(id, 10)
		var raw json.RawMessage
		if err := a.get(ctx, path, nil, a.pace.call, &raw); err != nil {
			return err
		}
		c, err := cfg.show(a, raw)
		if err != nil {
			return err
		}
		last := c.progress()
		for follow && !c.over() {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(cmp.Or(cfg.Poll, 2*time.Second)):
			}
			err := a.get(ctx, path, nil, a.pace.call, &raw)
			switch k := fleet.KindOf(err); {
			case err != nil && (k == fleet.Unavailable || k == fleet.TooMany || k == fleet.External):
				continue // the server is away: the campaign is not
			case err != nil:
				return err
			}
			c = shownCampaign{}
			if err := json.Unmarshal(raw, &c); err != nil {
				return a.stranger(err)
			}
			now := c.progress()
			if now == last {
				continue
			}
			last = now
			if cfg.JSON {
				err = cfg.json(raw)
			} else {
				_, err = fmt.Fprintf(cfg.Out, "%s  %s\n", time.Now().Format("15:04:05"), now)
			}
			if err != nil {
				return err
			}
		}
		if follow && c.State == "aborted" {
			return fleet.E(fleet.External, nil, "The campaign was aborted")
		}
		if follow && c.Counts.Failed > 0 {
			return fleet.E(fleet.External, nil, "%d devices failed", c.Counts.Failed)
		}
		return nil
	})
}

// CampaignDevices prints the devices of a campaign, all or those in a state.
func CampaignDevices(ctx context.Context, cfg CampaignsConfig, id int64, state string) error {
	return cfg.with(ctx, func(a *api) error {
		t := tabwriter.NewWriter(cfg.Out, 0, 8, 2, ' ', 0)
		for after := int64(0); ; {
			var page struct {
				Devices []json.RawMessage `json:"devices"`
				Next    *int64            `json:"next"`
			}
			query := url.Values{"limit": {"1000"}, "after": {strconv.FormatInt(after, 10)}}
			if state != "" {
				query.Set("state", state)
			}
			if err := a.get(ctx, "api/rotation/campaigns/"+strconv.FormatInt(id, 10)+"/devices", query, a.pace.call, &page); err != nil {
				return err
			}
			for _, raw := range page.Devices {
				if cfg.JSON {
					if err := cfg.json(raw); err != nil {
						return err
					}
					continue
				}
				var d struct {
					Key    string  `json:"key"`
					Name   *string `json:"device_name"`
					Wave   int     `json:"wave"`
					State  string  `json:"state"`
					Reason *string `json:"reason"`
				}
				if err := json.Unmarshal(raw, &d); err != nil {
					return a.stranger(err)
				}
				fmt.Fprintf(t, "%s\t%s\twave %d\t%s\t%s\n", escape(d.Key), escape(text(d.Name)), d.Wave, escape(d.State), escape(text(d.Reason)))
			}
			if page.Next == nil || *page.Next <= after {
				return t.Flush()
			}
			after = *page.Next
		}
	})
}

// SteerCampaign pauses, resumes or aborts a campaign, as what says, and prints it.
func SteerCampaign(ctx context.Context, cfg CampaignsConfig, id int64, what string) error {
	return cfg.with(ctx, func(a *api) error {
		var raw json.RawMessage
		target := a.base.JoinPath("api/rotation/campaigns", strconv.FormatInt(id, 10), what)
		if err := a.call(ctx, http.MethodPost, target, campaignTime, struct{}{}, &raw); err != nil {
			return err
		}
		_, err := cfg.show(a, raw)
		return err
	})
}
