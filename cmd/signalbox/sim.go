package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"signalbox/internal/sim"
)

type simCommand struct {
	Devices        int           `default:"20" placeholder:"N" help:"Number of devices."`
	Rate           float64       `default:"1" placeholder:"N" help:"Lines per second of each device, on average."`
	Duration       time.Duration `placeholder:"TIME" help:"Stop after this long, such as 30s or 10m. Without it: on Ctrl-C."`
	Seed           uint64        `default:"1" placeholder:"N" help:"Equal seeds make the devices say equal lines."`
	Model          string        `default:"simulated" placeholder:"CODE" help:"Device model that the devices are of. Made when missing."`
	Mqtt           string        `env:"SIGNALBOX_MQTT" default:"mqtt://127.0.0.1:1883" placeholder:"URL" help:"MQTT broker that the devices talk to."`
	Login          string        `default:"none" enum:"none,token,secret" placeholder:"HOW" help:"How the devices prove who they are: none, token or secret. They get what they need for it from the server, and publish below the topic."`
	Password       string        `env:"SIGNALBOX_MQTT_PASSWORD" placeholder:"SECRET" help:"Password of every device at the broker, with --login=none."`
	Topic          string        `default:"iotsupport/logsink" help:"MQTT topic of the log lines."`
	PerClientTopic bool          `help:"Publish each device's lines below the topic, under its client id."`

	Offline      share         `placeholder:"SHARE" help:"Devices that are off: every second one for ever, the others on for ten seconds of each minute. Shares are written 0.2 or 20%."`
	Flaky        share         `placeholder:"SHARE" help:"Devices whose connection drops all the time and half of whose requests fail."`
	Slow         share         `placeholder:"SHARE" help:"Devices that wait for 10 to 60 seconds before each step of a rotation."`
	OldFirmware  share         `placeholder:"SHARE" help:"Devices that know the topic of all devices only, and prove nothing but by their next token."`
	LostResponse share         `placeholder:"SHARE" help:"Devices that the first answer with a new secret does not reach."`
	NeverProves  share         `placeholder:"SHARE" help:"Devices that fetch their new secret and go on with the old one."`
	Think        time.Duration `placeholder:"TIME" help:"What every device takes before each step of a rotation."`
	State        string        `type:"path" placeholder:"FILE" help:"Keep the devices' secrets in this file over restarts, as their flash does. Anybody who can read it can be them."`
	RotateReport string        `type:"path" placeholder:"FILE" help:"Write what became of each device's secret to this file at the end, as JSON."`

	serverFlags
}

// share is a part of the devices, from 0 to 1, written as that or in percent.
type share float64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *share) UnmarshalText(text []byte) error {
	number, percent := strings.CutSuffix(string(text), "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return fmt.Errorf("%q is not a share such as 0.2 or 20%%", text)
	}
	*s = share(v)
	return nil
}

// Help is printed below the command's summary.
func (simCommand) Help() string {
	return `Plays a fleet of ESP32 boards: boot banners, coloured lines of all levels, bursts, panics with backtraces, reboots and drop-outs. For a demo, or as load.

    signalbox sim --devices 200 --rate 5 --duration 10m
    signalbox sim --login token --token "$TOKEN"          # where the broker asks devices who they are

With a login the devices hear when their credentials are to be rotated, and replace them. Some of them can be made difficult, each in one way:

    signalbox sim --login token --devices 200 --offline 4% --flaky 4% --slow 4% --lost-response 4% --rotate-report report.json`
}

// Run lets the devices live until ctx ends or the duration is over.
func (c *simCommand) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, sim.Run(ctx, sim.Config{
		Devices:        c.Devices,
		Rate:           c.Rate,
		Duration:       c.Duration,
		Seed:           c.Seed,
		Model:          c.Model,
		MQTT:           c.Mqtt,
		Login:          sim.Login(c.Login),
		Password:       c.Password,
		Topic:          c.Topic,
		PerClientTopic: c.PerClientTopic,
		Shares: sim.Shares{
			Offline: float64(c.Offline), Flaky: float64(c.Flaky), Slow: float64(c.Slow), OldFirmware: float64(c.OldFirmware),
			LostResponse: float64(c.LostResponse), NeverProves: float64(c.NeverProves),
		},
		Think:  c.Think,
		State:  c.State,
		Report: c.RotateReport,
		Server: c.Server,
		Token:  c.token(),
		Log:    newLogger(term.err, "info", "auto"),
	}))
}
