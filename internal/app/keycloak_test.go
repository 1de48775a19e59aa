package app

import (
	"io/fs"
	"log/slog"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/config"
	"signalbox/internal/keycloaktest"
	"signalbox/internal/registry"
)

// The settings are all that it takes.
func TestOpenKeycloak(t *testing.T) {
	var s keycloaktest.Server
	s.Start(t)
	environ := []string{"KEYCLOAK_BASE_URL=" + s.URL() + "/", "KEYCLOAK_REALM=" + keycloaktest.Realm, "OIDC_TOKEN_URL=" + s.TokenURL(),
		"KEYCLOAK_ADMIN_CLIENT_ID=" + keycloaktest.AdminID, "KEYCLOAK_ADMIN_CLIENT_SECRET=" + keycloaktest.AdminSecret}
	cfg, err := config.Load(config.Sources{Environ: environ, ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist }})
	if err != nil || !cfg.Keycloak() {
		t.Fatal(err)
	}
	a := &app{cfg: cfg.Config, log: slog.New(slog.DiscardHandler), metrics: prometheus.NewRegistry()}
	defer a.closeAll()
	issuer, err := a.openKeycloak()
	if err != nil {
		t.Fatal(err)
	}
	const id = "iotdevice-relay-aaaa1111"
	if created, err := issuer.Ensure(t.Context(), registry.Client{ID: id, Enabled: true}); err != nil || !created {
		t.Fatal(created, err)
	}
	if made := s.Clients(id); len(made) != 1 || !slices.Contains(made[0].Default, keycloaktest.DeviceScope) {
		t.Errorf("%+v", made)
	}
}
