package access_test

import (
	"context"
	"testing"

	"signalbox/internal/access"
)

func TestHas(t *testing.T) {
	f := func(roles []string, role string, want bool) {
		t.Helper()
		if got := (access.Principal{Roles: roles}).Has(role); got != want {
			t.Errorf("%v has %s = %v", roles, role, got)
		}
	}
	f(nil, access.RoleEditor, false)
	f([]string{"pipeline"}, access.RoleEditor, false)
	f([]string{"editor"}, access.RoleEditor, true)
	f([]string{"editor"}, access.RoleAdmin, false)
	f(access.Local().Roles, access.RoleEditor, true)
}

func TestContext(t *testing.T) {
	if _, ok := access.FromContext(context.Background()); ok {
		t.Error("an empty context carries a principal")
	}
	p, ok := access.FromContext(access.NewContext(context.Background(), access.Local()))
	if !ok || p.Subject != "local-user" {
		t.Errorf("got %+v, %v", p, ok)
	}
}
