// Package keycloaktest is a stand-in for a realm of Keycloak: as much of its
// Admin REST API as Signalbox uses, and the endpoints at which clients get
// tokens that can be verified. It is written from Keycloak's documentation and
// source, keeps everything in memory, and goes wrong when a test wants it to.
package keycloaktest

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// The client that may use the Admin API, and the realm.
const (
	Realm       = "iot realm" // which has to be escaped in a path
	AdminID     = "signalbox-admin"
	AdminSecret = "sesame & co"
	DeviceScope = "iot-device-audience"
)

// Client is one of the realm.
type Client struct {
	UUID, ClientID, Name, Description                                       string
	Enabled, Public, ServiceAccount, StandardFlow, ImplicitFlow, DirectFlow bool
	Secret, Old                                                             string   // Old is good as well; "" for none
	Rotates                                                                 bool     // a policy with secret-rotation has met it
	Secrets                                                                 int      // times that it got one
	Default, Optional                                                       []string // client scopes
	RealmRoles                                                              []string // of its service account
	ClientRoles                                                             map[string][]string
	Protocol                                                                string
}

// Op is a kind of request.
type Op string

// The kinds.
const (
	Token        Op = "token"
	Find         Op = "find"
	List         Op = "list"
	Create       Op = "create"
	Update       Op = "update"
	Delete       Op = "delete"
	Scopes       Op = "scopes"
	AddScope     Op = "add scope"
	RemoveScope  Op = "remove scope"
	ReadSecret   Op = "read secret"
	NewSecret    Op = "new secret"
	ReadRotated  Op = "read rotated"
	DropRotated  Op = "drop rotated"
	Introspect   Op = "introspect"
	anythingElse Op = "anything else"
)

// Fault is how one request goes wrong.
type Fault struct {
	Effect     bool          // it takes effect all the same
	Delay      time.Duration // before anything
	Hang       bool          // no answer, until the client has gone
	Reset      bool          // the connection is cut without an answer
	Truncate   bool          // the connection is cut in the middle of the answer
	Expire     bool          // the admin's tokens end first, so that the answer is 401
	Status     int           // of the answer instead of the right one
	HTML       bool          // and its body is a page of a proxy
	RetryAfter string
}

// Server is the stand-in. Set its fields before the first request.
type Server struct {
	Audience  string        // that DeviceScope puts into tokens; "" is signalbox
	TokenLife time.Duration // 0 is five minutes
	Rotation  bool          // a policy with secret-rotation is on
	NoScopes  []string      // client scopes that the realm lacks
	Born      []string      // client scopes that new clients have as optional ones
	Fuzzy     bool          // find finds parts of ids, as search does
	Repeats   bool          // a list has each client twice
	OnList    func(n int)   // is called before the nth page of a list, from 1

	mu        sync.Mutex
	url       string
	clients   map[string]*Client // by UUID
	adminUUID string
	scopes    map[string]string    // ids by name
	admins    map[string]time.Time // when the admin's tokens end
	faults    map[Op][]Fault
	requests  map[Op]int
	pages     int
}

// key signs the tokens of every stand-in: to make one takes long.
var key = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// Start listens on a free port until the test ends.
func (s *Server) Start(t testing.TB) {
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.Place(server.URL)
}

// Place says under which URL the stand-in is reached.
func (s *Server) Place(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	s.url = strings.TrimRight(url, "/")
}

// init is called with mu held.
func (s *Server) init() {
	if s.clients != nil {
		return
	}
	s.clients, s.scopes, s.admins, s.faults, s.requests = map[string]*Client{}, map[string]string{}, map[string]time.Time{}, map[Op][]Fault{}, map[Op]int{}
	for _, name := range []string{DeviceScope, "profile", "email", "roles", "web-origins"} {
		if !slices.Contains(s.NoScopes, name) {
			s.scopes[name] = uuid.NewString()
		}
	}
	for _, c := range []Client{{ClientID: AdminID, Secret: AdminSecret}, {ClientID: "account", Secret: rand.Text()}, {ClientID: "not-iotdevice-x", Secret: rand.Text()}} {
		c.UUID, c.Enabled, c.ServiceAccount = uuid.NewString(), true, true
		s.clients[c.UUID] = &c
		if c.ClientID == AdminID {
			s.adminUUID = c.UUID
		}
	}
}

// URL is the base of Keycloak.
func (s *Server) URL() string { s.mu.Lock(); defer s.mu.Unlock(); return s.url }

// Issuer is the realm's, as tokens have it.
func (s *Server) Issuer() string { return s.URL() + "/realms/" + strings.ReplaceAll(Realm, " ", "%20") }

// TokenURL is the realm's token endpoint.
func (s *Server) TokenURL() string { return s.Issuer() + "/protocol/openid-connect/token" }

// Fail makes the next requests of a kind go wrong, one for each fault. A fault
// without anything in it is none.
func (s *Server) Fail(op Op, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	s.faults[op] = append(s.faults[op], faults...)
}

// Requests returns how many requests of the kinds there were; of all without one.
func (s *Server) Requests(ops ...Op) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for op, count := range s.requests {
		if len(ops) == 0 || slices.Contains(ops, op) {
			n += count
		}
	}
	return n
}

// Put makes or replaces a client, without a request.
func (s *Server) Put(c Client) Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	c.UUID = cmp.Or(c.UUID, uuid.NewString())
	s.clients[c.UUID] = &c
	return c
}

// Take removes a client, without a request.
func (s *Server) Take(clientID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.clients {
		if c.ClientID == clientID {
			delete(s.clients, id)
		}
	}
}

// Clients returns those whose id begins with prefix, in the order of the ids.
func (s *Server) Clients(prefix string) (all []Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sorted() {
		if strings.HasPrefix(c.ClientID, prefix) {
			copied := *c
			copied.Default, copied.Optional = slices.Sorted(slices.Values(c.Default)), slices.Sorted(slices.Values(c.Optional))
			all = append(all, copied)
		}
	}
	return all
}

func (s *Server) sorted() []*Client {
	all := make([]*Client, 0, len(s.clients))
	for _, c := range s.clients {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Client) int { return cmp.Compare(a.ClientID, b.ClientID) })
	return all
}

// Expire ends all tokens of the admin.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.admins)
}

// ServeHTTP answers a request, rightly or as Fail says.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := new(bytes.Buffer)
	_, _ = body.ReadFrom(http.MaxBytesReader(w, r.Body, 1<<20)) // what is cut off is not JSON
	op, handle := s.route(r)
	s.mu.Lock()
	s.init()
	s.requests[op]++
	var f Fault
	if queue := s.faults[op]; len(queue) > 0 {
		f, s.faults[op] = queue[0], queue[1:]
	}
	s.mu.Unlock()

	wait := time.NewTimer(f.Delay)
	defer wait.Stop()
	gone := r.Context().Done()
	if f.Effect {
		gone = nil // it comes, whoever waits for it
	}
	select {
	case <-wait.C:
	case <-gone:
		return
	}
	if f.Expire {
		s.Expire()
	}
	right := httptest.NewRecorder()
	if f.Effect || f.Truncate || !f.Hang && !f.Reset && f.Status == 0 && !f.HTML {
		handle(right, r, body.Bytes())
	}
	if f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	switch {
	case f.Hang:
		<-r.Context().Done()
	case f.Reset:
		panic(http.ErrAbortHandler)
	case f.HTML:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(cmp.Or(f.Status, http.StatusOK))
		_, _ = w.Write([]byte("<html><body><h1>Bad gateway</h1>" + AdminSecret + "</body></html>"))
	case f.Status != 0:
		fail(w, f.Status, http.StatusText(f.Status))
	default:
		for name, values := range right.Header() {
			w.Header()[name] = values
		}
		content := right.Body.Bytes()
		if !f.Truncate {
			w.WriteHeader(right.Code)
			_, _ = w.Write(content)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)+1))
		w.WriteHeader(right.Code)
		_, _ = w.Write(content[:len(content)/2])
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}
		panic(http.ErrAbortHandler)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"errorMessage": message})
}

type handler func(w http.ResponseWriter, r *http.Request, body []byte)

// route returns what a request is for. The parts of its path are unescaped.
func (s *Server) route(r *http.Request) (Op, handler) {
	base := ""
	if u, _, found := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(s.URL(), "http://"), "https://"), "/"); found {
		base = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(s.URL(), "http://"), "https://"), u)
	}
	path, ok := strings.CutPrefix(r.URL.Path, base)
	none := func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		fail(w, http.StatusNotFound, "HTTP 404 Not Found")
	}
	if !ok {
		return anythingElse, none
	}
	if rest, ok := strings.CutPrefix(path, "/realms/"+Realm+"/"); ok {
		switch r.Method + " " + rest {
		case "GET .well-known/openid-configuration":
			return anythingElse, s.discovery
		case "GET protocol/openid-connect/certs":
			return anythingElse, s.keys
		case "POST protocol/openid-connect/token":
			return Token, s.token
		case "POST protocol/openid-connect/token/introspect":
			return Introspect, s.introspect
		}
		return anythingElse, none
	}
	rest, ok := strings.CutPrefix(path, "/admin/realms/"+Realm+"/")
	if !ok {
		return anythingElse, none
	}
	parts := strings.Split(rest, "/")
	method, id, last := r.Method, "", ""
	shape := parts[0]
	if len(parts) > 1 && parts[0] == "clients" {
		id = parts[1]
		shape += "/{}"
		for i, p := range parts[2:] {
			if i == 1 && strings.HasSuffix(parts[2], "-client-scopes") {
				p, last = "{}", p
			}
			shape += "/" + p
		}
	}
	on := func(f func(w http.ResponseWriter, c *Client, last string, body []byte)) handler {
		return s.admin(func(w http.ResponseWriter, _ *http.Request, body []byte) {
			c := s.clients[id]
			if c == nil {
				fail(w, http.StatusNotFound, "Could not find client")
				return
			}
			f(w, c, last, body)
		})
	}
	switch method + " " + shape {
	case "GET clients":
		if r.URL.Query().Get("search") == "true" {
			return List, s.admin(s.list)
		}
		return Find, s.admin(s.list)
	case "POST clients":
		return Create, s.admin(s.create)
	case "GET client-scopes":
		return Scopes, s.admin(s.realmScopes)
	case "PUT clients/{}":
		return Update, on(s.update)
	case "DELETE clients/{}":
		return Delete, on(s.remove)
	case "GET clients/{}/client-secret":
		return ReadSecret, on(s.secret)
	case "POST clients/{}/client-secret":
		return NewSecret, on(s.newSecret)
	case "GET clients/{}/client-secret/rotated":
		return ReadRotated, on(s.rotated)
	case "DELETE clients/{}/client-secret/rotated":
		return DropRotated, on(s.dropRotated)
	case "PUT clients/{}/default-client-scopes/{}":
		return AddScope, on(s.addScope)
	case "DELETE clients/{}/optional-client-scopes/{}":
		return RemoveScope, on(s.removeScope)
	}
	return anythingElse, s.admin(none)
}

// admin lets a request through that has a token of the admin's. f is called with
// mu held.
func (s *Server) admin(f handler) handler {
	return func(w http.ResponseWriter, r *http.Request, body []byte) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !ok || !time.Now().Before(s.admins[bearer]) || !s.adminEnabled() {
			fail(w, http.StatusUnauthorized, "HTTP 401 Unauthorized")
			return
		}
		if len(body) > 0 && r.Header.Get("Content-Type") != "application/json" {
			fail(w, http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type")
			return
		}
		f(w, r, body)
	}
}

// Heal takes back what Fail said.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
}

// adminEnabled is called with mu held.
func (s *Server) adminEnabled() bool {
	c := s.clients[s.adminUUID]
	return c != nil && c.Enabled
}
