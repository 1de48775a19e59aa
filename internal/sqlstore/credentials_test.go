package sqlstore_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"signalbox/internal/conformance"
	"signalbox/internal/local"
	"signalbox/internal/registry"
	"signalbox/internal/secret"
)

func TestCredentialsSQLite(t *testing.T) {
	conformance.ClientStore(t, func(t *testing.T) registry.ClientStore { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}

// testCredentials checks a database as a store of credentials, and the issuer
// that keeps them there.
func testCredentials(t *testing.T, dsn func() string) {
	conformance.ClientStore(t, func(t *testing.T) registry.ClientStore { return open(t, dsn()) })
	t.Run("issuer", func(t *testing.T) {
		conformance.Issuer(t, func(t *testing.T) conformance.IssuerCase {
			box, err := secret.NewBox("a key for tests only", "device credentials")
			if err != nil {
				t.Fatal(err)
			}
			issuer, err := local.New(t.Context(), local.Options{Store: open(t, dsn()), Box: box, URL: "http://localhost", Audience: "x"})
			if err != nil {
				t.Fatal(err)
			}
			return conformance.IssuerCase{Issuer: issuer, Token: func(_ context.Context, id, text string) error {
				form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {text}}
				r := httptest.NewRequest(http.MethodPost, local.TokenPath, strings.NewReader(form.Encode()))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				w := httptest.NewRecorder()
				issuer.Handler().ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					return errors.New(w.Body.String())
				}
				return nil
			}}
		})
	})
}
