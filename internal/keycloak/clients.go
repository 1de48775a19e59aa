package keycloak

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

const (
	pageSize   = 250             // clients asked for at once; Keycloak sets no bound
	scopesKept = 5 * time.Minute // for which the realm's client scopes are taken to be as they were
	maxBack    = 100             // times that reading a list goes back, or finds nothing new, before it is given up
)

// client is what is used of Keycloak's ClientRepresentation.
type client struct {
	UUID           string         `json:"id"`
	ClientID       string         `json:"clientId"`
	Name           string         `json:"name"`
	Description    string         `json:"description"`
	Enabled        bool           `json:"enabled"`
	Public         bool           `json:"publicClient"`
	ServiceAccount bool           `json:"serviceAccountsEnabled"`
	StandardFlow   bool           `json:"standardFlowEnabled"`
	ImplicitFlow   bool           `json:"implicitFlowEnabled"`
	DirectAccess   bool           `json:"directAccessGrantsEnabled"`
	DefaultScopes  []string       `json:"defaultClientScopes"`
	OptionalScopes []string       `json:"optionalClientScopes"`
	Attributes     map[string]any `json:"attributes"`
}

// wanted is the body that creates a client or brings it up to date. What it
// leaves out Keycloak leaves alone.
type wanted struct {
	ClientID       string `json:"clientId"`
	Name           string `json:"name"`
	Description    string `json:"description"`
	Enabled        bool   `json:"enabled"`
	Protocol       string `json:"protocol,omitempty"`
	Public         bool   `json:"publicClient"`
	ServiceAccount bool   `json:"serviceAccountsEnabled"`
	StandardFlow   bool   `json:"standardFlowEnabled"`
	ImplicitFlow   bool   `json:"implicitFlowEnabled"`
	DirectAccess   bool   `json:"directAccessGrantsEnabled"`
}

func want(c registry.Client) wanted {
	return wanted{ClientID: c.ID, Name: c.Name, Description: c.Description, Enabled: c.Enabled, ServiceAccount: true}
}

// has reports whether the client is as w says.
func (c client) has(w wanted) bool {
	return c.Name == w.Name && c.Description == w.Description && c.Enabled == w.Enabled && c.Public == w.Public &&
		c.ServiceAccount == w.ServiceAccount && c.StandardFlow == w.StandardFlow && c.ImplicitFlow == w.ImplicitFlow && c.DirectAccess == w.DirectAccess
}

// path is the client's in the Admin API.
func (c client) path() string { return "/clients/" + url.PathEscape(c.UUID) }

// usable reports whether the client can be named in a path.
func (c client) usable() bool { return c.UUID != "" && c.UUID != "." && c.UUID != ".." }

// errGone is that a client went away in the middle of an operation on it.
var errGone = errors.New("the client is not there any more")

// gone turns the answer that there is no such client into errGone.
func gone(err error) error {
	if is(err, http.StatusNotFound) {
		return errGone
	}
	return err
}

// ours fails for a client id that is not of a device: the realm's other clients
// are not Signalbox's to touch.
func ours(clientID string) error {
	if _, _, ok := fleet.ParseClientID(clientID); !ok {
		return fleet.E(fleet.Invalid, nil, "The client id is not of a device")
	}
	return nil
}

// find returns the clients with exactly this id: none or, unless something is
// wrong in Keycloak, one. The answer is searched again for the id because a
// search of Keycloak's finds parts of ids, too.
func (s *Issuer) find(ctx context.Context, clientID string) ([]client, error) {
	if err := ours(clientID); err != nil {
		return nil, err
	}
	var found []client
	err := s.do(ctx, request{method: http.MethodGet, path: "/clients", query: url.Values{"clientId": {clientID}}, into: &found})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(c client) bool { return c.ClientID != clientID || !c.usable() }), nil
}

// one returns the client of this id, or fleet.NotFound.
func (s *Issuer) one(ctx context.Context, clientID string) (client, error) {
	found, err := s.find(ctx, clientID)
	if err == nil && len(found) == 0 {
		err = fleet.ErrNotFound("Client", clientID)
	}
	if err != nil {
		return client{}, err
	}
	return found[0], nil
}

// missing turns errGone into fleet.NotFound.
func missing(clientID string, err error) error {
	if errors.Is(err, errGone) {
		return fleet.ErrNotFound("Client", clientID)
	}
	return err
}

// Ensure implements registry.Issuer. A client that is as it should be is only
// read: to write one has effects of its own where secrets rotate.
func (s *Issuer) Ensure(ctx context.Context, c registry.Client) (created bool, err error) {
	leave, err := s.alone(ctx, c.ID)
	if err != nil {
		return false, err
	}
	defer leave()
	for range 3 { // somebody may delete it meanwhile
		var made bool
		made, err = s.ensure(ctx, c)
		created = created || made
		if !errors.Is(err, errGone) {
			break
		}
	}
	return created, public(update, err)
}

func (s *Issuer) ensure(ctx context.Context, c registry.Client) (created bool, err error) {
	found, err := s.find(ctx, c.ID)
	if err != nil {
		return false, s.counted(status, err)
	}
	if len(found) == 0 {
		if created, err = s.create(ctx, c); err != nil {
			return false, s.counted(create, err)
		}
		if created {
			_ = s.counted(create, nil)
		}
		// Which client scopes it was born with is the realm's decision.
		if found, err = s.find(ctx, c.ID); err != nil {
			return created, s.counted(status, err)
		}
		if len(found) == 0 {
			return created, errGone
		}
	}
	k := found[0]
	if w := want(c); !k.has(w) {
		err := gone(s.do(ctx, request{method: http.MethodPut, path: k.path(), body: w}))
		if errors.Is(err, errGone) {
			return created, err
		}
		if err := s.counted(update, err); err != nil {
			return created, err
		}
	}
	if err := s.addScopes(ctx, k); err != nil {
		if errors.Is(err, errGone) {
			return created, err
		}
		return created, s.counted(addScopes, err)
	}
	secret, err := s.secret(ctx, k)
	switch {
	case errors.Is(err, errGone):
		return created, err
	case err != nil:
		return created, s.counted(getSecret, err)
	case secret != "":
		return created, nil
	}
	_, err = s.regenerate(ctx, k, "")
	if errors.Is(err, errGone) {
		return created, err
	}
	return created, s.counted(regenerate, err)
}

// create makes a client and reports whether it was this call that did. A request
// of which it is not known whether it took effect is followed by a look, and
// only then by another: Keycloak refuses a second client of one id (409).
func (s *Issuer) create(ctx context.Context, c registry.Client) (bool, error) {
	w := want(c)
	w.Protocol = "openid-connect"
	for n := 1; ; n++ {
		err := s.do(ctx, request{method: http.MethodPost, path: "/clients", body: w})
		if err == nil {
			return true, nil
		}
		if is(err, http.StatusConflict) {
			return n > 1, nil // by an earlier request of ours that was slow, or by somebody else
		}
		f, ok := errors.AsType[*failure](err)
		if !ok || !f.unknown || n >= s.opts.Attempts || !s.wait(ctx, n, f.after) {
			if ok && f.unknown && ctx.Err() == nil {
				if found, again := s.find(ctx, c.ID); again == nil && len(found) > 0 {
					return true, nil
				}
			}
			return false, err
		}
		found, err := s.find(ctx, c.ID)
		if err != nil {
			return false, err
		}
		if len(found) > 0 {
			return true, nil
		}
	}
}

// addScopes makes the client scopes of devices default ones of the client. A
// scope that the client has as an optional one is taken from there first, as
// Keycloak would leave it there.
func (s *Issuer) addScopes(ctx context.Context, k client) error {
	lacking := slices.DeleteFunc(slices.Clone(s.scopes), func(name string) bool { return slices.Contains(k.DefaultScopes, name) })
	if len(lacking) == 0 {
		return nil
	}
	ids, err := s.realmScopes(ctx)
	if err != nil {
		return err
	}
	for _, name := range lacking {
		id := ids[name]
		if id == "" {
			continue // told when the list was read
		}
		if slices.Contains(k.OptionalScopes, name) {
			err := s.do(ctx, request{method: http.MethodDelete, path: k.path() + "/optional-client-scopes/" + url.PathEscape(id)})
			if err != nil && !is(err, http.StatusNotFound) {
				return err
			}
		}
		err := s.do(ctx, request{method: http.MethodPut, path: k.path() + "/default-client-scopes/" + url.PathEscape(id)})
		if is(err, http.StatusNotFound) { // the client, or the scope
			s.mu.Lock()
			s.scopeIDs = nil
			s.mu.Unlock()
		}
		if err != nil {
			return gone(err)
		}
	}
	return nil
}

// realmScopes returns the ids of the client scopes of devices by their names.
// One that the realm lacks is a warning, as devices may do without.
func (s *Issuer) realmScopes(ctx context.Context) (map[string]string, error) {
	s.mu.Lock()
	ids, fresh := s.scopeIDs, time.Since(s.scopesAt) < scopesKept
	s.mu.Unlock()
	if ids != nil && fresh {
		return ids, nil
	}
	var all []struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	if err := s.do(ctx, request{method: http.MethodGet, path: "/client-scopes", into: &all}); err != nil {
		return nil, err
	}
	ids = map[string]string{}
	for _, scope := range all {
		if slices.Contains(s.scopes, scope.Name) && scope.ID != "." && scope.ID != ".." {
			ids[scope.Name] = scope.ID
		}
	}
	for _, name := range s.scopes {
		if ids[name] == "" {
			s.opts.Metrics.missing.WithLabelValues(name).Inc()
			s.opts.Log.Warn("the realm lacks a client scope that clients of devices should have", "realm", s.opts.Realm, "scope", name)
		}
	}
	s.mu.Lock()
	s.scopeIDs, s.scopesAt = ids, time.Now()
	s.mu.Unlock()
	return ids, nil
}

// credential is Keycloak's CredentialRepresentation.
type credential struct {
	Value string `json:"value"`
}

// secret reads the client's secret; "" if it has none.
func (s *Issuer) secret(ctx context.Context, k client) (string, error) {
	var c credential
	err := s.do(ctx, request{method: http.MethodGet, path: k.path() + "/client-secret", into: &c})
	return c.Value, gone(err)
}

// Secret implements registry.Issuer.
func (s *Issuer) Secret(ctx context.Context, clientID string) (string, error) {
	k, err := s.one(ctx, clientID)
	if err != nil {
		return "", s.counted(getSecret, err)
	}
	secret, err := s.secret(ctx, k)
	if err == nil && secret == "" {
		err = errors.New("the client has no secret")
	}
	return secret, s.counted(getSecret, missing(clientID, err))
}

// Delete implements registry.Issuer.
func (s *Issuer) Delete(ctx context.Context, clientID string) error {
	return s.counted(remove, s.remove(ctx, clientID))
}

// remove deletes until the client is not found any more, or every request for it
// was answered with success. That one is not there may be the answer to a second
// attempt whose first took effect; it may also be wrong, so it is looked at.
func (s *Issuer) remove(ctx context.Context, clientID string) error {
	for range 3 {
		found, err := s.find(ctx, clientID)
		if err != nil {
			return err
		}
		sure := true
		for _, k := range found {
			err := s.do(ctx, request{method: http.MethodDelete, path: k.path()})
			switch {
			case is(err, http.StatusNotFound):
				sure = false
			case err != nil:
				return err
			}
		}
		if sure {
			return nil
		}
	}
	return errors.New("the client is found and cannot be deleted")
}

// Status implements registry.Issuer.
func (s *Issuer) Status(ctx context.Context, clientID string) (registry.ClientStatus, error) {
	found, err := s.find(ctx, clientID)
	if err != nil || len(found) == 0 {
		return registry.ClientStatus{}, s.counted(status, err)
	}
	k := found[0]
	return registry.ClientStatus{Exists: true, Enabled: k.Enabled, UUID: k.UUID, ConsoleURL: s.consoleURL(k.UUID)}, nil
}

// Clients implements registry.Issuer. Each page begins with clients that the one
// before ended with. If a client stands there that is not known yet, others were
// deleted meanwhile and those behind have moved up: reading goes on from further
// before, so that none is missed. A client comes once, however often it is read.
// (The API has no shorter representation of clients; its briefRepresentation is
// for users and groups.)
func (s *Issuer) Clients(ctx context.Context) iter.Seq2[registry.Client, error] {
	return func(yield func(registry.Client, error) bool) {
		seen := map[string]bool{} // by client id: a device has one
		overlap, back, idle, moved := 1, 0, 0, false
		for first := 0; ; {
			page, err := s.page(ctx, first, pageSize)
			if err == nil && max(back, idle) > maxBack {
				err = errors.New("the list changes too fast to be read")
			}
			if err != nil {
				yield(registry.Client{}, s.counted(list, err))
				return
			}
			if first > 0 && (len(page) == 0 || !seen[page[0].ClientID]) {
				back++
				overlap = min(8*overlap, pageSize/2) // it may go on moving
				if moved {
					first -= pageSize
				}
				first = max(0, first-overlap)
				moved = true
				continue
			}
			fresh, here := 0, map[string]bool{}
			for _, k := range page {
				here[k.ClientID] = true
				if seen[k.ClientID] {
					continue
				}
				seen[k.ClientID] = true
				fresh++
				if ours(k.ClientID) != nil || !k.usable() {
					continue // its id only contains what is searched for
				}
				if !yield(registry.Client{ID: k.ClientID, Name: k.Name, Description: k.Description, Enabled: k.Enabled}, nil) {
					return
				}
			}
			// A page may be short in the middle of the list, as Keycloak leaves out
			// what it cannot read. The last is a short one with nothing new, unless
			// it was gone back to.
			if fresh == 0 {
				if len(here) < pageSize && !moved {
					return
				}
				idle++
			}
			moved = false
			first += max(0, min(len(here), pageSize)-overlap)
		}
	}
}

// page reads a part of the list of all clients whose id contains what ids of
// devices begin with. That a part after the first is not there is no end of the
// list, as each holds a client that was there: it is asked for again.
func (s *Issuer) page(ctx context.Context, first, most int) (page []client, err error) {
	for n := 1; ; n++ {
		err = s.do(ctx, request{method: http.MethodGet, path: "/clients", query: url.Values{
			"clientId": {"iotdevice-"}, "search": {"true"}, "first": {strconv.Itoa(first)}, "max": {strconv.Itoa(most)},
		}, into: &page})
		if first == 0 || !is(err, http.StatusNotFound) || n >= s.opts.Attempts || !s.wait(ctx, n, 0) {
			return page, err
		}
	}
}
