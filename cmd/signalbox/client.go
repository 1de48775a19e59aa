package main

import (
	"context"
	"os/signal"
	"syscall"

	"signalbox/internal/tail"
)

// clientFlags are what tail and logs have in common: where the lines are, which
// are meant and how they are shown.
type clientFlags struct {
	Device []string `arg:"" optional:"" help:"Devices by key, entity id or name."`
	All    bool     `help:"Every device; what is followed includes those made later."`
	Model  string   `placeholder:"CODE" help:"Every device of this model, likewise."`
	Level  string   `placeholder:"LEVEL" enum:"error,warn,info,debug,verbose," default:"" help:"Show only lines at least this important: error, warn, info, debug or verbose. Lines without a level are shown too."`
	Tag    string   `placeholder:"TAG" help:"Show only lines with this tag, in any case."`
	Grep   string   `placeholder:"REGEXP" help:"Show only lines whose message matches this regular expression (RE2)."`
	Word   string   `placeholder:"PATTERN" help:"Show only lines whose message has these words, in any case; * is any text, ? any one character. Faster than --grep."`
	JSON   bool     `name:"json" help:"Print one JSON object a line."`
	Color  string   `enum:"auto,always,never" default:"auto" help:"Colour lines by level: auto (on a terminal), always or never."`

	serverFlags
}

// run does what the command is for, with the flags.
func (f *clientFlags) run(ctx context.Context, term terminal, does func(context.Context, tail.Config) error) error {
	// In "signalbox tail ... | head" the write fails, which ends the tail, and
	// the signal does not kill the program before.
	signal.Ignore(syscall.SIGPIPE)
	return f.outcome(ctx, does(ctx, tail.Config{
		Server:  f.Server,
		Token:   f.token(),
		Devices: f.Device,
		All:     f.All,
		Model:   f.Model,
		Level:   f.Level,
		Grep:    f.Grep,
		Word:    f.Word,
		Tag:     f.Tag,
		JSON:    f.JSON,
		Color:   f.Color,
		Out:     term.out,
		Err:     term.err,
	}))
}
