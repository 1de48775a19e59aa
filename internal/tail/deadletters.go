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
	"time"

	"signalbox/internal/fleet"
)

// DeadLettersConfig says what to do with the lines that a sink refused for good.
type DeadLettersConfig struct {
	Server, Token string
	Sink          string
	Limit         int  // of List: the newest so many; 0: all
	JSON          bool // of List
	Out           io.Writer
}

// retryTime is how long one page of letters may take.
const retryTime = 2 * time.Minute

// ListDeadLetters prints the newest letters, oldest first.
func ListDeadLetters(ctx context.Context, cfg DeadLettersConfig) error {
	a, err := newAPI(cfg.Server, cfg.Token, nil, defaultPace)
	if err != nil {
		return err
	}
	defer a.close()
	order, left := "newest", cfg.Limit
	if left == 0 {
		order, left = "oldest", int(^uint(0)>>1)
	}
	var rows [][]byte
	for cursor := ""; left > 0; {
		var page struct {
			DeadLetters []json.RawMessage `json:"dead_letters"`
			HasMore     bool              `json:"has_more"`
			Next        string            `json:"next"`
		}
		query := url.Values{"sink": {cfg.Sink}, "order": {order}, "limit": {strconv.Itoa(min(left, 1000))}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		if err := a.get(ctx, "api/dead-letters", query, a.pace.call, &page); err != nil {
			return outcome(ctx, err)
		}
		left -= len(page.DeadLetters)
		for _, raw := range page.DeadLetters {
			row, err := cfg.row(raw)
			if err != nil {
				return a.stranger(err)
			}
			if order == "newest" {
				rows = append(rows, row)
			} else if _, err := cfg.Out.Write(row); err != nil {
				return outcome(ctx, err)
			}
		}
		if cursor = page.Next; !page.HasMore || len(page.DeadLetters) == 0 {
			break
		}
	}
	for i := len(rows) - 1; i >= 0; i-- {
		if _, err := cfg.Out.Write(rows[i]); err != nil {
			return outcome(ctx, err)
		}
	}
	return nil
}

// row is how a letter is printed.
func (cfg *DeadLettersConfig) row(raw json.RawMessage) ([]byte, error) {
	var line bytes.Buffer
	if cfg.JSON {
		if err := json.Compact(&line, raw); err != nil {
			return nil, err
		}
		return append([]byte(escapeJSON(line.String())), '\n'), nil
	}
	var l struct {
		Time     string          `json:"time"`
		Sink     string          `json:"sink"`
		Reason   string          `json:"reason"`
		Cursor   string          `json:"cursor"`
		Key      string          `json:"device_key"`
		Entity   *string         `json:"device_entity_id"`
		Document json.RawMessage `json:"document"`
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, err
	}
	name := l.Key
	if l.Entity != nil {
		name = *l.Entity
	}
	if name == "" {
		name = "(no device)"
	}
	if err := json.Compact(&line, l.Document); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s %s %s %s\n    %s\n    %s\n", escape(l.Time), escape(l.Sink), escape(name), escape(l.Cursor),
		strings.ReplaceAll(escape(l.Reason), "\n", "\n    "), escapeJSON(line.String())), nil
}

// RetryDeadLetters has the sink offered all its letters again and prints what
// became of them.
func RetryDeadLetters(ctx context.Context, cfg DeadLettersConfig) error {
	a, err := newAPI(cfg.Server, cfg.Token, nil, defaultPace)
	if err != nil {
		return err
	}
	defer a.close()
	taken, refused := 0, 0
	for cursor, more := "", true; more; {
		var page struct {
			Taken   int    `json:"taken"`
			Refused int    `json:"refused"`
			HasMore bool   `json:"has_more"`
			Next    string `json:"next"`
		}
		query := url.Values{"sink": {cfg.Sink}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		target := a.base.JoinPath("api/dead-letters/retry")
		target.RawQuery = query.Encode()
		if err := a.call(ctx, http.MethodPost, target, retryTime, struct{}{}, &page); err != nil {
			return outcome(ctx, err)
		}
		taken, refused = taken+page.Taken, refused+page.Refused
		cursor, more = page.Next, page.HasMore && page.Next != ""
	}
	_, err = fmt.Fprintf(cfg.Out, "%d taken, %d refused again\n", taken, refused)
	if err == nil && refused > 0 {
		return fleet.E(fleet.External, nil, "%d lines were refused again", refused)
	}
	return outcome(ctx, err)
}

// PurgeDeadLetters removes all letters of the sink and prints how many there were.
func PurgeDeadLetters(ctx context.Context, cfg DeadLettersConfig) error {
	a, err := newAPI(cfg.Server, cfg.Token, nil, defaultPace)
	if err != nil {
		return err
	}
	defer a.close()
	var said struct {
		Removed int `json:"removed"`
	}
	target := a.base.JoinPath("api/dead-letters")
	target.RawQuery = url.Values{"sink": {cfg.Sink}}.Encode()
	if err := a.call(ctx, http.MethodDelete, target, a.pace.call, nil, &said); err != nil {
		return outcome(ctx, err)
	}
	_, err = fmt.Fprintf(cfg.Out, "%d removed\n", said.Removed)
	return outcome(ctx, err)
}
