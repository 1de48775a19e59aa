package main

import (
	"context"
	"os/signal"
	"syscall"

	"signalbox/internal/tail"
)

type logsCommand struct {
	Device []string `arg:"" optional:"" help:"Devices by key, entity id or name."`
	All    bool     `help:"Print the lines of every device."`
	Model  string   `placeholder:"CODE" help:"Print the lines of every device of this model."`
	Since  string   `placeholder:"TIME" help:"Begin with the lines of this time."`
	Until  string   `placeholder:"TIME" help:"End with the lines of this time."`
	Lines  *int     `short:"n" placeholder:"N" help:"Print the newest N lines; 0: all. [default 100, with --since all]"`
	Follow bool     `short:"f" help:"Then follow what the devices say, as tail does, without a lost or repeated line in between."`
	Level  string   `placeholder:"LEVEL" enum:"error,warn,info,debug,verbose," default:"" help:"Show only lines at least this important: error, warn, info, debug or verbose. Lines without a level are shown too."`
	Tag    string   `placeholder:"TAG" help:"Show only lines with this tag, in any case."`
	Grep   string   `placeholder:"REGEXP" help:"Show only lines whose message matches this regular expression (RE2), as in tail."`
	Word   string   `placeholder:"PATTERN" help:"Show only lines whose message has these words, in any case; * is any text, ? any one character. Faster than --grep."`
	JSON   bool     `name:"json" help:"Print one JSON object a line."`
	Color  string   `enum:"auto,always,never" default:"auto" help:"Colour lines by level: auto (on a terminal), always or never."`
	Server string   `env:"SIGNALBOX_SERVER" default:"http://127.0.0.1:3101" placeholder:"URL" help:"Address of the server."`
	Token  string   `env:"SIGNALBOX_TOKEN" placeholder:"TOKEN" help:"Bearer token. Better given in the environment, where other users cannot see it."`
}

// Help is printed below the command's summary.
func (logsCommand) Help() string {
	return `Prints what devices said before, oldest first, and with -f what they go on to say. Lines that the server no longer has are told as a gap.

A TIME is one like 2026-02-01T14:30:00Z, a date (its first moment), a date and a time of it like 2026-02-01T14:30, a time of today like 14:30, or how long ago: 90s, 30m, 2h, 7d.

    signalbox logs kitchen-sensor
    signalbox logs kitchen-sensor hallway -n 1000 -f
    signalbox logs --all --since 2h --level warn
    signalbox logs --model sensor --since 14:00 --until 14:30 --grep 'wifi|mqtt'
    signalbox logs --all --since 7d --word 'beacon timeout' --json | jq -r .device_key`
}

// Run prints the lines.
func (c *logsCommand) Run(ctx context.Context, term terminal) error {
	signal.Ignore(syscall.SIGPIPE) // as in tail
	return client(ctx, tail.History(ctx, tail.HistoryConfig{
		Config: tail.Config{
			Server:  c.Server,
			Token:   c.Token,
			Devices: c.Device,
			All:     c.All,
			Model:   c.Model,
			Level:   c.Level,
			Grep:    c.Grep,
			Word:    c.Word,
			Tag:     c.Tag,
			JSON:    c.JSON,
			Color:   c.Color,
			Out:     term.out,
			Err:     term.err,
		},
		Since:  c.Since,
		Until:  c.Until,
		Lines:  c.Lines,
		Follow: c.Follow,
	}))
}
