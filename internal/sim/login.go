package sim

import (
	"context"
	"net/http"
	"strconv"

	"signalbox/internal/fleet"
)

// credentials is the part of what a device is provisioned with that it needs to
// log in.
type credentials struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	TokenURL     string `json:"token_url"`
	BaseURL      string `json:"base_url"`
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
	switch l.cfg.Login {
	case LoginSecret:
		return l.keeper.secret(), nil
	case LoginToken:
		return l.keeper.mint(ctx)
	default:
		return l.cfg.Password, nil
	}
}
