package main

import (
	"context"
	"os/signal"
	"syscall"

	"signalbox/internal/tail"
)

type deadLettersCommand struct {
	List  listLettersCommand  `cmd:"" default:"withargs" help:"Print the lines that were refused, and why."`
	Retry retryLettersCommand `cmd:"" help:"Offer them all again; what is taken is no dead letter any more."`
	Purge purgeLettersCommand `cmd:"" help:"Remove them all."`
}

// Help is printed below the command's summary.
func (deadLettersCommand) Help() string {
	return `A dead letter is a line that Elasticsearch refuses for good, because it does not fit the mapping of its index, say.

    signalbox dead-letters
    signalbox dead-letters list -n 0 --json | jq -r .reason | sort | uniq -c
    signalbox dead-letters retry`
}

// lettersServer is what each of the commands needs.
type lettersServer struct {
	Sink string `default:"elasticsearch" placeholder:"NAME" help:"The store that refused them."`

	serverFlags
}

func (s *lettersServer) config(term terminal) tail.DeadLettersConfig {
	signal.Ignore(syscall.SIGPIPE) // as in tail
	return tail.DeadLettersConfig{Server: s.Server, Token: s.token(), Sink: s.Sink, Out: term.out}
}

type listLettersCommand struct {
	lettersServer
	Lines int  `short:"n" default:"100" placeholder:"N" help:"Print the newest N; 0: all."`
	JSON  bool `name:"json" help:"Print one JSON object a line."`
}

// Run prints the letters.
func (c *listLettersCommand) Run(ctx context.Context, term terminal) error {
	cfg := c.config(term)
	cfg.Limit, cfg.JSON = max(0, c.Lines), c.JSON
	return c.outcome(ctx, tail.ListDeadLetters(ctx, cfg))
}

type retryLettersCommand struct{ lettersServer }

// Run tries the letters again.
func (c *retryLettersCommand) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, tail.RetryDeadLetters(ctx, c.config(term)))
}

type purgeLettersCommand struct{ lettersServer }

// Run removes the letters.
func (c *purgeLettersCommand) Run(ctx context.Context, term terminal) error {
	return c.outcome(ctx, tail.PurgeDeadLetters(ctx, c.config(term)))
}
