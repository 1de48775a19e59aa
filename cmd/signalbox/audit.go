package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"signalbox/internal/access"
	"signalbox/internal/tail"
)

type auditCommand struct {
	Since  string `placeholder:"TIME" help:"Only from then on: a time, a date, or how long ago: 30m, 2h, 7d."`
	Until  string `placeholder:"TIME" help:"Only before then."`
	Actor  string `placeholder:"USER" help:"Only what this person did: a user name or a subject."`
	Action string `placeholder:"NAME" help:"Only this action; with * at the end, those that begin so: device.*"`
	Target string `placeholder:"NAME" help:"Only what was done to this, such as device/12; with * at the end, likewise."`
	Lines  int    `short:"n" default:"100" placeholder:"N" help:"Print the newest N; 0: all."`
	JSON   bool   `name:"json" xor:"form" help:"Print one JSON object a line."`
	CSV    bool   `name:"csv" xor:"form" help:"Print a table of comma-separated values."`
	databaseFlags
}

// Help is printed below the command's summary.
func (auditCommand) Help() string {
	return `Prints the audit, the newest first: logins and failed ones, changes, who watched or exported which log, and who saw a secret.

    signalbox audit --since 7d --actor ann
    signalbox audit --action 'login*' -n 0 --csv > logins.csv`
}

// eventRow is what is printed of an event.
type eventRow struct {
	ID      int64           `json:"id"`
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`
	Name    string          `json:"name"`
	Kind    string          `json:"kind"`
	Action  string          `json:"action"`
	Target  string          `json:"target"`
	Label   string          `json:"label"`
	Outcome string          `json:"outcome"`
	Address string          `json:"address"`
	Detail  json.RawMessage `json:"detail"`
}

// Run prints the events.
func (c *auditCommand) Run(ctx context.Context, command *kong.Context, term terminal) error {
	signal.Ignore(syscall.SIGPIPE) // as in tail
	if c.Lines < 0 {
		return usageError{errors.New("--lines must not be negative")}
	}
	filter := access.EventFilter{Actor: c.Actor, Action: c.Action, Target: c.Target}
	now := time.Now()
	for _, bound := range []struct {
		name, text string
		into       *time.Time
	}{{"since", c.Since, &filter.Since}, {"until", c.Until, &filter.Until}} {
		if bound.text == "" {
			continue
		}
		var err error
		if *bound.into, err = tail.Moment(bound.name, bound.text, now); err != nil {
			return err
		}
	}
	return c.use(ctx, command, term, false, func(p *people) error {
		if a, err := p.find(ctx, c.Actor); err == nil && c.Actor != "" {
			filter.Actor = a.Subject // somebody who is gone is found by their subject only
		}
		print, end := c.printer(term)
		n := 0
		for e, err := range p.Events(ctx, filter) {
			if err != nil {
				return err
			}
			if err := print(e); err != nil {
				return err
			}
			if n++; n == c.Lines {
				break
			}
		}
		return end()
	})
}

// printer returns what prints an event, and what ends the output.
func (c *auditCommand) printer(term terminal) (print func(access.Event) error, end func() error) {
	switch {
	case c.JSON:
		out := json.NewEncoder(term.out)
		return func(e access.Event) error {
			row := eventRow{e.ID, e.At, e.Actor, e.Name, string(e.Kind), e.Action, e.Target, e.Label, e.Outcome, e.Address, nil}
			if e.Detail != "" {
				row.Detail = json.RawMessage(e.Detail)
			}
			return out.Encode(row)
		}, func() error { return nil }
	case c.CSV:
		out := csv.NewWriter(term.out)
		_ = out.Write([]string{"id", "at", "actor", "name", "kind", "action", "target", "label", "outcome", "address", "detail"}) // Error has it
		return func(e access.Event) error {
			_ = out.Write([]string{
				strconv.FormatInt(e.ID, 10), e.At.Format(time.RFC3339Nano), cell(e.Actor), cell(e.Name), cell(string(e.Kind)), cell(e.Action),
				cell(e.Target), cell(e.Label), cell(e.Outcome), cell(e.Address), cell(e.Detail),
			})
			return out.Error()
		}, func() error { out.Flush(); return out.Error() }
	}
	return func(e access.Event) error {
		who := e.Name
		if who == "" {
			who = e.Actor
		}
		what := e.Target
		if e.Label != "" {
			what = strings.TrimSpace(what + " " + strconv.QuoteToGraphic(e.Label))
		}
		parts := []string{e.At.Local().Format(time.DateTime), plain(who), plain(e.Action)}
		if what != "" {
			parts = append(parts, plain(what))
		}
		if e.Outcome != "ok" {
			parts = append(parts, "-> "+plain(e.Outcome))
		}
		if e.Address != "" {
			parts = append(parts, "from "+plain(e.Address))
		}
		if e.Detail != "" {
			parts = append(parts, plain(e.Detail))
		}
		_, err := fmt.Fprintln(term.out, strings.Join(parts, "  "))
		return err
	}, func() error { return nil }
}

// cell keeps a spreadsheet from taking a text for a formula: it may be one that
// somebody typed as a user name.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
