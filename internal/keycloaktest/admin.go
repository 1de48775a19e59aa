package keycloaktest

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// representation is what is shown of a client and, as far as it is given, taken.
type representation struct {
	ID             string            `json:"id,omitempty"`
	ClientID       *string           `json:"clientId,omitempty"`
	Name           *string           `json:"name,omitempty"`
	Description    *string           `json:"description,omitempty"`
	Enabled        *bool             `json:"enabled,omitempty"`
	Protocol       *string           `json:"protocol,omitempty"`
	Public         *bool             `json:"publicClient,omitempty"`
	ServiceAccount *bool             `json:"serviceAccountsEnabled,omitempty"`
	StandardFlow   *bool             `json:"standardFlowEnabled,omitempty"`
	ImplicitFlow   *bool             `json:"implicitFlowEnabled,omitempty"`
	DirectFlow     *bool             `json:"directAccessGrantsEnabled,omitempty"`
	Secret         *string           `json:"secret,omitempty"`
	Default        []string          `json:"defaultClientScopes,omitempty"`
	Optional       []string          `json:"optionalClientScopes,omitempty"`
	Attributes     map[string]string `json:"attributes,omitempty"`
}

func (c *Client) represented() representation {
	r := representation{ID: c.UUID, ClientID: &c.ClientID, Enabled: &c.Enabled, Protocol: &c.Protocol, Public: &c.Public, ServiceAccount: &c.ServiceAccount,
		StandardFlow: &c.StandardFlow, ImplicitFlow: &c.ImplicitFlow, DirectFlow: &c.DirectFlow, Secret: &c.Secret, Default: c.Default, Optional: c.Optional}
	if c.Name != "" {
		r.Name = &c.Name
	}
	if c.Description != "" {
		r.Description = &c.Description
	}
	if c.Rotates {
		r.Attributes = map[string]string{"client.secret.creation.time": "1", "client.secret.expiration.time": "4102444800"}
	}
	return r
}

func (c *Client) take(r representation) {
	for _, f := range []struct{ from, to *string }{{r.ClientID, &c.ClientID}, {r.Name, &c.Name}, {r.Description, &c.Description}, {r.Protocol, &c.Protocol}, {r.Secret, &c.Secret}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	for _, f := range []struct{ from, to *bool }{{r.Enabled, &c.Enabled}, {r.Public, &c.Public}, {r.ServiceAccount, &c.ServiceAccount},
		{r.StandardFlow, &c.StandardFlow}, {r.ImplicitFlow, &c.ImplicitFlow}, {r.DirectFlow, &c.DirectFlow}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, _ []byte) {
	q := r.URL.Query()
	search, wanted := q.Get("search") == "true", q.Get("clientId")
	if search && s.OnList != nil {
		s.pages++
		n := s.pages
		s.mu.Unlock()
		s.OnList(n)
		s.mu.Lock()
	}
	found := []representation{}
	for _, c := range s.sorted() {
		if c.ClientID == wanted || (search || s.Fuzzy) && strings.Contains(strings.ToLower(c.ClientID), strings.ToLower(wanted)) {
			found = append(found, c.represented())
		}
	}
	if search {
		first, _ := strconv.Atoi(cmp.Or(q.Get("first"), "0"))
		most, err := strconv.Atoi(q.Get("max"))
		if err != nil {
			most = len(found)
		}
		first = min(max(first, 0), len(found))
		found = found[first:min(first+most, len(found))]
		if s.Repeats {
			found = slices.Concat(found, found)
		}
	}
	answer(w, found)
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, body []byte) {
	var rep representation
	if json.Unmarshal(body, &rep) != nil || rep.ClientID == nil || *rep.ClientID == "" {
		fail(w, http.StatusBadRequest, "unknown_error")
		return
	}
	for _, c := range s.clients {
		if c.ClientID == *rep.ClientID {
			fail(w, http.StatusConflict, "Client "+c.ClientID+" already exists")
			return
		}
	}
	// What Keycloak makes of a client that says nothing else.
	c := &Client{UUID: uuid.NewString(), Enabled: true, StandardFlow: true, Secret: rand.Text(), Secrets: 1, Rotates: s.Rotation}
	for _, name := range []string{"profile", "email", "roles", "web-origins"} {
		if s.scopes[name] != "" && !slices.Contains(s.Born, name) {
			c.Default = append(c.Default, name)
		}
	}
	for _, name := range s.Born {
		if s.scopes[name] != "" {
			c.Optional = append(c.Optional, name)
		}
	}
	c.take(rep)
	s.clients[c.UUID] = c
	w.Header().Set("Location", s.url+"/admin/realms/"+strings.ReplaceAll(Realm, " ", "%20")+"/clients/"+c.UUID)
	w.WriteHeader(http.StatusCreated)
}

func (s *Server) update(w http.ResponseWriter, c *Client, _ string, body []byte) {
	var rep representation
	if json.Unmarshal(body, &rep) != nil {
		fail(w, http.StatusBadRequest, "unknown_error")
		return
	}
	if rep.Secret != nil && *rep.Secret != c.Secret {
		c.Secrets++
	}
	c.take(rep)
	if c.Rotates = s.Rotation; !c.Rotates {
		c.Old = "" // an update under no policy forgets what was rotated
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) remove(w http.ResponseWriter, c *Client, _ string, _ []byte) {
	delete(s.clients, c.UUID)
	w.WriteHeader(http.StatusNoContent)
}

func credential(w http.ResponseWriter, value string) {
	answer(w, map[string]string{"type": "secret", "value": value})
}

func (s *Server) secret(w http.ResponseWriter, c *Client, _ string, _ []byte) {
	credential(w, c.Secret)
}

func (s *Server) newSecret(w http.ResponseWriter, c *Client, _ string, _ []byte) {
	if c.Rotates = s.Rotation; c.Rotates {
		c.Old = c.Secret
	} else {
		c.Old = ""
	}
	c.Secret = rand.Text()
	c.Secrets++
	credential(w, c.Secret)
}

func (s *Server) rotated(w http.ResponseWriter, c *Client, _ string, _ []byte) {
	if c.Old == "" {
		fail(w, http.StatusNotFound, "Client does not have a rotated secret")
		return
	}
	credential(w, c.Old)
}

func (s *Server) dropRotated(w http.ResponseWriter, c *Client, _ string, _ []byte) {
	c.Old = ""
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) realmScopes(w http.ResponseWriter, _ *http.Request, _ []byte) {
	all := []map[string]string{}
	for name, id := range s.scopes {
		all = append(all, map[string]string{"id": id, "name": name, "protocol": "openid-connect"})
	}
	answer(w, all)
}

func (s *Server) scopeNamed(id string) string {
	for name, known := range s.scopes {
		if known == id {
			return name
		}
	}
	return ""
}

func (s *Server) addScope(w http.ResponseWriter, c *Client, last string, _ []byte) {
	name := s.scopeNamed(last)
	if name == "" {
		fail(w, http.StatusNotFound, "Client scope not found")
		return
	}
	// One that the client has already stays what it is, also an optional one.
	if !slices.Contains(c.Default, name) && !slices.Contains(c.Optional, name) {
		c.Default = append(c.Default, name)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) removeScope(w http.ResponseWriter, c *Client, last string, _ []byte) {
	name := s.scopeNamed(last)
	if name == "" {
		fail(w, http.StatusNotFound, "Client scope not found")
		return
	}
	// Whatever kind the client has it as.
	c.Default = slices.DeleteFunc(c.Default, func(n string) bool { return n == name })
	c.Optional = slices.DeleteFunc(c.Optional, func(n string) bool { return n == name })
	w.WriteHeader(http.StatusNoContent)
}

// Rescope gives a client scope of the realm another id, as one that was deleted
// and made again has.
func (s *Server) Rescope(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	s.scopes[name] = uuid.NewString()
}

// life is that of a token.
func (s *Server) life() time.Duration { return cmp.Or(s.TokenLife, 5*time.Minute) }
