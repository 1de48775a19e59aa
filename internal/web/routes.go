package web

import (
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
)

// right is what a route asks of the caller.
type right uint8

const (
	probe   right = iota // nothing, and it is answered while the server drains
	public               // nothing
	anybody              // to be somebody
	editor               // the role editor
	device               // to be a device with a token of its own
)

// handler answers a request or returns an error without having written anything.
type handler func(http.ResponseWriter, *http.Request) error

// route is one row of the table.
type route struct {
	method    string // "" is any, and the path then has no other row
	pattern   string // as in net/http.ServeMux
	needs     right
	operation string // label of the metrics; "" is not measured
	handle    handler
}

// routes is the whole table of the main listener.
func (s *Server) routes() []route {
	return []route{
		{"GET", "/api/auth/self", editor, "", s.self},

		{"GET", "/api/device-models", anybody, "list_device_models", s.listModels},
		{"POST", "/api/device-models", editor, "create_device_model", s.createModel},
		{"GET", "/api/device-models/{id}", anybody, "get_device_model", s.getModel},
		{"PUT", "/api/device-models/{id}", editor, "update_device_model", s.updateModel},
		{"DELETE", "/api/device-models/{id}", editor, "delete_device_model", s.deleteModel},
		{"POST", "/api/device-models/{id}/validate", editor, "", s.validateConfig},

		{"GET", "/api/devices", anybody, "list_devices", s.listDevices},
		{"POST", "/api/devices", editor, "create_device", s.createDevice},
		{"GET", "/api/devices/{id}", anybody, "get_device", s.getDevice},
		{"PUT", "/api/devices/{id}", editor, "update_device", s.updateDevice},
		{"DELETE", "/api/devices/{id}", editor, "delete_device", s.deleteDevice},

		{"GET", "/api/devices/{id}/logs", anybody, "get_device_logs", s.deviceHistory},
		{"GET", "/api/logs", anybody, "get_logs", s.fleetHistory},

		{"GET", "/api/dead-letters", editor, "list_dead_letters", s.listDeadLetters},
		{"DELETE", "/api/dead-letters", editor, "purge_dead_letters", s.purgeDeadLetters},
		{"POST", "/api/dead-letters/retry", editor, "retry_dead_letters", s.retryDeadLetters},

		{"GET", "/api/sse/stream", anybody, "", s.openStream},
		{"POST", "/api/device-logs/subscribe", editor, "", s.subscribe},
		{"POST", "/api/device-logs/unsubscribe", editor, "", s.unsubscribe},
		{"GET", "/api/device-logs/subscriptions", anybody, "", s.listSubscriptions},

		{"GET", "/api/fleet", anybody, "", s.showFleet},
		{"GET", "/api/fleet/series", anybody, "", s.showSeries},
		{"GET", "/api/overview", anybody, "", s.showOverview},

		{"GET", "/api/devices/{id}/keycloak-status", anybody, "get_keycloak_status", s.showClient},
		{"POST", "/api/devices/{id}/keycloak-sync", editor, "sync_keycloak_client", s.syncClient},
		{"GET", "/api/devices/{id}/credentials", editor, "get_device_credentials", s.showCredentials},
		{"PUT", "/api/devices/{id}/public-key", editor, "set_device_public_key", s.setPublicKey},
		{"POST", "/api/devices/{id}/revoke", editor, "revoke_device", s.revokeDevice},
		{"POST", "/api/devices/{id}/restore", editor, "restore_device", s.restoreDevice},
		{"POST", "/api/device-clients/reconcile", editor, "reconcile_device_clients", s.reconcileClients},

		{"GET", "/api/iot/config", device, "", s.deviceConfig},

		{"GET", "/.well-known/openid-configuration", public, "", s.issuer},
		{"GET", "/oauth/keys", public, "", s.issuer},
		{"POST", "/oauth/token", public, "", s.issuer},

		{"GET", "/health/healthz", probe, "", s.healthz},
		{"GET", "/health/readyz", probe, "", s.readyz},
		{"GET", "/health/drain", probe, "", s.drain},

		{"", "/", public, "", s.showPage},
	}
}

// internalRoutes is the whole table of the internal listener, which is for
// the operator's own network.
func (s *Server) internalRoutes() []route {
	return []route{
		{"GET", "/health/healthz", probe, "", s.healthz},
		{"GET", "/health/readyz", probe, "", s.readyz},
		{"GET", "/health/drain", probe, "", s.drain},
		{"GET", "/metrics", probe, "", s.showMetrics},
		{"POST", "/internal/rotation-nudge", public, "", s.nudge},
		{"", "/", probe, "", noRoute},
	}
}

// mux serves the table. A method that a path does not have gets a JSON answer as
// well: 405 with those it has.
func (s *Server) mux(table []route) http.Handler {
	mux := http.NewServeMux()
	methods := make(map[string][]string)
	for _, rt := range table {
		if rt.method == "" {
			mux.HandleFunc(rt.pattern, s.serve(rt))
			continue
		}
		mux.HandleFunc(rt.method+" "+rt.pattern, s.serve(rt))
		methods[rt.pattern] = append(methods[rt.pattern], rt.method)
	}
	for _, pattern := range slices.Sorted(maps.Keys(methods)) {
		allowed := append(methods[pattern], "OPTIONS")
		if slices.Contains(allowed, "GET") {
			allowed = append(allowed, "HEAD")
		}
		slices.Sort(allowed)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			if r.Method == http.MethodOptions {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			s.fail(w, r, errMethod)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The mux answers a path like //api/devices with a redirect, in HTML.
		if p := r.URL.Path; strings.HasPrefix(p, "/") && path.Clean(p) != p && (path.Clean(p)+"/" != p || p == "//") {
			s.fail(w, r, errNoRoute)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// noRoute is for what is in no other row.
func noRoute(http.ResponseWriter, *http.Request) error { return errNoRoute }
