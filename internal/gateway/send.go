package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"signalbox/internal/sse"
)

// command is what a body of /internal/send asks for.
type command struct {
	token string
	frame *sse.Frame // nil: none
	close bool
	// unwritable says that there is an event that has no form on a stream.
	unwritable bool
	// extra is what is wrong by a rule that the protocol did not have: who sends
	// to a stream that has gone is told that first, as by the protocol.
	extra *problem
}

// maxID bounds the id of an event, which every reader sends back, in bytes.
const maxID = 1 << 10

func invalid(code, message string) *problem {
	return &problem{http.StatusBadRequest, code, "Invalid request: " + message}
}

// send is POST /internal/send.
func (s *Server) send(w http.ResponseWriter, r *http.Request) {
	buffered, p := s.take(w, r)
	if p != nil {
		s.metrics.sends.WithLabelValues(strings.ToLower(p.code)).Inc()
		refuse(w, p)
		return
	}
	status := "ok"
	if buffered {
		status = "buffered"
	}
	s.metrics.sends.WithLabelValues(status).Inc()
	reply(w, http.StatusOK, map[string]string{"status": status})
}

func (s *Server) take(w http.ResponseWriter, r *http.Request) (buffered bool, p *problem) {
	if !s.allowed(r) {
		return false, errUnauthorized
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" || !isPlain(r) {
		return false, &problem{http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", "The body must be application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.opts.MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return false, &problem{http.StatusRequestEntityTooLarge, "BODY_TOO_LARGE", "The body is too large"}
	}
	if err != nil {
		return false, invalid("INVALID_BODY", "the body did not come whole")
	}
	cmd, p := parse(body)
	if p != nil {
		return false, p
	}
	c := s.find(cmd.token)
	switch {
	case c == nil:
		return false, errNoToken
	case cmd.extra != nil:
		return false, cmd.extra
	}
	return c.put(cmd)
}

// isPlain reports whether a body comes as it is.
func isPlain(r *http.Request) bool {
	coding := r.Header.Get("Content-Encoding")
	return coding == "" || strings.EqualFold(coding, "identity")
}

// parse reads a body of /internal/send. Of several mistakes it names the first
// in the order that the protocol gives.
func parse(body []byte) (cmd command, p *problem) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		if list := []json.RawMessage(nil); json.Unmarshal(body, &list) != nil || list == nil {
			return cmd, &problem{http.StatusBadRequest, "INVALID_JSON", "The body must be a JSON object"}
		}
		// A list is an object without a token.
	}
	var ok bool
	if cmd.token, ok = text(fields["token"]); !ok || cmd.token == "" {
		return cmd, invalid("INVALID_TOKEN_MISSING", "token is required and must be a string")
	}
	raw, has := fields["event"]
	var name, data, id string
	if has {
		var event map[string]json.RawMessage
		if err := json.Unmarshal(raw, &event); err != nil || event == nil {
			return cmd, invalid("INVALID_EVENT_TYPE", "event must be an object")
		}
		if data, ok = text(event["data"]); !ok {
			return cmd, invalid("INVALID_EVENT_DATA_MISSING", "event.data is required and must be a string")
		}
		if raw, given := event["name"]; given {
			if name, ok = text(raw); !ok {
				return cmd, invalid("INVALID_EVENT_NAME_TYPE", "event.name must be a string")
			}
		}
		if raw, given := event["id"]; given {
			if id, ok = text(raw); !ok || !validID(id) {
				cmd.extra = invalid("INVALID_EVENT_ID", "event.id must be a short string on one line")
			}
		}
	}
	if raw, given := fields["id"]; given && !has {
		if id, ok = text(raw); !ok || id == "" || !validID(id) {
			cmd.extra = invalid("INVALID_ID", "id must be a short string on one line")
		} else {
			cmd.frame = sse.Mark(id)
		}
	}
	if raw, given := fields["close"]; given {
		switch string(raw) {
		case "true":
			cmd.close = true
		case "false":
		default:
			return cmd, invalid("INVALID_CLOSE_TYPE", "close must be a boolean")
		}
	}
	if has && cmd.extra == nil {
		cmd.frame, cmd.extra = frameOf(name, data, id)
		cmd.unwritable = cmd.frame == nil
	}
	return cmd, nil
}

// validID reports whether an id can stand in a stream, and be sent back.
func validID(id string) bool { return len(id) <= maxID && !strings.ContainsAny(id, "\r\n\x00") }

// text reads a JSON string.
func text(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// frameOf returns an event as it is written. Without one, and without a
// problem, it has no form: the protocol calls that a failed write.
func frameOf(name, data, id string) (*sse.Frame, *problem) {
	switch name {
	case "":
		return sse.Text(id, data), nil
	case "ready":
		return sse.Control("ready", ""), nil
	case "rejected":
		switch {
		case data == "":
			return nil, nil
		case strings.ContainsAny(data, "\r\n"):
			return nil, invalid("INVALID_EVENT_DATA", "event.data must be on one line")
		}
		return sse.Control("rejected", data), nil
	}
	if strings.ContainsAny(data, "\r\n") || !json.Valid([]byte(data)) {
		return nil, invalid("INVALID_EVENT_DATA", "event.data must be JSON on one line, since the event has a name")
	}
	return sse.Event(name, id, []byte(data)), nil
}
