package main

import (
	"context"
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

	serverFlags
}

// Help is printed below the command's summary.
func (simCommand) Help() string {
	return `Plays a fleet of ESP32 boards: boot banners, coloured lines of all levels, bursts, panics with backtraces, reboots and drop-outs. For a demo, or as load.

    signalbox sim --devices 200 --rate 5 --duration 10m
    signalbox sim --login token --token "$TOKEN"          # where the broker asks devices who they are`
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
		Server:         c.Server,
		Token:          c.token(),
		Log:            newLogger(term.err, "info", "auto"),
	}))
}
