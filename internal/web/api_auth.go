package web

import (
	"net/http"

	"signalbox/internal/access"
)

// self answers who the caller is.
func (s *Server) self(w http.ResponseWriter, r *http.Request) error {
	p, _ := access.FromContext(r.Context())
	s.write(w, r, http.StatusOK, struct {
		Subject string   `json:"subject"`
		Email   *string  `json:"email"`
		Name    *string  `json:"name"`
		Roles   []string `json:"roles"`
	}{p.Subject, textOrNull(p.Email), textOrNull(p.Name), append([]string{}, p.Roles...)})
	return nil
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
