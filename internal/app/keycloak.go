package app

import (
	"signalbox/internal/keycloak"
)

// openKeycloak returns the realm of KEYCLOAK_BASE_URL, which holds the clients of
// devices. It does not connect: Keycloak may be down now and for as long as it
// likes.
func (a *app) openKeycloak() (*keycloak.Issuer, error) {
	cfg := a.cfg
	issuer, err := keycloak.New(keycloak.Options{
		BaseURL: cfg.KeycloakBaseURL, Realm: cfg.KeycloakRealm, TokenURL: cfg.OIDCTokenURL,
		ClientID: cfg.KeycloakAdminClientID, ClientSecret: cfg.KeycloakAdminClientSecret.Reveal(), DeviceScope: cfg.KeycloakDeviceScopeName,
		Metrics: keycloak.NewMetrics(a.metrics), Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	a.onClose(issuer.Close)
	return issuer, nil
}
