package main

import (
	"context"
	"errors"
	"os/signal"
	"syscall"
	"time"

	"signalbox/internal/tail"
)

type campaignCommand struct {
	Plan   planCampaign   `cmd:"" help:"Show what a campaign would be: how many devices, how long, and who may fail. Starts nothing."`
	Start  startCampaign  `cmd:"" help:"Start a campaign."`
	List   listCampaigns  `cmd:"" help:"List campaigns, the newest first."`
	Show   showCampaign   `cmd:"" help:"Show one, and follow it."`
	Pause  pauseCampaign  `cmd:"" help:"Let no more devices begin; those that are being rotated go on."`
	Resume resumeCampaign `cmd:"" help:"Let a paused campaign go on."`
	Abort  abortCampaign  `cmd:"" help:"End a campaign: devices that did not begin are skipped."`
}

// Help is printed below the command's summary.
func (campaignCommand) Help() string {
	return `A campaign replaces the credentials of many devices: a first few, the canaries, and then the rest in waves. It pauses by itself when too many fail.

    signalbox campaign plan --model sensor --wave-size 100 --in-flight 10
    signalbox campaign start 'May rotation' --model sensor --wave-size 100 --in-flight 10 --window '1-5 22:00-06:00' --timezone Europe/Berlin
    signalbox campaign show 3 --follow

docs/CAMPAIGNS.md tells all of it.`
}

// campaignServer is what each of the commands needs.
type campaignServer struct {
	JSON bool `name:"json" help:"Print JSON, as the server answers."`
	serverFlags
}

func (s *campaignServer) config(term terminal) tail.CampaignsConfig {
	signal.Ignore(syscall.SIGPIPE) // as in tail
	return tail.CampaignsConfig{Server: s.Server, Token: s.token(), JSON: s.JSON, Out: term.out}
}

// campaignFlags say what a campaign is to be. What is not given is the server's to say.
type campaignFlags struct {
	All             bool     `help:"Every active device."`
	Device          []string `sep:"none" placeholder:"NAME" help:"This device, by key, entity id or name; may be given several times."`
	Model           []string `placeholder:"CODE" help:"The devices of this model."`
	Tag             []string `sep:"none" placeholder:"TAG" help:"The devices with this tag."`
	OlderThan       *int     `placeholder:"DAYS" help:"Of those, only devices whose secret is at least so old."`
	State           []string `placeholder:"STATE" help:"Of those, only devices whose rotation is in this state: OK or TIMEOUT."`
	IncludeInactive bool     `help:"Inactive devices, too."`

	Canary       *int           `placeholder:"N" help:"Devices that go first; the campaign pauses when one of them fails. 0: none; if not given, 1."`
	WaveSize     *int           `placeholder:"N" help:"Devices of each later wave; if not given, all in one."`
	InFlight     *int           `placeholder:"N" help:"Devices that are rotated at once; if not given, 1."`
	WavePause    *time.Duration `placeholder:"TIME" help:"Pause between waves, such as 15m or 2h."`
	PauseRate    *float64       `placeholder:"SHARE" help:"Pause when more than this share failed, 0 to 1; if not given, 0.2."`
	PauseMin     *int           `placeholder:"N" help:"But not before so many devices are through; if not given, 5."`
	Window       []string       `sep:"none" placeholder:"WINDOW" help:"Begin devices only then, as in '1-5 22:00-06:00' (1 is Monday); may be given several times."`
	Timezone     string         `placeholder:"ZONE" help:"Time zone of the windows, such as Europe/Berlin; if not given, UTC."`
	DeferOffline *bool          `negatable:"" help:"Devices that are offline have their turn when they come back; on if not given."`
	DeferHours   *int           `placeholder:"N" help:"For so many hours; then they are skipped. If not given, 72."`
	Reason       string         `placeholder:"TEXT" help:"Why; shown with the campaign and in the history of each device."`

	campaignServer
}

func (f *campaignFlags) draft(name string) tail.CampaignDraft {
	return tail.CampaignDraft{
		Name: name, Reason: f.Reason, All: f.All, Devices: f.Device, Models: f.Model, Tags: f.Tag, States: f.State, OlderDays: f.OlderThan,
		IncludeInactive: f.IncludeInactive, Canary: f.Canary, WaveSize: f.WaveSize, InFlight: f.InFlight, PauseMin: f.PauseMin, PauseRate: f.PauseRate,
		WavePause: f.WavePause, Windows: f.Window, Timezone: f.Timezone, DeferOffline: f.DeferOffline, DeferHours: f.DeferHours,
	}
}

type planCampaign struct{ campaignFlags }

// Run prints the plan.
func (c *planCampaign) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, tail.PlanCampaign(ctx, c.config(term), c.draft("")))
}

type startCampaign struct {
	Name string `arg:"" help:"What the campaign is called."`
	campaignFlags
}

// Run starts the campaign.
func (c *startCampaign) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, tail.StartCampaign(ctx, c.config(term), c.draft(c.Name)))
}

type listCampaigns struct{ campaignServer }

// Run prints the campaigns.
func (c *listCampaigns) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, tail.ListCampaigns(ctx, c.config(term)))
}

// campaignID names one.
type campaignID struct {
	ID int64 `arg:"" name:"id" help:"The number of the campaign."`
	campaignServer
}

type showCampaign struct {
	Follow  bool   `short:"f" help:"Print a line for each change, until the campaign ends; then exit with 1 if a device failed."`
	Devices bool   `help:"Print its devices instead."`
	State   string `enum:"waiting,deferred,in_flight,done,failed,skipped," default:"" placeholder:"STATE" help:"With --devices: only those that are waiting, deferred, in_flight, done, failed or skipped."`
	campaignID
}

// Run prints the campaign.
func (c *showCampaign) Run(ctx context.Context, term terminal) error {
	switch {
	case c.Devices && c.Follow:
		return usageError{errors.New("--devices and --follow do not go together")}
	case c.State != "" && !c.Devices:
		return usageError{errors.New("--state needs --devices")}
	case c.Devices:
		return c.outcome(ctx, tail.CampaignDevices(ctx, c.config(term), c.ID, c.State))
	}
	return c.outcome(ctx, tail.ShowCampaign(ctx, c.config(term), c.ID, c.Follow))
}

type pauseCampaign struct{ campaignID }

// Run pauses the campaign.
func (c *pauseCampaign) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, tail.SteerCampaign(ctx, c.config(term), c.ID, "pause"))
}

type resumeCampaign struct{ campaignID }

// Run lets the campaign go on.
func (c *resumeCampaign) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, tail.SteerCampaign(ctx, c.config(term), c.ID, "resume"))
}

type abortCampaign struct{ campaignID }

// Run ends the campaign.
func (c *abortCampaign) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, tail.SteerCampaign(ctx, c.config(term), c.ID, "abort"))
}
