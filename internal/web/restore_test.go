package web_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"signalbox/internal/web"
)

func (p *plant) credentials(id string) (c map[string]any) {
	p.t.Helper()
	w := p.do("GET", "/api/devices/"+id+"/credentials", "")
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != http.StatusOK {
		p.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return c
}

func TestRestoreWithANewSecret(t *testing.T) {
	p := newPlant(t, nil)
	old := p.create(`{}`)
	token, _ := p.token(old)
	if w := p.do("POST", "/api/devices/1/revoke", ""); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	p.want("POST", "/api/devices/1/rotate", "", 400, `{"error":"The device is revoked","details":{"message":"Validation failed"},"code":"VALIDATION_FAILED","correlationId":"id-1"}`)

	// Nothing is done for what cannot be read.
	for _, bad := range []struct{ body, contentType string }{{`{"new_secret":"perhaps"}`, "application/json"}, {`[]`, "application/json"}, {`{"new_secret":true}`, "text/plain"}} {
		if w := p.do("POST", "/api/devices/1/restore", bad.body, "Content-Type", bad.contentType); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad.body, w.Code, w.Body)
		}
	}
	if _, status := p.token(old); status != http.StatusUnauthorized {
		t.Fatalf("it was restored: %d", status)
	}

	if w := p.do("POST", "/api/devices/1/restore", `{"new_secret":true}`); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"revoked":false`) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if _, status := p.token(old); status != http.StatusUnauthorized {
		t.Errorf("its old secret is good: %d", status)
	}
	if w := p.do("GET", "/api/iot/provisioning", "", "Authorization", "Bearer "+token); w.Code != http.StatusUnauthorized {
		t.Errorf("an old token gets %d %s", w.Code, w.Body)
	}
	fresh := p.credentials("1")
	if _, status := p.token(fresh); status != http.StatusOK || fresh["client_secret"] == old["client_secret"] {
		t.Errorf("the new secret is not good: %d", status)
	}
	// Restored as it was, it has what it had.
	for _, body := range []string{"", `{}`, `{"new_secret":false}`} {
		p.do("POST", "/api/devices/1/revoke", "")
		if w := p.do("POST", "/api/devices/1/restore", body); w.Code != http.StatusOK {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if _, status := p.token(fresh); status != http.StatusOK {
			t.Errorf("its secret is not good any more: %d", status)
		}
	}
	if w := p.do("POST", "/api/devices/9/restore", `{"new_secret":true}`); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	plain := newPlant(t, func(o *web.Options) { o.Rotation = nil })
	plain.create(`{}`)
	if w := plain.do("POST", "/api/devices/1/restore", `{"new_secret":true}`); w.Code != http.StatusBadRequest {
		t.Errorf("without rotation: %d %s", w.Code, w.Body)
	}
}
