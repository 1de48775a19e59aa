package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"signalbox/internal/access"
	"signalbox/internal/app"
	"signalbox/internal/config"
	"signalbox/internal/fleet"
)

// databaseFlags are what the commands have in common that work on the database,
// whether a server runs on it or not.
type databaseFlags struct {
	config.Flags
}

// people is an open database of them.
type people struct {
	*access.Service
	closer io.Closer
}

// open opens the database that the settings name. create: it may be made.
func (databaseFlags) open(ctx context.Context, command *kong.Context, term terminal, create bool) (*people, error) {
	settings, err := config.Load(config.Sources{Flags: config.Given(command), Environ: os.Environ(), ReadFile: os.ReadFile})
	if err != nil {
		return nil, usageError{fmt.Errorf("the settings have mistakes:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))}
	}
	service, closer, err := app.OpenAccess(ctx, settings.Config, create, newLogger(term.err, settings.LogLevel, settings.LogFormat))
	if err != nil {
		return nil, err
	}
	return &people{service, closer}, nil
}

// use opens the database, does what the command is for, and closes it.
func (f databaseFlags) use(ctx context.Context, command *kong.Context, term terminal, create bool, does func(*people) error) error {
	p, err := f.open(ctx, command, term, create)
	if err != nil {
		return client(ctx, err)
	}
	return client(ctx, errors.Join(does(p), p.closer.Close()))
}

// record puts what the command did into the audit, and passes its error on.
func (p *people) record(ctx context.Context, action, target, label string, err error) error {
	outcome := "ok"
	if err != nil {
		outcome = fleet.KindOf(err).String()
	}
	p.Record(ctx, access.Event{Name: "command line", Action: action, Target: target, Label: label, Outcome: outcome})
	return err
}

// find returns the account with that user name or, of an external one, subject.
func (p *people) find(ctx context.Context, name string) (access.Account, error) {
	all, err := p.Accounts(ctx)
	if err != nil {
		return access.Account{}, err
	}
	for _, a := range all {
		if a.Username != "" && a.Username == strings.ToLower(name) || a.Subject == name {
			return a, nil
		}
	}
	return access.Account{}, fleet.E(fleet.NotFound, nil, "There is nobody with the user name %q: signalbox user list shows all", name)
}

// accountTarget names an account in the audit.
func accountTarget(id int64) string { return fmt.Sprintf("person/%d", id) }

// limitFlags say which devices it is about.
type limitFlags struct {
	Model []string `placeholder:"CODE" sep:"none" help:"Limit to devices of this model. May be given several times; each model and tag adds its devices."`
	Tag   []string `placeholder:"TAG" sep:"none" help:"Limit to devices with this tag, likewise."`
}

func (l limitFlags) limit() access.Limit { return access.Limit{Models: l.Model, Tags: l.Tag} }

// maxSecret is more than a password may have, so that one that is too long is
// told rather than cut.
const maxSecret = 4 << 10

// passwordFlags say where a new password comes from.
type passwordFlags struct {
	PasswordStdin bool `help:"Read the password from the standard input instead of asking for it twice."`
}

// password returns the new password.
func (f passwordFlags) password(ctx context.Context, t terminal) (string, error) {
	if f.PasswordStdin {
		text, err := io.ReadAll(io.LimitReader(t.in, maxSecret))
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
		return string(text), nil
	}
	if !term.IsTerminal(int(t.in.Fd())) {
		return "", usageError{errors.New("there is no terminal to ask for the password: give it to --password-stdin")}
	}
	first, err := ask(ctx, t, "New password: ")
	if err != nil {
		return "", err
	}
	second, err := ask(ctx, t, "Once more: ")
	if err == nil && first != second {
		err = usageError{errors.New("the two passwords differ")}
	}
	return first, err
}

// ask reads a line that is not shown.
func ask(ctx context.Context, t terminal, prompt string) (string, error) {
	fd := int(t.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("ask for the password: %w", err)
	}
	fmt.Fprint(t.err, prompt)
	type answer struct {
		text []byte
		err  error
	}
	// Nothing ends the read of a terminal. Who interrupts it ends the program, and
	// the read with it.
	answers := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		fmt.Fprintln(t.err)
		return string(a.text), a.err
	case <-ctx.Done():
		fmt.Fprintln(t.err)
		return "", errors.Join(context.Cause(ctx), term.Restore(fd, before))
	}
}

// plain returns a text of somebody else's without what a terminal would obey.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
