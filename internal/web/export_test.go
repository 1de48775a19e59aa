package web

import (
	"net/http"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

// AppendTimestamp is appendTimestamp.
var AppendTimestamp = appendTimestamp

// Rows returns the methods and patterns of the main listener's table.
func (s *Server) Rows() (rows [][2]string) {
	for _, rt := range s.routes() {
		rows = append(rows, [2]string{rt.method, rt.pattern})
	}
	return rows
}

// Visible returns what is in the scope of a request, and whether that is everything.
func (s *Server) Visible(r *http.Request) (devices []fleet.DeviceRef, whole bool) {
	sc := s.scope(r)
	return sc.devices(), sc.whole() && sc.keys() == nil && sc.needWhole() == nil
}

// IdentifyWith has f say who sends each request.
func (s *Server) IdentifyWith(f func(http.ResponseWriter, *http.Request, bool) (access.Principal, error)) {
	s.identify = f
}
