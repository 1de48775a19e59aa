package tail

import (
	"encoding/json"
	"net/http"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

// event is what a stream brought: one of its pointers is set, or ready, or
// bad, or err at the end of the stream; none for an event that is not ours.
type event struct {
	id    string        // the last event id, with this event
	retry time.Duration // the reconnection time asked for, so far

	ready    bool
	rejected *rejection
	logs     *logsPayload
	gap      *gapPayload
	deleted  *deletedPayload
	lost     *deletedPayload  // a subscription that was ended because the device may not be seen any more
	expiring *expiringPayload // the right to the stream will be over
	ended    *endedPayload    // it is
	bad      error            // the data could not be read
	err      error            // the stream ended
}

// logsPayload is one batch of a device's lines.
type logsPayload struct {
	DeviceID  int64             `json:"device_id"`
	DeviceKey string            `json:"device_key"`
	EntityID  string            `json:"device_entity_id"`
	Received  string            `json:"received"`
	Logs      []json.RawMessage `json:"logs"`
	Meta      []lineMeta        `json:"meta"` // one for each of Logs, or none at all
}

// lineMeta is what the server recognised in a line.
type lineMeta struct {
	Level    *string `json:"level"`
	Tag      *string `json:"tag"`
	UptimeMS *int64  `json:"uptime_ms"`
}

// gapPayload says which lines of a device are missing.
type gapPayload struct {
	DeviceID  int64  `json:"device_id"`
	DeviceKey string `json:"device_key"`
	EntityID  string `json:"device_entity_id"`
	From      string `json:"from"`
	To        string `json:"to"`
	Count     *int64 `json:"count"` // nil if the server does not know
	Reason    string `json:"reason"`
}

// deletedPayload names a device that was followed and is deleted.
type deletedPayload struct {
	DeviceID int64 `json:"device_id"`
}

// expiringPayload says when the right to the stream will be over.
type expiringPayload struct {
	At time.Time `json:"expires_at"`
}

// endedPayload says why the right to the stream is over.
type endedPayload struct {
	Reason string `json:"reason"`
}

// reason returns that as the end of a run.
func (e *endedPayload) reason() error {
	why, ok := map[string]string{
		"expired": "its time is over", "revoked": "it was revoked, or you may not follow devices any more", "logout": "it was logged out",
	}[e.Reason]
	switch {
	case ok:
	case e.Reason == "":
		why = "it does not say why"
	default:
		why = escape(e.Reason)
	}
	return fleet.E(fleet.Unauthenticated, nil, "The server has ended the session of the token: %s", why)
}

// rejection is the server's refusal of a stream.
type rejection struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// reason returns a *lost, or a *fleet.Error if it is no use to try again.
func (r *rejection) reason() error {
	switch r.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fleet.E(kindOf(r.Status), nil, "The server rejected the stream: %s", escape(r.Message))
	default:
		return &lost{why: "the server rejected the stream: " + r.Message}
	}
}

// read decodes the stream until it ends, which is the last event it sends, and
// closes events. Somebody must receive until then.
func read(dec *sse.Decoder, events chan<- event) {
	defer close(events)
	for {
		msg, err := dec.Next()
		ev := event{id: dec.LastID(), retry: dec.Retry(), err: err}
		if err == nil {
			ev.parse(msg)
		}
		events <- ev
		if err != nil {
			return
		}
	}
}

func (ev *event) parse(msg sse.Message) {
	switch msg.Name {
	case "ready":
		ev.ready = true
	case "rejected":
		ev.rejected = &rejection{}
		// What cannot be read has no status, and is tried again.
		_ = json.Unmarshal(msg.Data, ev.rejected)
	case "", "message":
		var app struct {
			Type    string          `json:"type"`
			Payload json.RawMessage `json:"payload"`
		}
		if ev.bad = json.Unmarshal(msg.Data, &app); ev.bad != nil {
			return
		}
		switch app.Type {
		case "device-logs":
			ev.logs = &logsPayload{}
			ev.bad = json.Unmarshal(app.Payload, ev.logs)
		case "log-gap":
			ev.gap = &gapPayload{}
			ev.bad = json.Unmarshal(app.Payload, ev.gap)
		case "device-deleted":
			ev.deleted = &deletedPayload{}
			ev.bad = json.Unmarshal(app.Payload, ev.deleted)
		case "subscription-ended":
			ev.lost = &deletedPayload{}
			ev.bad = json.Unmarshal(app.Payload, ev.lost)
		case "session-expiring":
			ev.expiring = &expiringPayload{}
			ev.bad = json.Unmarshal(app.Payload, ev.expiring)
		case "session-ended":
			ev.ended = &endedPayload{}
			// What cannot be read is an end all the same.
			_ = json.Unmarshal(app.Payload, ev.ended)
		}
		if ev.bad != nil {
			ev.logs, ev.gap, ev.deleted, ev.lost, ev.expiring = nil, nil, nil, nil, nil
		}
	}
}
