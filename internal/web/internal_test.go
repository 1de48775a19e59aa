package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
)

// bareServer returns a server for routes of the test's own, and its log.
func bareServer() (*Server, *bytes.Buffer) {
	var log bytes.Buffer
	return New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))}), &log
}

// Whoever adds a row decides who may use it: what changes something is not for all.
func TestRightsOfTable(t *testing.T) {
	s, _ := bareServer()
	for _, rt := range s.routes() {
		// There devices, gateways and links prove who they are.
		if rt.method == "GET" || rt.method == "" || rt.pattern == "/oauth/token" || rt.pattern == "/api/sse/callback" || rt.pattern == linkRoute {
			continue
		}
		own := strings.HasPrefix(rt.pattern, "/api/account/") || strings.HasPrefix(rt.pattern, "/api/auth/") || strings.HasPrefix(rt.pattern, "/api/device-logs/")
		if rt.needs < editor && !own {
			t.Errorf("%s %s is open to everybody", rt.method, rt.pattern)
		}
		if rt.audit == "" && !strings.HasSuffix(rt.pattern, "/validate") && !strings.HasSuffix(rt.pattern, "/unsubscribe") && !strings.HasSuffix(rt.pattern, "/nonce") {
			t.Errorf("%s %s is not recorded", rt.method, rt.pattern)
		}
	}
}

func TestErrors(t *testing.T) {
	s, log := bareServer()
	var err error
	handler := s.outer(s.mux([]route{{"GET", "/x", public, "test", "", func(http.ResponseWriter, *http.Request) error {
		if err == nil {
			panic("secret detail")
		}
		return err
	}}}))
	f := func(e error, status int, kind fleet.Kind, text string) {
		t.Helper()
		log.Reset()
		err = e
		r := httptest.NewRequest("GET", "/x", nil)
		r.Header.Set("X-Request-ID", "id-1")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		var got problem
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != status {
			t.Errorf("%v: status %d, body %s", e, w.Code, w.Body)
		}
		a := answers(kind)
		if diff := cmp.Diff(problem{text, details{a.message}, a.code, "id-1"}, got); diff != "" {
			t.Error(diff)
		}
		if logged := log.Len() > 0; logged != (status >= 500) {
			t.Errorf("%d: logged %q", status, log)
		}
		if status >= 500 && !strings.Contains(log.String(), "correlation_id=id-1") {
			t.Errorf("%d: logged %q", status, log)
		}
		if status == 500 && !strings.Contains(log.String(), "secret detail") {
			t.Errorf("%d: logged %q", status, log)
		}
	}
	cause := errors.New("secret detail")
	for kind, status := range map[fleet.Kind]int{
		fleet.Invalid: 400, fleet.InvalidOperation: 400, fleet.Unauthenticated: 401, fleet.Forbidden: 403, fleet.NotFound: 404,
		fleet.Exists: 409, fleet.TooLarge: 413, fleet.TooMany: 429, fleet.External: 502, fleet.Unavailable: 503,
	} {
		f(fmt.Errorf("wrapped: %w", fleet.E(kind, cause, "the text")), status, kind, "the text")
	}
	f(fleet.E(fleet.Internal, cause, "more secrets"), 500, fleet.Internal, "Internal server error")
	f(cause, 500, fleet.Internal, "Internal server error")
	f(nil, 500, fleet.Internal, "Internal server error") // panics
}

func TestAnswerBrokenOff(t *testing.T) {
	s, log := bareServer()
	handler := s.mux([]route{{"GET", "/x", public, "", "", func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		return errors.New("too late")
	}}})
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("recovered %v", err)
		}
		if !strings.Contains(log.String(), "answer broken off") {
			t.Errorf("logged %q", log)
		}
	}()
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/x", nil))
}

func TestCorrelationID(t *testing.T) {
	f := func(sent string, kept bool) {
		t.Helper()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Request-ID", sent)
		got := correlationID(r)
		if (got == sent) != kept || !kept && len(got) != 36 {
			t.Errorf("%q became %q", sent, got)
		}
	}
	f("", false)
	f("a b-~", true)
	f(strings.Repeat("x", 128), true)
	f(strings.Repeat("x", 129), false)
	f("a\x7f", false)
	f("a\nb", false)
	f("é", false)
}

func TestForbidExtra(t *testing.T) {
	f := newForm([]byte(`{"b": 1, "id": "x", "a": null}`))
	f.text("id", rule{})
	f.forbidExtra()
	var got violations
	if !errors.As(f.err(), &got) {
		t.Fatal("no violations")
	}
	want := violations{
		{"extra_forbidden", []any{"a"}, "Extra inputs are not permitted", nil, violationURL + "extra_forbidden"},
		{"extra_forbidden", []any{"b"}, "Extra inputs are not permitted", json.Number("1"), violationURL + "extra_forbidden"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzForm(f *testing.F) {
	for _, seed := range []string{"", "{}", "[]", `{"text": "x", "number": 1, "truth": true}`, `{"text": null, "number": "1e5", "truth": 1e400}`,
		`{"number": 9223372036854775807}`, `{"number": -9223372036854775809}`, `{"number": 9223372036854775807.0}`, `{"a": {"b": [1e5, "\ud800"]}}`, "\xff", `{"text": "\u0000"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		form := newForm(body)
		text := form.text("text", rule{least: 1, most: 5})
		number := form.integer("number")
		truth := form.boolean("truth")
		optional := form.textOrNull("optional", rule{pattern: modelCode, check: validJSON("optional")})
		form.forbidExtra()
		err := form.err()
		if err != nil {
			if _, ok := errors.AsType[violations](err); !ok {
				t.Fatalf("error %v", err)
			}
			answer, err := json.Marshal(err)
			if err != nil || !json.Valid(answer) {
				t.Fatalf("the answer cannot be sent: %v", err)
			}
			return
		}
		// What passed says the same again in plain form.
		again, err := json.Marshal(map[string]any{"text": text, "number": number, "truth": truth, "optional": optional})
		if err != nil {
			t.Fatal(err)
		}
		plain := newForm(again)
		if plain.text("text", rule{least: 1, most: 5}) != text || plain.integer("number") != number || plain.boolean("truth") != truth {
			t.Fatalf("%q reads as %s", body, again)
		}
	})
}
