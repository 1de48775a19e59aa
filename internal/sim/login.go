package sim

import (
	"context"
	"net/http"
	"strconv"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"signalbox/internal/fleet"
)

// credentials is the part of what a device is provisioned with that it needs to
// log in.
type credentials struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	TokenURL     string `json:"token_url"`
}

// credentials asks the server for those of the board.
func (a *api) credentials(ctx context.Context, b board) (*credentials, error) {
	var c credentials
	if err := a.do(ctx, http.MethodGet, "/api/devices/"+strconv.FormatInt(b.id, 10)+"/credentials", nil, &c); err != nil {
		return nil, err
	}
	if c.ClientID != b.clientID || c.ClientSecret == "" {
		return nil, fleet.E(fleet.External, nil, "the server gave no credentials of %s", b.clientID)
	}
	return &c, nil
}

// password returns what the board gives as its password for the next
// connection; "" is nothing.
func (l *link) password(ctx context.Context) (string, error) {
	if l.cfg.Login == LoginNone {
		return l.cfg.Password, nil
	}
	if l.secrets == nil {
		var err error
		if l.secrets, err = l.api.credentials(ctx, l.board); err != nil {
			return "", err
		}
	}
	if l.cfg.Login == LoginSecret {
		return l.secrets.ClientSecret, nil
	}
	if l.secrets.TokenURL == "" {
		return "", fleet.E(fleet.External, nil, "the server does not say where %s gets a token", l.clientID)
	}
	config := clientcredentials.Config{
		ClientID: l.secrets.ClientID, ClientSecret: l.secrets.ClientSecret, TokenURL: l.secrets.TokenURL, AuthStyle: oauth2.AuthStyleInHeader,
	}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, l.api.http))
	if err != nil {
		l.secrets = nil // they may have been replaced
		return "", fleet.E(fleet.External, err, "%s got no token", l.clientID)
	}
	return token.AccessToken, nil
}
