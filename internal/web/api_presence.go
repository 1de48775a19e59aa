package web

import (
	"net/http"
	"strconv"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/presence"
)

const (
	defaultPresenceHours = 24
	maxPresenceHours     = 720
	maxTransitions       = 1000
)

// heard notes that a device showed a good token. One that only said which it is
// may be anybody.
func (s *Server) heard(c caller) {
	if s.presence != nil && c.claims.ClientID != "" {
		s.presence.Token(c.ID)
	}
}

// devicePresence is whether a device is there.
type devicePresence struct {
	DeviceID   int64   `json:"device_id"`
	Online     bool    `json:"online"`
	Sessions   int     `json:"sessions"`
	LastSeenAt *string `json:"last_seen_at"`
	LastSource *string `json:"last_source"`
	Since      *string `json:"since"`
	Drops      int     `json:"drops_24h"`
}

// presenceOf returns that of devices, in their order.
func (s *Server) presenceOf(ids ...int64) []presence.Status {
	if s.presence == nil {
		all := make([]presence.Status, len(ids))
		for n, id := range ids {
			all[n].Device = id
		}
		return all
	}
	return s.presence.Of(ids...)
}

func newDevicePresence(p presence.Status) devicePresence {
	return devicePresence{
		DeviceID: p.Device, Online: p.Online, Sessions: p.Sessions, LastSeenAt: momentOrNull(p.LastSeen),
		LastSource: textOrNull(string(p.Source)), Since: momentOrNull(p.Since), Drops: p.Drops,
	}
}

// listPresence answers which devices are there.
func (s *Server) listPresence(w http.ResponseWriter, r *http.Request) error {
	devices := s.scope(r).devices()
	ids := make([]int64, len(devices))
	for n, d := range devices {
		ids[n] = d.ID
	}
	list := make([]devicePresence, len(ids))
	for n, p := range s.presenceOf(ids...) {
		list[n] = newDevicePresence(p)
	}
	s.writeLarge(w, r, struct {
		Now     string           `json:"now"`
		Devices []devicePresence `json:"devices"`
	}{timestamp(time.Now()), list})
	return nil
}

// cameOrWent is one item of a device's history.
type cameOrWent struct {
	At     string  `json:"at"`
	Online bool    `json:"online"`
	Reason *string `json:"reason"`
}

// showPresence answers whether a device is there, and when it came and went in
// the last ?hours=.
func (s *Server) showPresence(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	hours := defaultPresenceHours
	if text := r.URL.Query().Get("hours"); text != "" {
		if hours, err = strconv.Atoi(text); err != nil || hours < 1 || hours > maxPresenceHours {
			return fleet.E(fleet.Invalid, nil, "hours must be a whole number from 1 to %d", maxPresenceHours)
		}
	}
	now := time.Now()
	history := []cameOrWent{}
	if s.presence != nil {
		list, err := s.presence.History(r.Context(), id, now.Add(-time.Duration(hours)*time.Hour), maxTransitions)
		if err != nil {
			return err
		}
		for _, t := range list {
			history = append(history, cameOrWent{timestamp(t.At), t.Online, textOrNull(t.Reason)})
		}
	}
	p := s.presenceOf(id)[0]
	var off *int64
	if p.ClockSaid {
		ms := p.ClockOff.Milliseconds()
		off = &ms
	}
	s.writeLarge(w, r, struct {
		Now string `json:"now"`
		devicePresence
		ClockOff *int64       `json:"clock_off_ms"`
		History  []cameOrWent `json:"history"`
	}{timestamp(now), newDevicePresence(p), off, history})
	return nil
}
