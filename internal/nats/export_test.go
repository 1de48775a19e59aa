package nats

import (
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// CutOutlet breaks the connection by which the program publishes.
func (s *Server) CutOutlet() {
	z, err := s.nats.Connz(&server.ConnzOptions{State: server.ConnOpen, Limit: 1 << 20})
	if err != nil {
		panic(err)
	}
	for _, c := range z.Conns {
		if strings.HasPrefix(c.MQTTClient, inProcess+"-") {
			_ = s.nats.DisconnectClientByID(c.Cid)
		}
	}
}

// Connected reports whether the broker has a connection of an MQTT client. One that
// has gone may be there for a while yet.
func (s *Server) Connected(clientID string) bool {
	z, err := s.nats.Connz(&server.ConnzOptions{MQTTClient: clientID, State: server.ConnOpen})
	return err != nil || len(z.Conns) > 0
}
