package web

import (
	"cmp"
	"net/http"
	"strconv"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/sse"
	"signalbox/internal/stream"
)

// streamRoute is the pattern of the route that openStream handles.
const streamRoute = "GET /api/sse/stream"

// refuseStream answers who may not open a stream because nobody is known behind
// the request, or nobody who may: in the stream, as Streams.refuse does. It
// reports false, and does nothing, for any other error.
func (s *Server) refuseStream(w http.ResponseWriter, err error) bool {
	if s.streams == nil {
		return false
	}
	switch fleet.KindOf(err) {
	case fleet.Unauthenticated, fleet.Forbidden:
		s.connections.BindingFailed()
		return s.streams.refuse(w, err) == nil
	}
	return false
}

// openStream opens an event stream for the caller.
func (s *Server) openStream(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		// An answer to HEAD has no body (RFC 9110, section 9.3.2), and a stream
		// is nothing else: none is opened, and none with this id replaced.
		sse.SetHeaders(w.Header())
		w.WriteHeader(http.StatusOK)
		return nil
	}
	who, _ := access.FromContext(r.Context())
	return s.streams.serve(w, r, who)
}

// subscribe makes the caller's stream follow a device, or a set of them.
func (s *Server) subscribe(w http.ResponseWriter, r *http.Request) error {
	q, err := s.subscription(w, r, true)
	if err != nil {
		return err
	}
	q.tell(audited(r.Context()), s.registry.Directory())
	sc := s.scope(r)
	who := sc.who
	if q.set == nil {
		entityID, err := s.connections.Subscribe(r.Context(), who.Subject, q.requestID, q.device, q.want)
		if err != nil {
			return err
		}
		s.write(w, r, http.StatusOK, map[string]string{"status": "subscribed", "device_entity_id": entityID})
		return nil
	}
	q.want.Bounded = true
	members, err := s.connections.SubscribeSet(r.Context(), who.Subject, q.requestID, *q.set, q.want)
	if err != nil {
		return err
	}
	devices := make([]subscribedDevice, 0, len(members))
	for _, d := range members {
		if sc.sees(d) { // the stream's owner may see more than this token of theirs
			devices = append(devices, subscribedDevice{d.ID, d.Key, textOrNull(d.EntityID)})
		}
	}
	s.write(w, r, http.StatusOK, map[string]any{"status": "subscribed", "devices": devices, "count": len(devices)})
	return nil
}

// subscribedDevice is a device of a set that was subscribed to.
type subscribedDevice struct {
	DeviceID       int64   `json:"device_id"`
	DeviceKey      string  `json:"device_key"`
	DeviceEntityID *string `json:"device_entity_id"`
}

// unsubscribe ends that.
func (s *Server) unsubscribe(w http.ResponseWriter, r *http.Request) error {
	q, err := s.subscription(w, r, false)
	if err != nil {
		return err
	}
	who, _ := access.FromContext(r.Context())
	if q.set == nil {
		if err := s.connections.Unsubscribe(r.Context(), who.Subject, q.requestID, q.device); err != nil {
			return err
		}
		s.write(w, r, http.StatusOK, map[string]string{"status": "unsubscribed"})
		return nil
	}
	ended, err := s.connections.UnsubscribeSet(r.Context(), who.Subject, q.requestID, *q.set)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, map[string]any{"status": "unsubscribed", "count": ended})
	return nil
}

// subscriptionRequest is the body of both: device_id, or else device_ids,
// model_id or all.
type subscriptionRequest struct {
	requestID string
	device    int64
	set       *stream.Set
	want      stream.Want
}

// tell says in the audit what is watched.
func (q *subscriptionRequest) tell(e *event, devices *registry.Directory) {
	switch {
	case q.set == nil:
		d, _ := devices.ByID(q.device)
		e.about("device", q.device, cmp.Or(d.Name, d.EntityID, d.Key))
	case q.set.All:
		e.detail("all", true)
	case q.set.ModelID != 0:
		e.about("model", q.set.ModelID, "")
	default:
		e.detail("devices", q.set.Devices[:min(len(q.set.Devices), toldDevices)])
		e.detail("count", len(q.set.Devices))
	}
}

// toldDevices is how many devices of a set the audit names.
const toldDevices = 100

// subscription reads it; what is wanted of the lines can only be said when a
// subscription begins.
func (s *Server) subscription(w http.ResponseWriter, r *http.Request, begins bool) (q subscriptionRequest, err error) {
	f, err := s.form(w, r)
	if err != nil {
		return q, err
	}
	q.requestID = f.text("request_id", rule{})
	switch {
	case f.has("all"):
		q.set = &stream.Set{All: true}
		if !f.boolean("all") {
			f.fault("literal_error", []any{"all"}, "Input should be true", f.fields["all"])
		}
	case f.has("model_id"):
		q.set = &stream.Set{ModelID: f.integer("model_id")}
		if q.set.ModelID < 1 {
			f.fault("greater_than_equal", []any{"model_id"}, "Input should be greater than or equal to 1", f.fields["model_id"])
		}
	case f.has("device_ids"):
		q.set = &stream.Set{Devices: f.integers("device_ids", maxDevices)}
	default:
		q.device = f.integer("device_id")
	}
	if begins {
		text := func(name string) string {
			if t := f.textOrNull(name, rule{most: maxFilter}); t != nil {
				return *t
			}
			return ""
		}
		q.want = stream.Want{After: text("after"), Level: text("level"), Tag: text("tag"), Pattern: text("query"), Regex: text("regex")}
	}
	f.forbidExtra()
	if err := f.err(); err != nil {
		return q, err
	}
	named := []int64{q.device}
	if q.set != nil {
		named = q.set.Devices
	}
	sc := s.scope(r)
	for _, id := range named {
		if _, err := sc.device(id); err != nil {
			return q, err
		}
	}
	return q, nil
}

// maxFilter bounds each text that says what is wanted, in characters.
const maxFilter = 1024

// subscriptionItem says that a stream follows a device.
type subscriptionItem struct {
	DeviceID       int64   `json:"device_id"`
	DeviceKey      string  `json:"device_key"`
	DeviceEntityID *string `json:"device_entity_id"`
	RequestID      string  `json:"request_id"`
	Subject        string  `json:"subject"`
	ConnectedAt    string  `json:"connected_at"`
}

// listSubscriptions answers who follows what the caller may see, with ?device_id=N one device's.
func (s *Server) listSubscriptions(w http.ResponseWriter, r *http.Request) error {
	sc := s.scope(r)
	var only *int64
	if text := r.URL.Query().Get("device_id"); text != "" {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fleet.E(fleet.Invalid, nil, "device_id must be a number")
		}
		if _, err := sc.device(id); err != nil {
			return err
		}
		only = &id
	}
	items := []subscriptionItem{}
	for _, sub := range s.connections.Subscriptions(only) {
		if !sc.sees(sub.Device) {
			continue
		}
		items = append(items, subscriptionItem{
			DeviceID: sub.Device.ID, DeviceKey: sub.Device.Key, DeviceEntityID: textOrNull(sub.Device.EntityID),
			RequestID: sub.RequestID, Subject: sub.Subject, ConnectedAt: timestamp(sub.Opened),
		})
	}
	s.write(w, r, http.StatusOK, map[string]any{"subscriptions": items, "count": len(items)})
	return nil
}
