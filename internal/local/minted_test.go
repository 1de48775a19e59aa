package local_test

import (
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"signalbox/internal/local"
)

// Who got a token is told, and what its clock shows if it signed that.
func TestMinted(t *testing.T) {
	type minted struct {
		id   string
		said int64
	}
	var got []minted
	b := open(t, func(o *local.Options) {
		o.Minted = func(id string, said time.Time) {
			m := minted{id: id}
			if !said.IsZero() {
				m.said = said.Unix()
			}
			got = append(got, m)
		}
	})
	secret := b.ensure(device)
	b.mustToken(device.ID, secret)
	if _, err := b.token(device.ID, "wrong", oauth2.AuthStyleInParams); err == nil {
		t.Error("a wrong secret was taken")
	}
	b.ahead(11 * time.Second) // that is forgiven
	mine := newEC(t)
	b.setKey(mine.Public())
	iat := time.Now().Unix() - 100
	assertion := sign(t, mine, jose.ES256, map[string]any{
		"iss": device.ID, "sub": device.ID, "aud": b.url + local.TokenPath, "iat": iat, "exp": time.Now().Unix() + 300, "jti": "1",
	})
	for range 2 { // the second time it is refused
		b.post(assertionForm(assertion))
	}
	if want := []minted{{device.ID, 0}, {device.ID, iat}}; len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v, want %+v", got, want)
	}
}
