package main

import (
	"context"
	"os/signal"
	"syscall"

	"signalbox/internal/tail"
)

type tailCommand struct {
	Device []string `arg:"" optional:"" help:"Devices by key, entity id or name."`
	All    bool     `help:"Follow every device, also those made later, within half a minute."`
	Level  string   `placeholder:"LEVEL" enum:"error,warn,info,debug,verbose," default:"" help:"Show only lines at least this important: error, warn, info, debug or verbose. Lines without a level are shown too."`
	Grep   string   `placeholder:"REGEXP" help:"Show only lines whose message matches this regular expression (RE2)."`
	JSON   bool     `name:"json" help:"Print one JSON object a line."`
	Color  string   `enum:"auto,always,never" default:"auto" help:"Colour lines by level: auto (on a terminal), always or never."`
	Server string   `env:"SIGNALBOX_SERVER" default:"http://127.0.0.1:3101" placeholder:"URL" help:"Address of the server."`
	Token  string   `env:"SIGNALBOX_TOKEN" placeholder:"TOKEN" help:"Bearer token. Better given in the environment, where other users cannot see it."`
}

// Help is printed below the command's summary.
func (tailCommand) Help() string {
	return `Prints what devices say as they say it, until Ctrl-C. A lost connection is resumed without a lost or repeated line; lines that the server no longer has are told as a gap.

    signalbox tail kitchen-sensor --level warn
    signalbox tail --all --grep 'wifi|mqtt'`
}

// Run follows the devices until ctx ends.
func (c *tailCommand) Run(ctx context.Context, term terminal) error {
	// In "signalbox tail ... | head" the write fails, which ends the tail, and
	// the signal does not kill the program before.
	signal.Ignore(syscall.SIGPIPE)
	return client(ctx, tail.Run(ctx, tail.Config{
		Server:  c.Server,
		Token:   c.Token,
		Devices: c.Device,
		All:     c.All,
		Level:   c.Level,
		Grep:    c.Grep,
		JSON:    c.JSON,
		Color:   c.Color,
		Out:     term.out,
		Err:     term.err,
	}))
}
