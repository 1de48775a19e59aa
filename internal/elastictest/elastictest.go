// Package elastictest is a stand-in for Elasticsearch: as much of its bulk and
// search protocols as Signalbox speaks, kept in memory, and as hostile as a
// test wants it to be.
package elastictest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Item is one document of a bulk request.
type Item struct {
	Index string
	ID    string
	Doc   json.RawMessage
}

// Server is the stand-in. Set its fields before Start.
type Server struct {
	Username, Password string // wanted, if not empty
	MaxBody            int64  // longer requests get 413; 0: no bound

	// Bulk, if not nil, sees each bulk request first and returns true when it
	// has answered. It may call Store.
	Bulk func(w http.ResponseWriter, r *http.Request, items []Item) bool
	// Judge, if not nil, returns the status of one document and, for one that
	// is refused, the error's type.
	Judge func(Item) (status int, errorType string)

	// TextFields are mapped to text, all others so that they are compared as a
	// whole.
	TextFields []string
	// Late makes a document be found only when it is asked for, by _refresh.
	Late      bool
	NoRefresh bool          // which is forbidden then
	Pause     time.Duration // before each search

	searches atomic.Int64

	mu       sync.Mutex
	docs     map[string]stored // by id
	requests int
	writes   int
	server   *http.Server
	addr     string
}

// stored is a document and what a search looks at.
type stored struct {
	item  Item
	doc   map[string]any // nil: not an object
	found bool
}

// Start listens on a free port, until the test ends.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.docs = map[string]stored{}
	s.addr = "127.0.0.1:0"
	s.Up(t)
	t.Cleanup(s.Down)
}

// URL is where it listens.
func (s *Server) URL() string { return "http://" + s.addr }

// Up listens again at the same address.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", s.addr)
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // somebody's outgoing connection may have the port for a moment
		l, err = net.Listen("tcp", s.addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
}

// Down cuts all connections and refuses new ones. It keeps the documents.
func (s *Server) Down() {
	s.mu.Lock()
	server := s.server
	s.mu.Unlock()
	_ = server.Close() // its error is of closing what is gone
}

// Docs returns the documents by their ids.
func (s *Server) Docs() map[string]Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Item, len(s.docs))
	for id, d := range s.docs {
		all[id] = d.item
	}
	return all
}

// Len returns the number of documents.
func (s *Server) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.docs)
}

// Counts returns the number of bulk requests, and of documents that were
// stored by them, again or for the first time.
func (s *Server) Counts() (requests, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests, s.writes
}

// Searches returns the number of searches that were asked for.
func (s *Server) Searches() int { return int(s.searches.Load()) }

// Store stores the items.
func (s *Server) Store(items ...Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range items {
		// Of a document that is written again, the former one is found until then.
		d := stored{item: item, found: !s.Late || s.docs[item.ID].found}
		_ = json.Unmarshal(item.Doc, &d.doc) // a search does not find what is no document
		s.docs[item.ID] = d
		s.writes++
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, ok := r.BasicAuth(); s.Username != "" && (!ok || user != s.Username || password != s.Password) {
		complain(w, http.StatusUnauthorized, "security_exception", "missing authentication credentials")
		return
	}
	body := io.Reader(r.Body)
	if s.MaxBody > 0 {
		body = http.MaxBytesReader(w, r.Body, s.MaxBody)
	}
	content, err := io.ReadAll(body)
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		http.Error(w, "<html>413 Request Entity Too Large</html>", http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		return
	}
	switch path := r.URL.Path; {
	case r.Method == http.MethodPost && path == "/_bulk":
		s.bulk(w, r, content)
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/_search") && path != "/_search":
		s.search(w, path[1:len(path)-len("/_search")], content)
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/_count") && path != "/_count":
		s.count(w, path[1:len(path)-len("/_count")], content)
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/_refresh") && path != "/_refresh":
		s.refresh(w)
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/_field_caps") && path != "/_field_caps":
		s.fieldCaps(w, r.URL.Query().Get("fields"))
	default:
		complain(w, http.StatusNotFound, "no_handler_exception", "no handler for "+r.Method+" "+path)
	}
}

// complain writes an error as Elasticsearch does.
func complain(w http.ResponseWriter, status int, kind, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"type":%q,"reason":%q},"status":%d}`, kind, reason, status)
}

func (s *Server) bulk(w http.ResponseWriter, r *http.Request, content []byte) {
	items, err := parse(content)
	if err != nil || len(items) == 0 || r.Header.Get("Content-Type") != "application/x-ndjson" {
		complain(w, http.StatusBadRequest, "illegal_argument_exception", fmt.Sprintf("malformed bulk request: %v", err))
		return
	}
	s.mu.Lock()
	s.requests++
	s.mu.Unlock()
	if s.Bulk != nil && s.Bulk(w, r, items) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(s.Answer(items))
}

// Answer stores the items that Judge allows, and returns what is said of each.
func (s *Server) Answer(items []Item) []byte {
	failed := false
	var list bytes.Buffer
	for i, item := range items {
		status, kind := http.StatusCreated, ""
		if s.Judge != nil {
			status, kind = s.Judge(item)
		}
		if !json.Valid(item.Doc) || item.Doc[0] != '{' || duplicate(item.Doc) {
			status, kind = http.StatusBadRequest, "document_parsing_exception"
		}
		if i > 0 {
			list.WriteByte(',')
		}
		if status/100 == 2 {
			s.Store(item)
			fmt.Fprintf(&list, `{"index":{"_index":%q,"_id":%q,"_version":1,"result":"created","status":%d}}`, item.Index, item.ID, status)
			continue
		}
		failed = true
		fmt.Fprintf(&list, `{"index":{"_index":%q,"_id":%q,"status":%d,"error":{"type":%q,"reason":"because"}}}`, item.Index, item.ID, status, kind)
	}
	return fmt.Appendf(nil, `{"took":1,"errors":%v,"items":[%s]}`, failed, list.Bytes())
}

// duplicate reports whether the object has two fields of one name.
func duplicate(doc json.RawMessage) bool {
	d := json.NewDecoder(bytes.NewReader(doc))
	if _, err := d.Token(); err != nil {
		return true
	}
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		name, ok := key.(string)
		if err != nil || !ok || seen[name] {
			return true
		}
		seen[name] = true
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return true
		}
	}
	return false
}

// parse reads the body of a bulk request.
func parse(content []byte) (items []Item, err error) {
	if len(content) == 0 || content[len(content)-1] != '\n' {
		return nil, errors.New("it must end with a newline")
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, len(content)+1)
	for lines.Scan() {
		var action struct {
			Index *struct {
				Index string `json:"_index"`
				ID    string `json:"_id"`
			}
		}
		strict := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&action); err != nil {
			return nil, err
		}
		if action.Index == nil || action.Index.Index == "" || action.Index.ID == "" || !lines.Scan() {
			return nil, errors.New("an action without an index, an id or a document")
		}
		items = append(items, Item{action.Index.Index, action.Index.ID, bytes.Clone(lines.Bytes())})
	}
	return items, lines.Err()
}
