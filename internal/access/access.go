// Package access says who is asking and what they may do.
package access

import (
	"context"
	"slices"
)

// The roles that Signalbox knows.
const (
	RoleAdmin  = "admin"  // may do everything
	RoleEditor = "editor" // may change things
)

// Principal is somebody who proved who they are.
type Principal struct {
	Subject string   // unique and stable; never empty
	Email   string   // "" if unknown
	Name    string   // "" if unknown
	Roles   []string // sorted
}

// Has reports whether the principal may act in role. An admin may act in any.
func (p Principal) Has(role string) bool {
	return slices.Contains(p.Roles, role) || slices.Contains(p.Roles, RoleAdmin)
}

// Local returns the principal of every request when authentication is off.
func Local() Principal {
	return Principal{Subject: "local-user", Email: "admin@local", Name: "Local Admin", Roles: []string{RoleAdmin}}
}

type contextKey struct{}

// NewContext returns a context that carries p.
func NewContext(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext returns the principal that ctx carries; ok is false if there is
// none, as on a public route.
func FromContext(ctx context.Context) (p Principal, ok bool) {
	p, ok = ctx.Value(contextKey{}).(Principal)
	return p, ok
}
