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
