package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"signalbox/internal/app"
	"signalbox/internal/config"
)

type importCommand struct {
	Elasticsearch string `placeholder:"URL" help:"Server to read from, as https://host:9200. Without it: ELASTICSEARCH_URL of the settings, with its user and password."`
	Index         string `placeholder:"PATTERN" help:"Names of the indices. Without it: ELASTICSEARCH_INDEX_PATTERN of the settings, which is logstash-http-* by default."`
	User          string `placeholder:"NAME" help:"User name at the server."`
	PasswordFile  string `placeholder:"FILE" help:"File with the password at the server."`
	Since         string `placeholder:"TIME" help:"Only lines from then on, as 2026-01-31 or 2026-01-31T12:00:00Z. Times are UTC unless they say otherwise."`
	Until         string `placeholder:"TIME" help:"Only lines up to then."`
	DryRun        bool   `help:"Read and count everything, and store nothing."`

	config.Flags
}

// Help is printed below the command's summary.
func (importCommand) Help() string {
	return `Copies the log lines of the reference system, or of another Signalbox, from Elasticsearch or OpenSearch into the history. They stand before all other lines, and belong to the devices that have their entity ids. Lines of unknown devices are counted by entity id and left out: enter the devices first.

    signalbox import --elasticsearch https://es.example.org:9200 --data-dir /var/lib/signalbox --dry-run
    signalbox import --elasticsearch https://es.example.org:9200 --data-dir /var/lib/signalbox

It takes the settings of serve, and may run while that does. When it was interrupted, the same command goes on where it was; when it is complete, it goes on with what is new. One with other bounds of time that would have the same lines again is refused.`
}

// Run imports until everything is, or ctx ends.
func (c *importCommand) Run(ctx context.Context, command *kong.Context, term terminal) error {
	settings, err := config.Load(config.Sources{Flags: config.Given(command), Environ: os.Environ(), ReadFile: os.ReadFile})
	if err != nil {
		return usageError{fmt.Errorf("the settings have mistakes:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))}
	}
	o := app.ImportOptions{URL: c.Elasticsearch, Username: c.User, Index: c.Index, DryRun: c.DryRun}
	if o.URL == "" {
		o.URL = settings.ElasticsearchURL.Reveal()
		if o.Username == "" {
			o.Username, o.Password = settings.ElasticsearchUsername, settings.ElasticsearchPassword.Reveal()
		}
	}
	if o.Index == "" {
		o.Index = settings.ElasticsearchIndexPattern
	}
	if o.URL == "" {
		return usageError{errors.New("--elasticsearch=URL is missing")}
	}
	if c.PasswordFile != "" {
		if c.User == "" {
			return usageError{errors.New("--password-file needs --user")}
		}
		content, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return usageError{fmt.Errorf("--password-file: %w", err)}
		}
		o.Password = strings.TrimRight(string(content), "\r\n")
	}
	if o.Since, err = timeOf(c.Since); err != nil {
		return usageError{fmt.Errorf("--since: %w", err)}
	}
	if o.Until, err = timeOf(c.Until); err != nil {
		return usageError{fmt.Errorf("--until: %w", err)}
	}
	p := newProgress(term.err)
	o.Progress = p.show
	report, err := app.Import(ctx, settings.Config, o, newLogger(term.err, settings.LogLevel, settings.LogFormat))
	p.end()
	if err != nil {
		if report.Read > 0 && !c.DryRun {
			fmt.Fprintf(term.err, "%d of %d documents are done; the same command goes on there.\n", report.Read, report.Total)
		}
		return client(ctx, err)
	}
	return printReport(term.out, report, c.DryRun)
}

// timeOf reads a time; "" is the zero time.
func timeOf(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-01-31 or 2026-01-31T12:00:00Z", text)
}

// progress shows how far an import is: a bar on a terminal, elsewhere a line now
// and then.
type progress struct {
	out   io.Writer
	bar   bool
	start time.Time
	last  time.Time
	shown bool
}

func newProgress(out io.Writer) *progress {
	now := time.Now()
	return &progress{out: out, bar: isTerminal(out), start: now, last: now}
}

func (p *progress) show(r app.ImportReport) {
	pause := 10 * time.Second
	if p.bar {
		pause = 100 * time.Millisecond
	}
	now := time.Now()
	if now.Sub(p.last) < pause && r.Read < r.Total {
		return
	}
	p.last = now
	part := 1.0
	if r.Total > 0 {
		part = float64(r.Read) / float64(r.Total)
	}
	rate := float64(r.Read-r.Resumed) / max(now.Sub(p.start).Seconds(), 0.001)
	left := "?"
	if rate > 0 {
		left = time.Duration(float64(r.Total-r.Read) / rate * float64(time.Second)).Round(time.Second).String()
	}
	if !p.bar {
		fmt.Fprintf(p.out, "%d of %d documents (%.0f %%), %.0f/s, %s left\n", r.Read, r.Total, 100*part, rate, left)
		return
	}
	const width = 30
	done := int(part * width)
	fmt.Fprintf(p.out, "\r[%s%s] %3.0f %%  %d of %d  %.0f/s  %s left \x1b[K", strings.Repeat("=", done), strings.Repeat(" ", width-done), 100*part, r.Read, r.Total, rate, left)
	p.shown = true
}

// end leaves the line of the bar.
func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.out)
	}
}

func printReport(out io.Writer, r app.ImportReport, dry bool) error {
	var b strings.Builder
	verb := "imported"
	if dry {
		verb = "to import"
	}
	fmt.Fprintf(&b, "%d documents read, %d lines %s\n", r.Read, r.Imported, verb)
	for _, left := range []struct {
		n    int64
		what string
	}{
		{r.Here, "came through Signalbox itself and are known"},
		{r.Old, "are older than HISTORY_MAX_AGE"},
		{r.Broken, "have no time or cannot be read"},
	} {
		if left.n > 0 {
			fmt.Fprintf(&b, "%d left out that %s\n", left.n, left.what)
		}
	}
	list := func(title string, counts map[string]int64) {
		if len(counts) == 0 {
			return
		}
		fmt.Fprintln(&b, title)
		for _, entity := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
			if counts[a] != counts[b] {
				return int(counts[b] - counts[a])
			}
			return strings.Compare(a, b)
		}) {
			name := strconv.Quote(entity) // it is somebody else's text
			if entity == "" {
				name = "(none)"
			}
			fmt.Fprintf(&b, "%10d  %s\n", counts[entity], name)
		}
	}
	if dry {
		list("Lines by entity id:", r.Known)
	}
	list("Left out, as no device has the entity id:", r.Unknown)
	if r.Others > 0 {
		fmt.Fprintf(&b, "%10d  of others\n", r.Others)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// hideSettings keeps the settings that mean nothing to a command that works on
// the database out of its help. It takes them all the same, since they may stand
// in one file with the others.
func hideSettings() kong.Option {
	return kong.PostBuild(func(k *kong.Kong) error {
		for _, node := range k.Model.Leaves(false) {
			if node.Name == "serve" {
				continue
			}
			for _, f := range node.Flags {
				shown := slices.Contains([]string{"data-dir", "database-url", "config"}, f.Name)
				if node.Name == "rotation-job" {
					shown = shown || slices.Contains([]string{"mqtt-url", "mqtt-username", "mqtt-password", "mqtt-client-id", "mqtt-ca-file", "secret-key"}, f.Name) ||
						strings.HasPrefix(f.Name, "rotation-") || strings.HasPrefix(f.Name, "internal-api-")
				}
				if f.Group != nil && !shown {
					f.Hidden = true
				}
			}
		}
		return nil
	})
}
