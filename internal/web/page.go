package web

import (
	"net/http"
	"strings"
)

// showPage answers with the web page. Below the paths of the API it is never the
// answer: a mistake in a path must not look like success.
func (s *Server) showPage(w http.ResponseWriter, r *http.Request) error {
	top, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch top {
	case "api", "health", "internal", "metrics":
		return errNoRoute
	}
	s.page.ServeHTTP(w, r)
	return nil
}
