package app

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/gateway"
)

// gatewayGrace is what answers that are under way may take when the gateway is
// shut down, after its streams have ended.
const gatewayGrace = 2 * time.Second

// gatewayShutdown is what the whole shutdown may take.
const gatewayShutdown = 15 * time.Second

// Gateway runs the SSE gateway until ctx ends, and then shuts it down in order:
// no new streams, the clients and the backend are told, the listeners close.
// It fails with fleet.Invalid when the settings do not do.
func Gateway(ctx context.Context, cfg config.Gateway, log *slog.Logger) (err error) {
	heartbeat, mistake := strconv.ParseFloat(cfg.HeartbeatIntervalSeconds, 64)
	if !(mistake == nil && heartbeat >= 0.1 && heartbeat <= 86_400) {
		log.Warn("setting ignored", "reason", "HEARTBEAT_INTERVAL_SECONDS is no number of seconds", "default", 15)
		heartbeat = 15
	}
	if cfg.Port == 0 || cfg.MaxStreams < 1 || cfg.MaxBody < 1 || cfg.StreamBufferBytes < 1 || cfg.StreamWriteTimeout < 1 || cfg.RabbitMQQueueTTLMS < 1 {
		return fleet.E(fleet.Invalid, nil, "PORT, MAX_STREAMS, GATEWAY_MAX_BODY, STREAM_BUFFER_BYTES, STREAM_WRITE_TIMEOUT and RABBITMQ_QUEUE_TTL_MS must be above 0")
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var queues *gateway.Queues
	if cfg.RabbitMQURL != "" {
		queues, err = gateway.NewQueues(gateway.QueueOptions{
			URL: cfg.RabbitMQURL.Reveal(), TTL: time.Duration(cfg.RabbitMQQueueTTLMS) * time.Millisecond, Prefix: cfg.RabbitMQEnvPrefix,
			AutoDelete: cfg.RabbitMQEnvAutoDelete == "true", Log: log, Registerer: metrics,
		})
		if err != nil {
			return fleet.E(fleet.Invalid, err, "%s", err)
		}
	}
	server := gateway.New(gateway.Options{
		CallbackURL: cfg.CallbackURL.Reveal(), CallbackSecret: cfg.CallbackSecret.Reveal(), Secret: cfg.GatewaySecret.Reveal(),
		Heartbeat: time.Duration(heartbeat * float64(time.Second)), Buffer: int(cfg.StreamBufferBytes), WriteTimeout: time.Duration(cfg.StreamWriteTimeout),
		MaxBody: int64(cfg.MaxBody), MaxStreams: cfg.MaxStreams, Queues: queues,
		Log: log, Registerer: metrics,
	})
	if cfg.CallbackURL == "" {
		log.Warn("CALLBACK_URL is not set: no stream will be opened")
	}

	listeners := []listener{{
		name: "gateway", address: net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))), handler: server, allOptions: true,
		readTimeout: 30 * time.Second, // a stream is taken over, and has no such limit
	}}
	if cfg.InternalListen != "" {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
		mux.Handle("GET /healthz", server)
		mux.Handle("GET /readyz", server)
		listeners = append(listeners, listener{name: "internal", address: cfg.InternalListen, handler: mux, readTimeout: 30 * time.Second, allOptions: true})
	}
	var units []unit
	for _, l := range listeners {
		l.grace = gatewayGrace
		s, err := listen(log, l)
		if err != nil {
			return err
		}
		defer s.close() // its error is of closing what is gone
		units = append(units, unit{l.name, s.run})
	}
	units = append(units, unit{"streams", server.Run})
	return process{log: log, ready: "the gateway is ready", limit: gatewayShutdown}.run(ctx, units)
}
