package config

import "net/url"

// Keycloak reports whether the clients of devices are in Keycloak.
func (c *Config) Keycloak() bool { return c.KeycloakBaseURL != "" }

// keycloak wants all of what Keycloak needs, or nothing but the token endpoint,
// which may be another provider's.
func (c *checker) keycloak() {
	c.webURL("OIDC_TOKEN_URL", &c.OIDCTokenURL)
	c.webURL("KEYCLOAK_BASE_URL", &c.KeycloakBaseURL)
	needed := []struct{ name, value, want string }{
		{"KEYCLOAK_BASE_URL", c.KeycloakBaseURL, "a URL"}, {"KEYCLOAK_REALM", c.KeycloakRealm, "the name of a realm"},
		{"KEYCLOAK_ADMIN_CLIENT_ID", c.KeycloakAdminClientID, "a client id"}, {"KEYCLOAK_ADMIN_CLIENT_SECRET", c.KeycloakAdminClientSecret.Reveal(), "a secret"},
	}
	given := ""
	for _, n := range needed {
		if n.value != "" {
			given = n.name
			break
		}
	}
	if given == "" {
		return
	}
	needed = append(needed, struct{ name, value, want string }{"OIDC_TOKEN_URL", c.OIDCTokenURL, "the URL of the realm's token endpoint"})
	for _, n := range needed {
		if n.value == "" {
			c.wrong(n.name, n.want+", as "+given+" is given")
		}
	}
}

// DeviceIssuer returns the issuer of the tokens of devices in Keycloak.
func (c *Config) DeviceIssuer() string {
	if c.OIDCIssuerURL != "" {
		return c.OIDCIssuerURL
	}
	return c.KeycloakBaseURL + "/realms/" + url.PathEscape(c.KeycloakRealm)
}
