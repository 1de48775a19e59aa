package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// credentials is what a device is provisioned with.
type credentials struct {
	DeviceKey    string `json:"device_key"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	TokenURL     string `json:"token_url"`
	BaseURL      string `json:"base_url"`
	MQTTURL      string `json:"mqtt_url"`
}

func (s *server) credentials(id int64) (c credentials) {
	s.t.Helper()
	s.want(200, "GET", fmt.Sprintf("/api/devices/%d/credentials", id), nil).into(s.t, &c)
	return c
}

// token gets an access token where the device was told to get it.
func (s *server) token(c credentials) (string, error) { return s.tokenWith(s.t.Context(), c) }

func (s *server) tokenWith(ctx context.Context, c credentials) (string, error) {
	conf := clientcredentials.Config{ClientID: c.ClientID, ClientSecret: c.ClientSecret, TokenURL: c.TokenURL, AuthStyle: oauth2.AuthStyleInHeader}
	t, err := conf.Token(context.WithValue(ctx, oauth2.HTTPClient, s.http))
	if err != nil {
		return "", err
	}
	return t.AccessToken, nil
}

// config reads the device's config as the device does.
func (s *server) config(token string) reply {
	s.t.Helper()
	q, err := http.NewRequestWithContext(s.t.Context(), "GET", s.url("/api/iot/config"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+token)
	r, err := s.do(q)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// A device gets a token with what it was provisioned with, reads its config, and
// is nobody once it is revoked or deleted, across restarts and kills.
func TestDeviceCredentials(t *testing.T) {
	s := start(t)
	d, other := s.device("kitchen"), s.device("cellar")
	c := s.credentials(d.ID)
	if c.TokenURL != s.url("/oauth/token") || c.BaseURL != s.url("") || c.MQTTURL != "mqtt://"+s.mqtt {
		t.Errorf("%+v", c)
	}
	token, err := s.token(c)
	if err != nil {
		t.Fatal(err)
	}
	want := func(token string, status int) {
		t.Helper()
		if got := s.config(token); got.status != status {
			t.Errorf("config: %d %s, want %d", got.status, got.body, status)
		}
	}
	want(token, 200)
	if got := s.config(token); !strings.Contains(string(got.body), "kitchen") {
		t.Errorf("config %s", got.body)
	}

	// Whoever reads the published keys can verify the token.
	ctx := oidc.ClientContext(t.Context(), s.http)
	provider, err := oidc.NewProvider(ctx, s.url(""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Verifier(&oidc.Config{ClientID: "signalbox"}).Verify(ctx, token); err != nil {
		t.Error(err)
	}

	s.kill() // the keys and the secrets are those of before
	s.launch()
	want(token, 200)
	if got := s.credentials(d.ID); got != c {
		t.Errorf("%+v became %+v", c, got)
	}

	s.want(200, "POST", fmt.Sprintf("/api/devices/%d/revoke", d.ID), nil)
	want(token, 401)
	if _, err := s.token(c); err == nil {
		t.Error("a revoked device got a token")
	}
	s.kill()
	s.launch()
	want(token, 401)
	s.want(200, "POST", fmt.Sprintf("/api/devices/%d/restore", d.ID), nil)
	if token, err = s.token(c); err != nil {
		t.Fatal(err)
	}
	want(token, 200)

	s.want(204, "DELETE", fmt.Sprintf("/api/devices/%d", d.ID), nil)
	s.kill() // perhaps before the client was deleted
	s.launch()
	want(token, 401)
	eventually(t, "the client is deleted as well", func() bool { _, err := s.token(c); return err != nil })
	last := s.credentials(other.ID)
	if _, err := s.token(last); err != nil {
		t.Error(err)
	}

	s.terminate()
	s.awaitExit(patience)
	if found := s.filesWith(last.ClientSecret); len(found) > 0 {
		t.Errorf("the secret of a device can be read in %v", found)
	}
}
