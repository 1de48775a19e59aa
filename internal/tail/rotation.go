package tail

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"signalbox/internal/fleet"
)

// RotationConfig says which server is asked about the rotation of credentials,
// and how its answer is printed.
type RotationConfig struct {
	Server, Token string
	JSON          bool // the answer as it is, on one line
	Out           io.Writer
}

// ask asks the server, and prints the answer as it is or as show has it.
func ask[T any](ctx context.Context, cfg RotationConfig, device, method string, path func(device int64) string, show func(*T) string) error {
	a, err := newAPI(cfg.Server, cfg.Token, nil, defaultPace)
	if err != nil {
		return err
	}
	defer a.close()
	var id int64
	if device != "" {
		all, err := a.devices(ctx, 0)
		if err != nil {
			return outcome(ctx, err)
		}
		d, err := find(all, device)
		if err != nil {
			return err
		}
		id = d.ID
	}
	way, query, _ := strings.Cut(path(id), "?")
	target := a.base.JoinPath(way)
	target.RawQuery = query
	var body any
	if method == http.MethodPost {
		body = struct{}{}
	}
	var raw json.RawMessage
	if err := a.call(ctx, method, target, a.pace.call, body, &raw); err != nil {
		return outcome(ctx, err)
	}
	var answer T
	if err := json.Unmarshal(raw, &answer); err != nil {
		return a.stranger(err)
	}
	text := ""
	if cfg.JSON {
		var line bytes.Buffer
		if err := json.Compact(&line, raw); err != nil {
			return a.stranger(err)
		}
		text = escapeJSON(line.String()) + "\n"
	} else {
		text = show(&answer)
	}
	_, err = io.WriteString(cfg.Out, text)
	return outcome(ctx, err)
}

func always(path string) func(int64) string { return func(int64) string { return path } }

func ofDevice(what string) func(int64) string {
	return func(id int64) string { return "api/devices/" + strconv.FormatInt(id, 10) + "/" + what }
}

// RotationStatus prints how the rotation of the fleet stands.
func RotationStatus(ctx context.Context, cfg RotationConfig) error {
	type status struct {
		Counts    map[string]int `json:"counts_by_state"`
		Inactive  int            `json:"inactive"`
		Stuck     int            `json:"stuck"`
		Completed *string        `json:"last_rotation_completed_at"`
		Next      *string        `json:"next_scheduled_rotation"`
		Oldest    *string        `json:"oldest_secret_at"`
		Schedule  *struct {
			Cron     string  `json:"cron"`
			Timezone string  `json:"timezone"`
			LastAt   *string `json:"last_scheduled_at"`
		} `json:"schedule"`
	}
	return ask(ctx, cfg, "", http.MethodGet, always("api/rotation/status"), func(s *status) string {
		var b strings.Builder
		row := func(name, value string) { fmt.Fprintf(&b, "%-16s %s\n", name, escape(value)) }
		for _, of := range []struct{ name, state string }{{"ok", "OK"}, {"queued", "QUEUED"}, {"in an attempt", "PENDING"}, {"timed out", "TIMEOUT"}} {
			row(of.name, strconv.Itoa(s.Counts[of.state]))
		}
		row("stuck", strconv.Itoa(s.Stuck))
		row("inactive", strconv.Itoa(s.Inactive))
		or := func(t *string, none string) string {
			if t == nil {
				return none
			}
			return *t
		}
		row("last completed", or(s.Completed, "never"))
		row("oldest secret", or(s.Oldest, "none"))
		if s.Schedule != nil {
			row("schedule", s.Schedule.Cron+" "+s.Schedule.Timezone)
		}
		row("next", or(s.Next, "when asked"))
		return b.String()
	})
}

// TriggerRotation queues all devices that may be, and prints how many those were.
func TriggerRotation(ctx context.Context, cfg RotationConfig) error {
	type triggered struct {
		Queued int `json:"queued_count"`
	}
	return ask(ctx, cfg, "", http.MethodPost, always("api/rotation/trigger"), func(t *triggered) string {
		return fmt.Sprintf("%d queued\n", t.Queued)
	})
}

// change does something to the rotation of a device, and prints what became of it.
func change(ctx context.Context, cfg RotationConfig, device, what string) error {
	type changed struct {
		Status string `json:"status"`
	}
	if device == "" {
		return fleet.E(fleet.Invalid, nil, "Name the device")
	}
	return ask(ctx, cfg, device, http.MethodPost, ofDevice(what), func(c *changed) string {
		return escape(strings.ReplaceAll(c.Status, "_", " ")) + "\n"
	})
}

// RotateDevice queues a device before all others.
func RotateDevice(ctx context.Context, cfg RotationConfig, device string) error {
	return change(ctx, cfg, device, "rotate")
}

// AbortRotation ends the attempt of a device.
func AbortRotation(ctx context.Context, cfg RotationConfig, device string) error {
	return change(ctx, cfg, device, "rotation/abort")
}

// RetryRotation has done again what failed for a device.
func RetryRotation(ctx context.Context, cfg RotationConfig, device string) error {
	return change(ctx, cfg, device, "rotation/retry")
}

// RotationHistory prints where the rotation of a device stands and its last
// attempts, the last first.
func RotationHistory(ctx context.Context, cfg RotationConfig, device string, attempts int) error {
	type story struct {
		State    string  `json:"rotation_state"`
		Stuck    bool    `json:"stuck"`
		Trouble  *string `json:"trouble"`
		SecretAt *string `json:"secret_created_at"`
		Attempts []struct {
			Number    int64   `json:"number"`
			Actor     *string `json:"actor"`
			Reason    *string `json:"reason"`
			StartedAt string  `json:"started_at"`
			Outcome   string  `json:"outcome"`
			Steps     []struct {
				At     string  `json:"at"`
				What   string  `json:"what"`
				Detail *string `json:"detail"`
			} `json:"steps"`
		} `json:"attempts"`
	}
	switch {
	case device == "":
		return fleet.E(fleet.Invalid, nil, "Name the device")
	case attempts < 1 || attempts > 100:
		return fleet.E(fleet.Invalid, nil, "--attempts must be 1 to 100")
	}
	query := "?" + url.Values{"limit": {strconv.Itoa(attempts)}}.Encode()
	return ask(ctx, cfg, device, http.MethodGet, ofDevice("rotation"+query), func(s *story) string {
		var b strings.Builder
		b.WriteString(escape(s.State))
		if s.Stuck {
			b.WriteString(", stuck")
		}
		if s.Trouble != nil {
			b.WriteString(": " + escape(*s.Trouble))
		}
		if s.SecretAt != nil {
			b.WriteString(", secret of " + escape(*s.SecretAt))
		}
		b.WriteByte('\n')
		for _, a := range s.Attempts {
			fmt.Fprintf(&b, "\nattempt %d", a.Number)
			if a.Actor != nil {
				b.WriteString(" by " + escape(*a.Actor))
			}
			if a.Reason != nil {
				b.WriteString(", " + escape(*a.Reason))
			}
			if a.Outcome != "" {
				b.WriteString(": " + escape(a.Outcome))
			}
			b.WriteByte('\n')
			for _, step := range a.Steps {
				fmt.Fprintf(&b, "  %s  %s", escape(step.At), escape(step.What))
				if step.Detail != nil {
					b.WriteString(": " + escape(*step.Detail))
				}
				b.WriteByte('\n')
			}
		}
		return b.String()
	})
}
