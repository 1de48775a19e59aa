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
	probe    right = iota // nothing, and it is answered while the server drains
	public                // nothing
	viewer                // the role viewer, or a mightier one
	editor                // the role editor, or admin
	admin                 // the role admin
	pipeline              // the role pipeline, or admin
	device                // to be a device with a token of its own
	inside                // the token of the internal listener, if there is one
)

// handler answers a request or returns an error without having written anything.
type handler func(http.ResponseWriter, *http.Request) error

// route is one row of the table.
type route struct {
	method    string // "" is any, and the path then has no other row
	pattern   string // as in net/http.ServeMux
	needs     right
	operation string // label of the metrics; "" is not measured
	audit     string // the action as the audit has it; "" is not recorded
	handle    handler
}

// loginPath is where people log in.
const loginPath = "/api/auth/login"

// routes is the whole table of the main listener.
func (s *Server) routes() []route {
	return []route{
		{"GET", "/api/auth/mode", public, "", "", s.showMode},
		{"GET", "/api/auth/self", viewer, "", "", s.self},
		{"GET", loginPath, public, "", "", s.beginLogin},
		{"POST", loginPath, public, "", "login", s.login},
		{"GET", "/api/auth/callback", public, "", "login", s.endLogin},
		{"GET", "/api/auth/logout", public, "", "logout", s.logout},
		{"POST", "/api/auth/logout", public, "", "logout", s.logoutHere},
		{"POST", "/api/auth/backchannel-logout", public, "", "logout", s.backchannelLogout},
		{"POST", "/api/auth/setup", public, "", "setup", s.setup},

		{"GET", "/api/account/sessions", viewer, "", "", s.listSessions},
		{"DELETE", "/api/account/sessions", viewer, "", "session.end-all", s.endOtherSessions},
		{"DELETE", "/api/account/sessions/{id}", viewer, "", "session.end", s.endOneSession},
		{"POST", "/api/account/password", viewer, "", "password.change", s.changePassword},
		{"GET", "/api/account/tokens", viewer, "", "", s.listOwnTokens},
		{"POST", "/api/account/tokens", viewer, "", "token.create", s.createToken},
		{"DELETE", "/api/account/tokens/{id}", viewer, "", "token.revoke", s.revokeOwnToken},

		{"GET", "/api/people", admin, "", "", s.listPeople},
		{"POST", "/api/people", admin, "", "person.create", s.createPerson},
		{"GET", "/api/people/{id}", admin, "", "", s.getPerson},
		{"PUT", "/api/people/{id}", admin, "", "person.update", s.updatePerson},
		{"DELETE", "/api/people/{id}", admin, "", "person.delete", s.deletePerson},
		{"POST", "/api/people/{id}/password", admin, "", "password.reset", s.resetPassword},
		{"DELETE", "/api/people/{id}/sessions", admin, "", "session.end-all", s.endPersonsSessions},
		{"GET", "/api/tokens", admin, "", "", s.listAllTokens},
		{"DELETE", "/api/tokens/{id}", admin, "", "token.revoke", s.revokeAnyToken},
		{"GET", "/api/audit", admin, "", "audit.export", s.listEvents},

		{"GET", "/api/device-models", viewer, "list_device_models", "", s.listModels},
		{"POST", "/api/device-models", editor, "create_device_model", "model.create", s.createModel},
		{"GET", "/api/device-models/{id}", viewer, "get_device_model", "", s.getModel},
		{"PUT", "/api/device-models/{id}", editor, "update_device_model", "model.update", s.updateModel},
		{"DELETE", "/api/device-models/{id}", editor, "delete_device_model", "model.delete", s.deleteModel},
		{"POST", "/api/device-models/{id}/validate", editor, "", "", s.validateConfig},

		{"GET", "/api/devices", viewer, "list_devices", "", s.listDevices},
		{"POST", "/api/devices", editor, "create_device", "device.create", s.createDevice},
		{"GET", "/api/devices/{id}", viewer, "get_device", actionConfig, s.getDevice},
		{"PUT", "/api/devices/{id}", editor, "update_device", "device.update", s.updateDevice},
		{"DELETE", "/api/devices/{id}", editor, "delete_device", "device.delete", s.deleteDevice},

		{"GET", "/api/devices/{id}/logs", viewer, "get_device_logs", actionRead, s.deviceHistory},
		{"GET", "/api/logs", viewer, "get_logs", actionRead, s.fleetHistory},

		{"GET", "/api/dead-letters", editor, "list_dead_letters", "", s.listDeadLetters},
		{"DELETE", "/api/dead-letters", editor, "purge_dead_letters", "deadletters.purge", s.purgeDeadLetters},
		{"POST", "/api/dead-letters/retry", editor, "retry_dead_letters", "deadletters.retry", s.retryDeadLetters},

		{"GET", "/api/devices/{id}/keycloak-status", viewer, "get_keycloak_status", "", s.showClient},
		{"POST", "/api/devices/{id}/keycloak-sync", editor, "sync_keycloak_client", "device.sync", s.syncClient},
		{"GET", "/api/devices/{id}/credentials", editor, "get_device_credentials", actionSecret, s.showCredentials},
		{"GET", "/api/devices/{id}/provisioning", editor, "get_device_provisioning", actionSecret, s.showProvisioning},
		{"GET", "/api/devices/{id}/provisioning.bin", editor, "get_device_provisioning", actionSecret, s.downloadProvisioning},
		{"GET", "/api/devices/{id}/provisioning/qr", editor, "get_device_provisioning", actionSecret, s.showProvisioningQR},
		{"GET", "/api/devices/{id}/provisioning-links", editor, "", "", s.listLinks},
		{"POST", "/api/devices/{id}/provisioning-links", editor, "", "link.create", s.createLink},
		{"DELETE", "/api/devices/{id}/provisioning-links/{lid}", editor, "", "link.delete", s.deleteLink},
		{"GET", linkRoute, public, "", "", s.showLink},
		{"POST", linkRoute, public, "", actionSecret, s.useLink},
		{"POST", "/api/devices/import", editor, "import_devices", "devices.import", s.importDevices},
		{"GET", "/api/devices/export", viewer, "export_devices", "devices.export", s.exportDevices},

		{"PUT", "/api/devices/{id}/public-key", editor, "set_device_public_key", "device.key", s.setPublicKey},
		{"POST", "/api/devices/{id}/revoke", editor, "revoke_device", "device.revoke", s.revokeDevice},
		{"POST", "/api/devices/{id}/restore", editor, "restore_device", "device.restore", s.restoreDevice},
		{"POST", "/api/device-clients/reconcile", editor, "reconcile_device_clients", "devices.reconcile", s.reconcileClients},

		{"POST", "/api/devices/{id}/rotate", editor, "trigger_device_rotation", "device.rotate", s.rotateDevice},
		{"GET", "/api/devices/{id}/rotation", viewer, "get_device_rotation", "", s.showDeviceRotation},
		{"POST", "/api/devices/{id}/rotation/abort", editor, "abort_device_rotation", "device.rotation-abort", s.abortRotation},
		{"POST", "/api/devices/{id}/rotation/retry", editor, "retry_device_rotation", "device.rotation-retry", s.retryRotation},
		{"GET", "/api/rotation/status", viewer, "get_rotation_status", "", s.showRotation},
		{"POST", "/api/rotation/trigger", editor, "trigger_fleet_rotation", "fleet.rotate", s.triggerRotation},
		{"GET", "/api/rotation/dashboard", viewer, "get_dashboard", "", s.showRotationDashboard},

		{"GET", "/api/rotation/campaigns", viewer, "list_campaigns", "", s.listCampaigns},
		{"POST", "/api/rotation/campaigns", editor, "create_campaign", "campaign.create", s.createCampaign},
		{"GET", "/api/rotation/campaigns/{id}", viewer, "get_campaign", "", s.showCampaign},
		{"GET", "/api/rotation/campaigns/{id}/devices", viewer, "list_campaign_devices", "", s.listCampaignDevices},
		{"POST", "/api/rotation/campaigns/{id}/pause", editor, "pause_campaign", "campaign.pause", s.pauseCampaign},
		{"POST", "/api/rotation/campaigns/{id}/resume", editor, "resume_campaign", "campaign.resume", s.resumeCampaign},
		{"POST", "/api/rotation/campaigns/{id}/abort", editor, "abort_campaign", "campaign.abort", s.abortCampaign},

		{"GET", "/api/iot/provisioning", device, "iot_get_provisioning", actionSecret, s.deviceProvisioning},
		{"GET", "/api/iot/config", device, "iot_get_config", "", s.deviceConfig},
		{"GET", "/api/iot/firmware-version", device, "iot_get_firmware_version", "", s.deviceFirmwareVersion},
		{"POST", "/api/iot/rotation/nonce", device, "iot_get_rotation_nonce", "", s.rotationNonce},
		{"POST", "/api/iot/rotation/proof", device, "iot_prove_rotation", "rotation.prove", s.proveRotation},

		{"GET", "/.well-known/openid-configuration", public, "", "", s.issuer},
		{"GET", "/oauth/keys", public, "", "", s.issuer},
		{"POST", "/oauth/token", public, "", "", s.issuer},

		{"GET", "/api/sse/stream", viewer, "", "", s.openStream},
		{"POST", "/api/sse/callback", public, "", "", s.callback},
		{"POST", "/api/device-logs/subscribe", viewer, "", "logs.watch", s.subscribe},
		{"POST", "/api/device-logs/unsubscribe", viewer, "", "", s.unsubscribe},
		{"GET", "/api/device-logs/subscriptions", viewer, "", "", s.listSubscriptions},

		{"GET", "/api/fleet", viewer, "", "", s.showFleet},
		{"GET", "/api/fleet/series", viewer, "", "", s.showSeries},
		{"GET", "/api/presence", viewer, "", "", s.listPresence},
		{"GET", "/api/devices/{id}/presence", viewer, "get_device_presence", "", s.showPresence},
		{"GET", "/api/overview", viewer, "", "", s.showOverview},
		{"GET", "/api/broker", viewer, "", "", s.showBroker},

		{"GET", "/health/healthz", probe, "", "", s.healthz},
		{"GET", "/health/readyz", probe, "", "", s.readyz},
		{"GET", "/health/drain", probe, "", "", s.drain},

		{"", "/", public, "", "", s.showPage},
	}
}

// internalRoutes is the whole table of the internal listener, which is for
// the operator's own network.
func (s *Server) internalRoutes() []route {
	return []route{
		{"GET", "/health/healthz", probe, "", "", s.healthz},
		{"GET", "/health/readyz", probe, "", "", s.readyz},
		{"GET", "/health/drain", probe, "", "", s.drain},
		{"GET", "/metrics", probe, "", "", s.showMetrics},
		{"POST", "/internal/rotation-nudge", inside, "", "", s.nudge},
		{"POST", "/internal/rotation-job", inside, "", "", s.runRotationJob},
		{"", "/", probe, "", "", noRoute},
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
		others := []string{pattern}
		// Where another pattern has a name in place of the last part, neither that one
		// with its method nor this one with any is the narrower: so each method by itself.
		if wide := path.Dir(pattern) + "/{id}"; wide != pattern && methods[wide] != nil {
			others = nil
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				if !slices.Contains(methods[pattern], method) {
					others = append(others, method+" "+pattern)
				}
			}
		}
		refuse := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			if r.Method == http.MethodOptions {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			s.fail(w, r, errMethod)
		}
		for _, other := range others {
			mux.HandleFunc(other, refuse)
		}
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
