package main

import (
	"context"

	"signalbox/internal/app"
	"signalbox/internal/config"
)

type gatewayCommand struct{ config.Gateway }

// Help is printed below the command's summary.
func (gatewayCommand) Help() string {
	return `Holds the event streams of browsers in a process of its own. It asks a backend about each stream with a callback, and writes what the backend posts to /internal/send.

    CALLBACK_URL=http://127.0.0.1:3101/api/sse/callback signalbox gateway

"signalbox serve" needs none: it serves event streams by itself.`
}

// Run serves until ctx ends.
func (c *gatewayCommand) Run(ctx context.Context, term terminal) error {
	return app.Gateway(ctx, c.Gateway, newLogger(term.err, c.LogLevel, c.LogFormat))
}
