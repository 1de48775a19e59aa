package web_test

import (
	"context"
	"strings"
	"testing"

	"signalbox/internal/web"
)

// Who waits for the server to be ready finds a broker that lets devices in.
func TestReadyWithBroker(t *testing.T) {
	admits := false
	s := newSite(t, func(o *web.Options) {
		o.Health = web.Health{
			Database: func(context.Context) (int, error) { return 0, nil }, Journal: func(context.Context) error { return nil },
			Admits: func() bool { return admits },
		}
	})
	f := func(status int, want ...string) {
		t.Helper()
		res := s.do("GET", "/health/readyz", "")
		for _, w := range want {
			if res.Code != status || !strings.Contains(res.Body.String(), w) {
				t.Errorf("%d %s, want %d and %s", res.Code, res.Body, status, w)
			}
		}
	}
	f(503, `"broker":{"ok":false}`, `"ready":false`, `"status":"not ready"`)
	admits = true
	f(200, `"broker":{"ok":true}`, `"ready":true`, `"status":"ready"`)
}
