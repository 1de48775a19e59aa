package main

import (
	"context"

	"signalbox/internal/tail"
)

type logsCommand struct {
	clientFlags
	Since  string `placeholder:"TIME" help:"Begin with the lines of this time."`
	Until  string `placeholder:"TIME" help:"End with the lines of this time."`
	Lines  *int   `short:"n" placeholder:"N" help:"Print the newest N lines; 0: all. [default 100, with --since all]"`
	Follow bool   `short:"f" help:"Then follow what the devices say, as tail does, without a lost or repeated line in between."`
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
	return c.run(ctx, term, func(ctx context.Context, cfg tail.Config) error {
		return tail.History(ctx, tail.HistoryConfig{Config: cfg, Since: c.Since, Until: c.Until, Lines: c.Lines, Follow: c.Follow})
	})
}
