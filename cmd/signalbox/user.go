package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

type userCommand struct {
	Add     userAdd     `cmd:"" help:"Add a person. The first one must be an admin; from then on everybody has to log in."`
	List    userList    `cmd:"" help:"List everybody."`
	Passwd  userPasswd  `cmd:"" help:"Give a person a new password, and end their sessions."`
	Roles   userRoles   `cmd:"" help:"Give a person other roles, or another limit."`
	Disable userDisable `cmd:"" help:"Keep a person out: their sessions end, their tokens stop."`
	Enable  userEnable  `cmd:"" help:"Let a person in again."`
	Remove  userRemove  `cmd:"" help:"Remove a person with their sessions and tokens."`
}

// Help is printed below the command's summary.
func (userCommand) Help() string {
	return `People log in with a user name and a password. What they may is their roles: a viewer sees devices and logs, an editor changes them and sees secrets, an admin decides about people, tokens and the audit, and a pipeline delivers firmware. A limit leaves a person only the devices of some models, or with some tags.

    signalbox user add ann --role admin
    signalbox user add bob --role editor --tag lab
    signalbox user roles bob viewer

The commands work on the database of the server's settings; a server that runs sees the change at once.`
}

type userAdd struct {
	Username string   `arg:"" help:"What they log in with: 1 to 64 of a-z, 0-9 and . _ @ -"`
	Role     []string `default:"viewer" placeholder:"ROLE" help:"viewer, editor, admin or pipeline; may be given several times."`
	Name     string   `placeholder:"TEXT" help:"What they are called."`
	Email    string   `placeholder:"ADDRESS" help:"Their e-mail address."`
	limitFlags
	passwordFlags
	databaseFlags
}

// Run adds the person.
func (c *userAdd) Run(ctx context.Context, command *kong.Context, term terminal) error {
	return c.use(ctx, command, term, true, func(p *people) error {
		first := !p.HasPeople()
		if first && (!slices.Contains(c.Role, access.RoleAdmin) || !c.limit().None()) {
			return usageError{errors.New("the first person must be an admin without a limit, who can let others in: --role admin")}
		}
		password, err := c.password(ctx, term)
		if err != nil {
			return err
		}
		a, err := p.CreateAccount(ctx, access.NewAccount{
			Username: c.Username, Name: c.Name, Email: c.Email, Password: password, Roles: c.Role, Limit: c.limit(),
		})
		target := ""
		if err == nil {
			target = accountTarget(a.ID)
		}
		if err := p.record(ctx, "person.create", target, c.Username, err); err != nil {
			return err
		}
		fmt.Fprintf(term.out, "%s may log in as %s.\n", a.Username, strings.Join(a.Roles, ", "))
		if first {
			fmt.Fprintln(term.out, "It is the first person: unless an identity provider is set up, everybody has to log in from now on.")
		}
		return nil
	})
}

type userList struct {
	JSON bool `name:"json" help:"Print one JSON object a line."`
	databaseFlags
}

// personRow is what is printed of somebody.
type personRow struct {
	ID        int64      `json:"id"`
	Subject   string     `json:"subject"`
	External  bool       `json:"external"`
	Username  *string    `json:"username"`
	Name      string     `json:"name"`
	Email     *string    `json:"email"`
	Roles     []string   `json:"roles"`
	Limit     *limitRow  `json:"limit"`
	Disabled  bool       `json:"disabled"`
	CreatedAt time.Time  `json:"created_at"`
	SeenAt    *time.Time `json:"seen_at"`
	Sessions  int        `json:"sessions"`
	Tokens    int        `json:"tokens"`
}

type limitRow struct {
	Models []string `json:"models"`
	Tags   []string `json:"tags"`
}

func limitOf(l access.Limit) *limitRow {
	if l.None() {
		return nil
	}
	return &limitRow{append([]string{}, l.Models...), append([]string{}, l.Tags...)}
}

// String is how a limit is shown in a table.
func (l *limitRow) String() string {
	if l == nil {
		return "-"
	}
	var words []string
	for _, m := range l.Models {
		words = append(words, "model:"+m)
	}
	for _, t := range l.Tags {
		words = append(words, "tag:"+t)
	}
	return strings.Join(words, ",")
}

// text is nil for "", in JSON.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// Run lists everybody.
func (c *userList) Run(ctx context.Context, command *kong.Context, term terminal) error {
	return c.use(ctx, command, term, false, func(p *people) error {
		all, err := p.Accounts(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			out := json.NewEncoder(term.out)
			for _, a := range all {
				if err := out.Encode(personRow{
					ID: a.ID, Subject: a.Subject, External: a.External, Username: text(a.Username), Name: a.Name, Email: text(a.Email),
					Roles: append([]string{}, a.Roles...), Limit: limitOf(a.Limit), Disabled: a.Disabled, CreatedAt: a.CreatedAt, SeenAt: a.SeenAt,
					Sessions: a.Sessions, Tokens: a.Tokens,
				}); err != nil {
					return err
				}
			}
			return nil
		}
		w := tabwriter.NewWriter(term.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "USER\tNAME\tROLES\tLIMIT\tSTATE\tSEEN\tSESSIONS\tTOKENS")
		for _, a := range all {
			user, state, roles := a.Username, "enabled", strings.Join(a.Roles, ",")
			if a.External {
				user, state = a.Subject, "external"
			}
			if a.Disabled {
				state = "disabled"
			}
			if roles == "" {
				roles = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\n", plain(user), plain(a.Name), roles, plain(limitOf(a.Limit).String()), state, when(a.SeenAt), a.Sessions, a.Tokens)
		}
		return w.Flush()
	})
}

// when is how a time is shown in a table.
func when(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

type userPasswd struct {
	Username string `arg:"" help:"Whose."`
	passwordFlags
	databaseFlags
}

// Run sets the password.
func (c *userPasswd) Run(ctx context.Context, command *kong.Context, term terminal) error {
	return c.use(ctx, command, term, false, func(p *people) error {
		a, err := p.find(ctx, c.Username)
		if err != nil {
			return err
		}
		password, err := c.password(ctx, term)
		if err != nil {
			return err
		}
		err = p.SetPassword(ctx, a.ID, password, "")
		if err := p.record(ctx, "password.reset", accountTarget(a.ID), c.Username, err); err != nil {
			return err
		}
		fmt.Fprintf(term.out, "%s has a new password, and has to log in again.\n", a.Username)
		return nil
	})
}

type userRoles struct {
	Username  string   `arg:"" help:"Whose."`
	Role      []string `arg:"" optional:"" help:"Their roles from now on: viewer, editor, admin, pipeline. Without any, they stay."`
	Unlimited bool     `help:"Take the limit away."`
	limitFlags
	databaseFlags
}

// Run changes the roles and the limit.
func (c *userRoles) Run(ctx context.Context, command *kong.Context, term terminal) error {
	var change access.AccountChange
	limit := c.limit()
	switch {
	case c.Unlimited && !limit.None():
		return usageError{errors.New("--unlimited does not go with --model or --tag")}
	case c.Unlimited || !limit.None():
		change.Limit = &limit
	case len(c.Role) == 0:
		return usageError{errors.New("name the roles, or a limit with --model, --tag or --unlimited")}
	}
	if len(c.Role) > 0 {
		change.Roles = &c.Role
	}
	return c.change(ctx, command, term, c.Username, change, func(a access.Account) string {
		return fmt.Sprintf("%s is %s now, limited to: %s", c.Username, strings.Join(a.Roles, ", "), plain(limitOf(a.Limit).String()))
	})
}

// change changes an account and says so.
func (f databaseFlags) change(ctx context.Context, command *kong.Context, term terminal, name string, change access.AccountChange, says func(access.Account) string) error {
	return f.use(ctx, command, term, false, func(p *people) error {
		a, err := p.find(ctx, name)
		if err != nil {
			return err
		}
		changed, err := p.ChangeAccount(ctx, a.ID, change)
		if err := p.record(ctx, "person.update", accountTarget(a.ID), name, err); err != nil {
			return err
		}
		fmt.Fprintln(term.out, says(changed))
		return nil
	})
}

type userDisable struct {
	Username string `arg:"" help:"Whom."`
	databaseFlags
}

// Run disables the person.
func (c *userDisable) Run(ctx context.Context, command *kong.Context, term terminal) error {
	return c.change(ctx, command, term, c.Username, access.AccountChange{Disabled: new(true)}, func(access.Account) string {
		return c.Username + " cannot log in any more."
	})
}

type userEnable struct {
	Username string `arg:"" help:"Whom."`
	databaseFlags
}

// Run enables the person.
func (c *userEnable) Run(ctx context.Context, command *kong.Context, term terminal) error {
	return c.change(ctx, command, term, c.Username, access.AccountChange{Disabled: new(false)}, func(access.Account) string {
		return c.Username + " can log in again."
	})
}

type userRemove struct {
	Username string `arg:"" help:"Whom."`
	databaseFlags
}

// Run removes the person.
func (c *userRemove) Run(ctx context.Context, command *kong.Context, term terminal) error {
	return c.use(ctx, command, term, false, func(p *people) error {
		a, err := p.find(ctx, c.Username)
		if err != nil {
			return err
		}
		err = p.DeleteAccount(ctx, a.ID)
		if err := p.record(ctx, "person.delete", accountTarget(a.ID), c.Username, err); err != nil {
			return err
		}
		fmt.Fprintf(term.out, "%s is removed.\n", c.Username)
		return nil
	})
}

type tokenCommand struct {
	Add    tokenAdd    `cmd:"" help:"Make a token and print its secret, once."`
	List   tokenList   `cmd:"" help:"List the tokens that are good."`
	Revoke tokenRevoke `cmd:"" help:"Revoke a token."`
}

// Help is printed below the command's summary.
func (tokenCommand) Help() string {
	return `A script shows an API token instead of a password: in Authorization: Bearer, or in SIGNALBOX_TOKEN for the commands of signalbox. A token belongs to a person and may never more than they may.

    signalbox token add --user bob --name backup --role viewer --days 90
    signalbox token list
    signalbox token revoke 7`
}

type tokenAdd struct {
	User string   `required:"" placeholder:"NAME" help:"Whose it is."`
	Name string   `required:"" placeholder:"TEXT" help:"What it is for."`
	Role []string `default:"viewer" placeholder:"ROLE" help:"What it may, as far as its owner may: viewer, editor, admin or pipeline; may be given several times."`
	Days int      `default:"90" placeholder:"N" help:"How long it is good: 1 to 366 days."`
	limitFlags
	databaseFlags
}

// Run makes the token. Its secret alone goes to the standard output.
func (c *tokenAdd) Run(ctx context.Context, command *kong.Context, term terminal) error {
	if c.Days < 1 || c.Days > 366 {
		return usageError{errors.New("--days must be 1 to 366")}
	}
	return c.use(ctx, command, term, false, func(p *people) error {
		a, err := p.find(ctx, c.User)
		if err != nil {
			return err
		}
		secret, t, err := p.CreateTokenFor(ctx, a.ID, access.NewToken{Name: c.Name, Roles: c.Role, Limit: c.limit(), Lifetime: time.Duration(c.Days) * 24 * time.Hour})
		target := ""
		if err == nil {
			target = fmt.Sprintf("token/%d", t.ID)
		}
		if err := p.record(ctx, "token.create", target, c.Name, err); err != nil {
			return err
		}
		// A server that runs looks at the database four times a second: a script
		// that uses the token at once must not come too early.
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
		fmt.Fprintf(term.err, "Token %d is good until %s. This is its secret, which is not shown again:\n", t.ID, when(&t.ExpiresAt))
		_, err = fmt.Fprintln(term.out, secret)
		return err
	})
}

type tokenList struct {
	User string `placeholder:"NAME" help:"Only those of this person."`
	JSON bool   `name:"json" help:"Print one JSON object a line."`
	databaseFlags
}

// tokenRow is what is printed of a token.
type tokenRow struct {
	ID        int64      `json:"id"`
	Name      string     `json:"name"`
	Hint      string     `json:"hint"`
	Roles     []string   `json:"roles"`
	Limit     *limitRow  `json:"limit"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt time.Time  `json:"expires_at"`
	UsedAt    *time.Time `json:"used_at"`
	Subject   string     `json:"subject"`
}

// Run lists the tokens.
func (c *tokenList) Run(ctx context.Context, command *kong.Context, term terminal) error {
	return c.use(ctx, command, term, false, func(p *people) error {
		subject := ""
		if c.User != "" {
			a, err := p.find(ctx, c.User)
			if err != nil {
				return err
			}
			subject = a.Subject
		}
		all, err := p.Accounts(ctx)
		if err != nil {
			return err
		}
		owners := map[string]string{}
		for _, a := range all {
			owners[a.Subject] = a.Username
		}
		out := json.NewEncoder(term.out)
		w := tabwriter.NewWriter(term.out, 0, 0, 2, ' ', 0)
		if !c.JSON {
			fmt.Fprintln(w, "ID\tUSER\tNAME\tBEGINS\tROLES\tLIMIT\tEXPIRES\tUSED")
		}
		for _, t := range p.Tokens(subject) {
			if c.JSON {
				if err := out.Encode(tokenRow{t.ID, t.Name, t.Hint, append([]string{}, t.Roles...), limitOf(t.Limit), t.CreatedAt, t.ExpiresAt, t.UsedAt, t.Subject}); err != nil {
					return err
				}
				continue
			}
			owner := owners[t.Subject]
			if owner == "" {
				owner = t.Subject
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, plain(owner), plain(t.Name), t.Hint, strings.Join(t.Roles, ","),
				plain(limitOf(t.Limit).String()), when(&t.ExpiresAt), when(t.UsedAt))
		}
		return w.Flush()
	})
}

type tokenRevoke struct {
	ID int64 `arg:"" help:"The token's number in signalbox token list."`
	databaseFlags
}

// Run revokes the token.
func (c *tokenRevoke) Run(ctx context.Context, command *kong.Context, term terminal) error {
	return c.use(ctx, command, term, false, func(p *people) error {
		label := ""
		for _, t := range p.Tokens("") {
			if t.ID == c.ID {
				label = t.Name
			}
		}
		err := p.RevokeToken(ctx, "", c.ID)
		if fleet.KindOf(err) == fleet.NotFound {
			return err
		}
		if err := p.record(ctx, "token.revoke", fmt.Sprintf("token/%d", c.ID), label, err); err != nil {
			return err
		}
		fmt.Fprintf(term.out, "Token %d is revoked.\n", c.ID)
		return nil
	})
}
