// Package access says who is asking and what they may do: principals, their
// roles and limits, the people and API tokens that Signalbox keeps itself, their
// sessions, and the record of who did what.
package access

import (
	"context"
	"slices"
	"strings"
	"time"

	"signalbox/internal/fleet"
)

// The roles that Signalbox knows. An admin may what an editor may, and an
// editor what a viewer may; pipeline stands beside them.
const (
	RoleViewer   = "viewer"   // sees devices and their logs
	RoleEditor   = "editor"   // changes devices and models, and sees secrets
	RoleAdmin    = "admin"    // decides about people, tokens and the audit
	RolePipeline = "pipeline" // delivers firmware
)

// Roles are all of them, the mightiest last.
func Roles() []string { return []string{RolePipeline, RoleViewer, RoleEditor, RoleAdmin} }

// Kind says what a principal is.
type Kind string

// The kinds of principals.
const (
	Nobody Kind = "local"  // everybody, when authentication is off
	Person Kind = "person" // somebody who logged in
	Token  Kind = "token"  // a script with an API token of Signalbox, or with the token of a client of the provider
	Device Kind = "device" // a device with its own token
	Link   Kind = "link"   // whoever has a link to the credentials of a device; only in the audit
)

// Principal is somebody who proved who they are.
type Principal struct {
	Kind    Kind
	Subject string   // unique and stable; never empty
	Email   string   // "" if unknown
	Name    string   // "" if unknown
	Roles   []string // sorted, of those that Signalbox knows
	Limit   Limit    // which devices all of that is about

	// Session names what ends with a logout or a revocation: a session of
	// Signalbox's own, an API token, or the provider's sid. "" if there is no
	// such thing.
	Session string
	Issued  time.Time // when the proof was given out; zero if unknown
	Expires time.Time // when it ends; zero: it does not by itself
}

// Has reports whether the principal may act in role.
func (p Principal) Has(role string) bool {
	if slices.Contains(p.Roles, role) {
		return true
	}
	switch role {
	case RoleViewer:
		return p.Has(RoleEditor)
	case RoleEditor, RolePipeline:
		return p.Has(RoleAdmin)
	}
	return false
}

// May reports whether the principal's roles are about this device at all.
func (p Principal) May(d fleet.DeviceRef) bool { return p.Limit.Allows(d.ModelCode, d.Tags) }

// Limit is the part of the fleet that a principal has to do with. The zero
// Limit is no limit.
type Limit struct {
	Models []string // codes of device models, sorted
	Tags   []string // tags of devices, sorted
	Also   *Limit   // a second limit that has to allow it, too: the one of an API token's owner. nil: none
}

// None reports whether there is no limit.
func (l Limit) None() bool {
	return len(l.Models) == 0 && len(l.Tags) == 0 && (l.Also == nil || l.Also.None())
}

// Allows reports whether a device of the model with these tags is within the
// limit: by its model or by one of its tags.
func (l Limit) Allows(model string, tags fleet.Tags) bool {
	if l.Also != nil && !l.Also.Allows(model, tags) {
		return false
	}
	if len(l.Models) == 0 && len(l.Tags) == 0 || slices.Contains(l.Models, model) {
		return true
	}
	for tag := range tags.All() {
		if slices.Contains(l.Tags, tag) {
			return true
		}
	}
	return false
}

// AllowsModel reports whether everything of the model is within the limit.
func (l Limit) AllowsModel(code string) bool {
	return (l.Also == nil || l.Also.AllowsModel(code)) && (len(l.Models) == 0 && len(l.Tags) == 0 || slices.Contains(l.Models, code))
}

// FromRoles sorts out the roles that an identity provider knows of somebody:
// those of Signalbox, and "model:<code>" and "tag:<tag>", which are limits.
// Others mean nothing here.
func FromRoles(names []string) (roles []string, limit Limit) {
	for _, name := range names {
		if model, ok := strings.CutPrefix(name, "model:"); ok {
			limit.Models = append(limit.Models, model)
		} else if tag, ok := strings.CutPrefix(name, "tag:"); ok {
			limit.Tags = append(limit.Tags, tag)
		} else if slices.Contains(Roles(), name) {
			roles = append(roles, name)
		}
	}
	for _, list := range []*[]string{&roles, &limit.Models, &limit.Tags} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return roles, limit
}

// Local returns the principal of every request when authentication is off.
func Local() Principal {
	return Principal{Kind: Nobody, Subject: "local-user", Email: "admin@local", Name: "Local Admin", Roles: []string{RoleAdmin}}
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
