package elastic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

const (
	ownField  = "signalbox"      // what we add to a document
	sentField = "signalbox_sent" // what a device sent under that name
	maxReason = 1000             // bytes of a server's reason that are kept
)

// Write implements logs.Sink with one bulk request. The index is that of the
// day of the line's receipt in UTC, and the document's id is the line's, so
// that a line which is written again replaces itself.
func (c *Client) Write(ctx context.Context, lines []logs.SinkLine) ([]logs.Refusal, error) {
	var refused []logs.Refusal
	sent := make([]int, 0, len(lines)) // index in lines, by place in the request
	size := 0
	for i := range lines {
		size += len(lines[i].Doc) + len(lines[i].Meta) + 256
	}
	body := make([]byte, 0, size)
	for i := range lines {
		var ok bool
		if body, ok = c.appendLine(body, &lines[i]); !ok {
			refused = append(refused, logs.Refusal{Index: i, Kind: fleet.Invalid, Reason: "not a document"})
			continue
		}
		sent = append(sent, i)
	}
	if len(sent) == 0 {
		return refused, nil
	}
	start := time.Now()
	more, how, err := c.bulk(ctx, body, sent)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	status := "success"
	if err != nil {
		status = "error"
	}
	c.metrics.writes.WithLabelValues(status, string(how)).Inc()
	c.metrics.writeSeconds.Observe(time.Since(start).Seconds())
	return append(refused, more...), err
}

// bulk makes the request for the lines with these indices.
func (c *Client) bulk(ctx context.Context, body []byte, sent []int) ([]logs.Refusal, outcome, error) {
	a, how, err := c.post(ctx, bulkTimeout, "/_bulk", "application/x-ndjson", nil, body)
	if err != nil {
		return nil, how, err
	}
	switch {
	case a.status == http.StatusRequestEntityTooLarge:
		return nil, httpError, a.failure(fleet.TooLarge)
	case a.status == http.StatusBadRequest || a.status == http.StatusUnprocessableEntity:
		return nil, httpError, a.failure(fleet.Invalid)
	case a.status/100 != 2:
		return nil, httpError, a.failure(fleet.External)
	}
	refused, err := parseBulk(a.body, len(sent))
	if err != nil {
		return nil, unknown, err
	}
	for i := range refused {
		refused[i].Index = sent[refused[i].Index]
	}
	return refused, noError, nil
}

// appendLine appends the two lines of the request that make one document.
func (c *Client) appendLine(b []byte, l *logs.SinkLine) ([]byte, bool) {
	doc := l.Doc
	if len(doc) < len(`{"a":0}`) || doc[0] != '{' || doc[len(doc)-1] != '}' {
		return b, false
	}
	if bytes.Contains(doc, []byte(`"`+ownField+`"`)) || bytes.Contains(doc, []byte(`"`+ownField+`.`)) {
		doc = renameOwn(doc)
	}
	b = append(b, `{"index":{"_index":"`...)
	b = append(b, c.indexPrefix...)
	b = l.Received.UTC().AppendFormat(b, "2006.01.02")
	b = append(b, `","_id":"`...)
	b = append(b, l.ID...)
	b = append(b, "\"}}\n"...)
	b = append(b, doc[:len(doc)-1]...)
	b = append(b, `,"`+ownField+`":{`...)
	if l.Device != "" {
		b = append(b, `"device":"`...)
		b = append(append(b, l.Device...), `",`...)
	}
	b = append(append(b, `"cursor":"`...), l.ID...)
	if epoch, _, ok := strings.Cut(l.ID, "-"); ok {
		b = append(append(b, `","epoch":"`...), epoch...)
	}
	b = strconv.AppendUint(append(b, `","seq":`...), l.Seq, 10)
	b = strconv.AppendInt(append(b, `,"line":`...), int64(l.N), 10)
	if len(l.Meta) > len("{}") {
		b = append(append(b, ','), l.Meta[1:]...)
	} else {
		b = append(b, '}')
	}
	return append(b, "}\n"...), true
}

// renameOwn renames a field of the device's that has the name of ours: two
// fields of one name are no document. "signalbox.device" is one, too: to the
// server it is the field device of ours, and a device could put its line among
// those of another.
func renameOwn(doc []byte) []byte {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(doc, &fields); err != nil {
		return doc
	}
	found := false
	for name, value := range fields {
		if name == ownField || strings.HasPrefix(name, ownField+".") {
			found = true
			delete(fields, name)
			fields[sentField+name[len(ownField):]] = value
		}
	}
	if !found {
		return doc
	}
	renamed, err := json.Marshal(fields)
	if err != nil {
		return doc
	}
	return renamed
}

// parseBulk reads the answer to a bulk request for n documents and returns
// those that were not taken. Its error is of kind fleet.External: the answer
// does not say of each document what became of it.
func parseBulk(body []byte, n int) ([]logs.Refusal, error) {
	var said struct {
		Error  json.RawMessage // of the request, which some servers give with status 200
		Errors *bool
		Items  []map[string]struct {
			Status int
			Error  json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return nil, fleet.E(fleet.External, err, "The answer to a bulk request cannot be read")
	}
	if e := string(said.Error); e != "" && e != "null" && e != `""` {
		return nil, fleet.E(fleet.External, fmt.Errorf("%.200s", e), "A bulk request broke off at the server")
	}
	if said.Errors != nil && !*said.Errors && len(said.Items) == 0 {
		return nil, nil // as some servers say it
	}
	if said.Errors == nil || len(said.Items) != n {
		return nil, fleet.E(fleet.External, nil, "The answer to a bulk request is about %d documents of %d", len(said.Items), n)
	}
	var refused []logs.Refusal
	for i, item := range said.Items {
		if len(item) != 1 {
			return nil, fleet.E(fleet.External, nil, "The answer to a bulk request cannot be read")
		}
		for _, r := range item {
			if r.Status < 200 || r.Status > 599 {
				return nil, fleet.E(fleet.External, nil, "The answer to a bulk request cannot be read")
			}
			if r.Status/100 == 2 || r.Status == http.StatusConflict {
				continue // a conflict is with a request of ours that was given up: the document is there
			}
			kind, text := itemError(r.Status, r.Error)
			refused = append(refused, logs.Refusal{Index: i, Kind: kind, Reason: text})
		}
	}
	return refused, nil
}

// passing are the types of errors that come with status 400 and are about the
// state of the server, not about the document: another day's index may not be
// made because there are too many shards, say.
var passing = map[string]bool{
	"validation_exception":         true,
	"index_closed_exception":       true,
	"index_not_found_exception":    true,
	"cluster_block_exception":      true,
	"illegal_state_exception":      true,
	"invalid_index_name_exception": true, // ELASTICSEARCH_INDEX_PREFIX is at fault
}

// itemError says whether one document was refused for good, and why.
func itemError(status int, text json.RawMessage) (fleet.Kind, string) {
	var e struct {
		Type   string
		Reason string
		Cause  struct {
			Reason string
		} `json:"caused_by"`
	}
	if err := json.Unmarshal(text, &e); err != nil {
		e.Reason = string(text) // a server may say it in its own way
	}
	reason := "HTTP " + strconv.Itoa(status)
	for _, more := range []string{e.Type, e.Reason, e.Cause.Reason} {
		if more != "" {
			reason += ": " + more
		}
	}
	reason = strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
	switch {
	case status == http.StatusRequestEntityTooLarge:
		return fleet.TooLarge, reason
	case (status == http.StatusBadRequest || status == http.StatusUnprocessableEntity) && !passing[e.Type]:
		return fleet.Invalid, reason
	case status == http.StatusTooManyRequests:
		return fleet.TooMany, reason
	}
	return fleet.Unavailable, reason
}
