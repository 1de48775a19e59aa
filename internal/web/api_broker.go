package web

import "net/http"

// Broker is what the built-in MQTT broker wants of devices, for those who show
// how one is reached. Nothing in it is secret.
type Broker struct {
	Auth        string // off, token or secret: what MQTT_AUTH came to
	Port        int
	TLS         bool
	Topic       string // of the log
	SharedTopic bool   // a device may publish to Topic itself, and not only below it
}

// showBroker answers how devices reach the built-in MQTT broker; null where it
// is off.
func (s *Server) showBroker(w http.ResponseWriter, r *http.Request) error {
	type body struct {
		Auth        string `json:"auth"`
		Port        int    `json:"port"`
		TLS         bool   `json:"tls"`
		Topic       string `json:"topic"`
		SharedTopic bool   `json:"shared_topic"`
		TokenURL    string `json:"token_url"`
	}
	var answer struct {
		Broker *body `json:"broker"`
	}
	if b := s.devices.Broker; b != nil {
		answer.Broker = &body{b.Auth, b.Port, b.TLS, b.Topic, b.SharedTopic, s.devices.TokenURL}
	}
	s.write(w, r, http.StatusOK, answer)
	return nil
}
