package main

import (
	"context"

	"signalbox/internal/tail"
)

type tailCommand struct {
	clientFlags
}

// Help is printed below the command's summary.
func (tailCommand) Help() string {
	return `Prints what devices say as they say it, until Ctrl-C. A lost connection is resumed without a lost or repeated line; lines that the server no longer has are told as a gap.

    signalbox tail kitchen-sensor --level warn
    signalbox tail --all --grep 'wifi|mqtt'
    signalbox tail --model sensor --tag wifi`
}

// Run follows the devices until ctx ends.
func (c *tailCommand) Run(ctx context.Context, term terminal) error {
	return c.run(ctx, term, tail.Run)
}
