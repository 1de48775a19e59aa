package web

import (
	"net/http"
	"strconv"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

// openStream opens an event stream for the caller.
func (s *Server) openStream(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		// An answer to HEAD has no body (RFC 9110, section 9.3.2), and a stream
		// is nothing else: none is opened, and none with this id replaced.
		setStreamHeaders(w.Header())
		w.WriteHeader(http.StatusOK)
		return nil
	}
	who, _ := access.FromContext(r.Context())
	return s.streams.serve(w, r, who)
}

// subscribe makes the caller's stream follow a device.
func (s *Server) subscribe(w http.ResponseWriter, r *http.Request) error {
	requestID, device, err := s.subscription(w, r)
	if err != nil {
		return err
	}
	who, _ := access.FromContext(r.Context())
	entityID, err := s.connections.Subscribe(r.Context(), who.Subject, requestID, device)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, map[string]string{"status": "subscribed", "device_entity_id": entityID})
	return nil
}

// unsubscribe ends that.
func (s *Server) unsubscribe(w http.ResponseWriter, r *http.Request) error {
	requestID, device, err := s.subscription(w, r)
	if err != nil {
		return err
	}
	who, _ := access.FromContext(r.Context())
	if err := s.connections.Unsubscribe(who.Subject, requestID, device); err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, map[string]string{"status": "unsubscribed"})
	return nil
}

// subscription reads the body of both.
func (s *Server) subscription(w http.ResponseWriter, r *http.Request) (requestID string, device int64, err error) {
	f, err := s.form(w, r)
	if err != nil {
		return "", 0, err
	}
	requestID = f.text("request_id", rule{})
	device = f.integer("device_id")
	f.forbidExtra()
	return requestID, device, f.err()
}

// subscriptionItem says that a stream follows a device.
type subscriptionItem struct {
	DeviceID       int64   `json:"device_id"`
	DeviceKey      string  `json:"device_key"`
	DeviceEntityID *string `json:"device_entity_id"`
	RequestID      string  `json:"request_id"`
	Subject        string  `json:"subject"`
	ConnectedAt    string  `json:"connected_at"`
}

// listSubscriptions answers who follows what, with ?device_id=N one device's.
func (s *Server) listSubscriptions(w http.ResponseWriter, r *http.Request) error {
	var only *int64
	if text := r.URL.Query().Get("device_id"); text != "" {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fleet.E(fleet.Invalid, nil, "device_id must be a number")
		}
		if _, ok := s.registry.Directory().ByID(id); !ok {
			return fleet.ErrNotFound("Device", id)
		}
		only = &id
	}
	items := []subscriptionItem{}
	for _, sub := range s.connections.Subscriptions(only) {
		items = append(items, subscriptionItem{
			DeviceID: sub.Device.ID, DeviceKey: sub.Device.Key, DeviceEntityID: textOrNull(sub.Device.EntityID),
			RequestID: sub.RequestID, Subject: sub.Subject, ConnectedAt: timestamp(sub.Opened),
		})
	}
	s.write(w, r, http.StatusOK, map[string]any{"subscriptions": items, "count": len(items)})
	return nil
}
