package main

import (
	"context"
	"fmt"
	"strings"

	"signalbox/internal/fleet"
)

// serverFlags are what every client of a server has in common.
type serverFlags struct {
	Server string `env:"SIGNALBOX_SERVER" default:"http://127.0.0.1:3101" placeholder:"URL" help:"Address of the server."`
	Token  string `env:"SIGNALBOX_TOKEN" placeholder:"TOKEN" help:"API token for the server. Better given in the environment, where other users cannot see it."`
}

// token returns the token as it is sent: one from a file may end with a line.
func (f *serverFlags) token() string { return strings.TrimSpace(f.Token) }

// outcome is client for a command that asks the server: it says what to do about a
// token that is missing or not good enough.
func (f *serverFlags) outcome(ctx context.Context, err error) error {
	const advice = "make one on the page under Account, or with signalbox token add, and put it into SIGNALBOX_TOKEN"
	switch err = client(ctx, err); {
	case fleet.KindOf(err) == fleet.Unauthenticated && f.token() == "":
		return fmt.Errorf("%w\nThe server wants an API token: %s", err, advice)
	case fleet.KindOf(err) == fleet.Unauthenticated:
		return fmt.Errorf("%w\nThe server does not take the token any more: %s", err, advice)
	case fleet.KindOf(err) == fleet.Forbidden && f.token() != "":
		return fmt.Errorf("%w\nThe token, or its owner, may not do that: it needs another role, or is limited to other devices", err)
	}
	return err
}
