package web_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/overview"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

var epoch = time.Date(2026, 2, 3, 4, 5, 6, 789012000, time.UTC)

const epochText = "2026-02-03T04:05:06.789012Z"

// site is a server over a real store, with keys and a clock that can be foretold.
type site struct {
	t        *testing.T
	server   *web.Server
	registry *registry.Service
	metrics  *prometheus.Registry
	log      *bytes.Buffer
}

func newSite(t *testing.T, change func(*web.Options)) *site {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	n := 0
	service, err := registry.New(t.Context(), db, slog.New(slog.DiscardHandler),
		registry.WithClock(func() time.Time { return epoch }),
		registry.WithKeys(func() string { n++; return fmt.Sprintf("key%05d", n) }))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, registry: service, metrics: prometheus.NewRegistry(), log: new(bytes.Buffer)}
	o := web.Options{Log: slog.New(slog.NewTextHandler(s.log, nil)), Registry: service, Metrics: s.metrics}
	if change != nil {
		change(&o)
	}
	s.server = web.New(o)
	return s
}

// do sends a request with a JSON body, or none if body is "".
func (s *site) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequestWithContext(s.t.Context(), method, path, reader)
	r.Header.Set("X-Request-ID", "id-1")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.server.Handler().ServeHTTP(w, r)
	return w
}

// want sends a request and compares the answer with a status and a JSON text.
func (s *site) want(method, path, body string, status int, json string) {
	s.t.Helper()
	s.same(method+" "+path, s.do(method, path, body), status, json)
}

func (s *site) same(what string, res *httptest.ResponseRecorder, status int, want string) {
	s.t.Helper()
	got := res.Body.Bytes()
	if res.Code != status {
		s.t.Errorf("%s: status %d, want %d: %s", what, res.Code, status, got)
	}
	if want == "" {
		if len(got) > 0 {
			s.t.Errorf("%s: body %s", what, got)
		}
		return
	}
	if ct := res.Header().Get("Content-Type"); ct != "application/json" {
		s.t.Errorf("%s: content type %q", what, ct)
	}
	if diff := cmp.Diff(decode(s.t, want), decode(s.t, string(got))); diff != "" {
		s.t.Errorf("%s: %s", what, diff)
	}
}

func decode(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// problemJSON is the body of an error as the clients in the field know it.
func problemJSON(kind fleet.Kind, text string) string {
	known := map[fleet.Kind][2]string{
		fleet.Internal:         {"INTERNAL_ERROR", "An unexpected error occurred"},
		fleet.Invalid:          {"VALIDATION_FAILED", "Validation failed"},
		fleet.InvalidOperation: {"INVALID_OPERATION", "The requested operation cannot be performed"},
		fleet.Unauthenticated:  {"AUTHENTICATION_REQUIRED", "Authentication is required to access this resource"},
		fleet.Forbidden:        {"AUTHORIZATION_FAILED", "Insufficient permissions to access this resource"},
		fleet.NotFound:         {"RECORD_NOT_FOUND", "The requested resource could not be found"},
		fleet.Exists:           {"RECORD_EXISTS", "The resource already exists"},
		fleet.TooLarge:         {"REQUEST_TOO_LARGE", "The request is over a bound"},
		fleet.Unavailable:      {"SERVICE_UNAVAILABLE", "Service is temporarily unavailable"},
	}[kind]
	return fmt.Sprintf(`{"error": %q, "details": {"message": %q}, "code": %q, "correlationId": "id-1"}`, text, known[1], known[0])
}

const (
	noRoute  = `{"error": "Resource not found", "details": {"message": "The requested resource could not be found"}, "correlationId": "id-1"}`
	noMethod = `{"error": "Method not allowed", "details": {"message": "The method is not allowed for the requested resource"}, "correlationId": "id-1"}`
)

func TestSelf(t *testing.T) {
	newSite(t, nil).want("GET", "/api/auth/self", "", 200, `{"subject": "local-user", "email": "admin@local", "name": "Local Admin", "roles": ["admin"],
		"kind": "local", "limit": null, "mode": "off", "insecure": false, "session": null, "expires_at": null}`)
}

func TestModels(t *testing.T) {
	s := newSite(t, nil)
	s.want("GET", "/api/device-models", "", 200, `{"device_models": [], "count": 0}`)

	s.want("POST", "/api/device-models", `{"code": "relay", "name": "Relay", "config_schema": "{\"type\": \"object\"}", "ignored": 1}`, 201,
		`{"id": 1, "code": "relay", "name": "Relay", "firmware_version": null, "has_config_schema": true, "device_count": 0,
		"config_schema": "{\"type\": \"object\"}", "created_at": "`+epochText+`", "updated_at": "`+epochText+`"}`)
	const plain = `{"id": 2, "code": "dimmer", "name": "Dimmer <&>", "firmware_version": null, "has_config_schema": false, "device_count": 0,
		"config_schema": null, "created_at": "` + epochText + `", "updated_at": "` + epochText + `"}`
	s.want("POST", "/api/device-models", `{"code": "dimmer", "name": "Dimmer <&>", "config_schema": null}`, 201, plain)
	s.want("GET", "/api/device-models/2", "", 200, plain)
	s.want("POST", "/api/device-models", `{"code": "relay", "name": "Again"}`, 409,
		problemJSON(fleet.Exists, "DeviceModel for relay already exists"))
	s.want("GET", "/api/device-models", "", 200, `{"device_models": [
		{"id": 2, "code": "dimmer", "name": "Dimmer <&>", "firmware_version": null, "has_config_schema": false, "device_count": 0},
		{"id": 1, "code": "relay", "name": "Relay", "firmware_version": null, "has_config_schema": true, "device_count": 0}], "count": 2}`)

	s.want("PUT", "/api/device-models/2", `{"name": "D", "config_schema": "{}"}`, 200,
		`{"id": 2, "code": "dimmer", "name": "D", "firmware_version": null, "has_config_schema": true, "device_count": 0,
		"config_schema": "{}", "created_at": "`+epochText+`", "updated_at": "`+epochText+`"}`)
	s.want("PUT", "/api/device-models/2", `{"name": null, "config_schema": null, "code": "other"}`, 200,
		`{"id": 2, "code": "dimmer", "name": "D", "firmware_version": null, "has_config_schema": true, "device_count": 0,
		"config_schema": "{}", "created_at": "`+epochText+`", "updated_at": "`+epochText+`"}`)
	s.want("PUT", "/api/device-models/2", `{"config_schema": ""}`, 200,
		`{"id": 2, "code": "dimmer", "name": "D", "firmware_version": null, "has_config_schema": false, "device_count": 0,
		"config_schema": null, "created_at": "`+epochText+`", "updated_at": "`+epochText+`"}`)
	s.want("PUT", "/api/device-models/2", `{"name": " "}`, 400, problemJSON(fleet.Invalid, "name must not be blank"))
	s.want("PUT", "/api/device-models/2", `{"config_schema": "{\"type\": 1}"}`, 400,
		problemJSON(fleet.Invalid, "Invalid JSON schema: /type: got number, want array; value must be one of 'array', 'boolean', 'integer', 'null', 'number', 'object', 'string'"))

	if _, err := s.registry.CreateDevice(t.Context(), 2, "{}"); err != nil {
		t.Fatal(err)
	}
	s.want("DELETE", "/api/device-models/2", "", 400,
		problemJSON(fleet.InvalidOperation, "Cannot delete device model because model has 1 associated device(s)"))
	s.want("DELETE", "/api/devices/1", "", 204, "")
	s.want("DELETE", "/api/device-models/2", "", 204, "")
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		s.want(method, "/api/device-models/2", "", 404, problemJSON(fleet.NotFound, "DeviceModel 2 was not found"))
		s.want(method, "/api/device-models/x", "", 404, noRoute)
	}
}

func TestValidateConfig(t *testing.T) {
	s := newSite(t, nil)
	schema := `{"type": "object", "required": ["ssid"], "properties": {"ssid": {"type": "string"},
		"pins": {"type": "object", "additionalProperties": {"type": "integer", "maximum": 40}}}}`
	quoted, _ := json.Marshal(schema)
	if res := s.do("POST", "/api/device-models", `{"code": "relay", "name": "Relay", "config_schema": `+string(quoted)+`}`); res.Code != 201 {
		t.Fatal(res.Body)
	}
	if res := s.do("POST", "/api/device-models", `{"code": "free", "name": "Free"}`); res.Code != 201 {
		t.Fatal(res.Body)
	}
	// What the check says is what saving does.
	f := func(model int, config, want string) {
		t.Helper()
		text, _ := json.Marshal(config)
		s.want("POST", fmt.Sprintf("/api/device-models/%d/validate", model), `{"config": `+string(text)+`}`, 200, want)
		saved := s.do("POST", "/api/devices", fmt.Sprintf(`{"device_model_id": %d, "config": %s}`, model, text))
		if valid := strings.Contains(want, `"valid": true`); (saved.Code == 201) != valid {
			t.Errorf("%s: valid is %v, and saving it answers %d: %s", config, valid, saved.Code, saved.Body)
		}
	}
	const good = `{"valid": true, "errors": []}`
	f(1, `{"ssid": "x", "pins": {"a": 40}}`, good)
	f(2, `[1]`, good)
	f(1, `{"pins": {"led/1": 41, "b~c": "x"}, "deviceName": 5}`, `{"valid": false, "errors": [
		{"path": "", "message": "missing property 'ssid'"},
		{"path": "/pins/b~0c", "message": "got string, want integer"},
		{"path": "/pins/led~11", "message": "maximum: got 41, want 40"},
		{"path": "/deviceName", "message": "deviceName must be a string"}]}`)
	f(1, `7`, `{"valid": false, "errors": [{"path": "", "message": "got number, want object"}]}`)
	f(1, `{`, `{"valid": false, "errors": [{"path": "", "message": "the text ends before the value does"}]}`)
	f(2, `{"enableOTA": 1, "deviceEntityId": false}`, `{"valid": false, "errors": [
		{"path": "/deviceEntityId", "message": "deviceEntityId must be a string"},
		{"path": "/enableOTA", "message": "enableOTA must be true or false"}]}`)

	many := `{"ssid": "x", "pins": {`
	for i := range 200 {
		many += fmt.Sprintf(`"p%d": 41, `, i)
	}
	body, _ := json.Marshal(map[string]string{"config": many[:len(many)-2] + "}}"})
	var got struct{ Errors []any }
	if err := json.Unmarshal(s.do("POST", "/api/device-models/1/validate", string(body)).Body.Bytes(), &got); err != nil || len(got.Errors) != registry.MaxProblems {
		t.Errorf("%d errors, %v", len(got.Errors), err)
	}

	s.want("POST", "/api/device-models/9/validate", `{"config": "{}"}`, 404, problemJSON(fleet.NotFound, "DeviceModel 9 was not found"))
	s.want("POST", "/api/device-models/x/validate", `{"config": "{}"}`, 404, noRoute)
	if res := s.do("POST", "/api/device-models/1/validate", `{}`); res.Code != 400 {
		t.Errorf("without a config: %d", res.Code)
	}
}

func TestModelSchemaViolations(t *testing.T) {
	s := newSite(t, nil)
	const url = "https://errors.pydantic.dev/2.12/v/"
	f := func(method, path, body, want string) {
		t.Helper()
		s.want(method, path, body, 400, strings.ReplaceAll(want, "URL:", url))
	}
	const both = `[
		{"type": "missing", "loc": ["code"], "msg": "Field required", "input": {}, "url": "URL:missing"},
		{"type": "missing", "loc": ["name"], "msg": "Field required", "input": {}, "url": "URL:missing"}]`
	for _, body := range []string{"", "{}", "null", "{", "\ufeff{}", `{"code": "a", "name": "b"} x`, "NaN", "{\"code\": \"\xff\"}"} {
		f("POST", "/api/device-models", body, both)
	}
	s.same("a form", s.do("POST", "/api/device-models", `{"code": "a", "name": "b"}`, "Content-Type", "text/plain"), 400, strings.ReplaceAll(both, "URL:", url))
	f("POST", "/api/device-models", `[1]`, `[{"type": "dict_type", "loc": [], "msg": "Input should be a valid dictionary", "input": [1], "url": "URL:dict_type"},
		`+both[1:])
	f("POST", "/api/device-models", `{"code": "", "name": 7}`, `[
		{"type": "string_too_short", "loc": ["code"], "msg": "String should have at least 1 character", "input": "", "url": "URL:string_too_short"},
		{"type": "string_type", "loc": ["name"], "msg": "Input should be a valid string", "input": 7, "url": "URL:string_type"}]`)
	f("POST", "/api/device-models", `{"code": "A b", "name": null}`, `[
		{"type": "string_pattern_mismatch", "loc": ["code"], "msg": "String should match pattern '^[a-z0-9_]+$'", "input": "A b", "url": "URL:string_pattern_mismatch"},
		{"type": "string_type", "loc": ["name"], "msg": "Input should be a valid string", "input": null, "url": "URL:string_type"}]`)
	long := strings.Repeat("a", 51)
	f("POST", "/api/device-models", `{"code": "`+long+`", "name": "x", "config_schema": "{"}`, `[
		{"type": "string_too_long", "loc": ["code"], "msg": "String should have at most 50 characters", "input": "`+long+`", "url": "URL:string_too_long"},
		{"type": "value_error", "loc": ["config_schema"], "msg": "Value error, config_schema must be valid JSON: the text ends before the value does", "input": "{", "url": "URL:value_error"}]`)
	if _, err := s.registry.CreateModel(t.Context(), registry.NewModel{Code: "a", Name: "A"}); err != nil {
		t.Fatal(err)
	}
	f("PUT", "/api/device-models/1", `{"name": "", "config_schema": {}}`, `[
		{"type": "string_too_short", "loc": ["name"], "msg": "String should have at least 1 character", "input": "", "url": "URL:string_too_short"},
		{"type": "string_type", "loc": ["config_schema"], "msg": "Input should be a valid string", "input": {}, "url": "URL:string_type"}]`)
}

func TestDevices(t *testing.T) {
	s := newSite(t, nil)
	s.want("GET", "/api/devices", "", 200, `{"devices": [], "count": 0}`)
	for _, code := range []string{"relay", "dimmer"} {
		if _, err := s.registry.CreateModel(t.Context(), registry.NewModel{Code: code, Name: "Model " + code}); err != nil {
			t.Fatal(err)
		}
	}
	detail := func(id int, active bool, config, name, entity, ota, warnings string) string {
		return fmt.Sprintf(`{"id": %d, "key": "key%05d", "device_model_id": 1,
			"device_model": {"id": 1, "code": "relay", "name": "Model relay", "firmware_version": null},
			"active": %v, "config": %q, "device_name": %s, "device_entity_id": %s, "enable_ota": %s, "tags": [], "rotation_state": "OK",
			"client_id": "iotdevice-relay-key%05d", "secret_created_at": %q, "last_rotation_attempt_at": null,
			"last_rotation_completed_at": null, "created_at": %q, "updated_at": %q, "revoked": false, "warnings": %s}`,
			id, id, active, config, name, entity, ota, id, epochText, epochText, epochText, warnings)
	}
	const config = ` {"deviceName": "Kitchen", "deviceEntityId": "kitchen", "enableOTA": true}`
	quoted, _ := json.Marshal(config)
	s.want("POST", "/api/devices", `{"device_model_id": 1, "config": `+string(quoted)+`}`, 201,
		detail(1, true, config, `"Kitchen"`, `"kitchen"`, "true", "[]"))
	s.want("POST", "/api/devices", `{"device_model_id": "1", "config": "[]"}`, 201, detail(2, true, "[]", "null", "null", "null", "[]"))
	s.want("GET", "/api/devices/2", "", 200, detail(2, true, "[]", "null", "null", "null", "[]"))
	s.want("PUT", "/api/devices/2", `{"active": false, "config": "{\"deviceEntityId\": \"kitchen\", \"deviceName\": \" \"}"}`, 200,
		detail(2, false, `{"deviceEntityId": "kitchen", "deviceName": " "}`, "null", `"kitchen"`, "null",
			`["The entity id \"kitchen\" is shared with key00001: log lines on the shared topic belong to all of them."]`))
	s.want("GET", "/api/devices/1", "", 200, detail(1, true, config, `"Kitchen"`, `"kitchen"`, "true",
		`["The entity id \"kitchen\" is shared with key00002: log lines on the shared topic belong to all of them."]`))

	s.want("POST", "/api/devices", `{"device_model_id": 9, "config": "{}"}`, 404, problemJSON(fleet.NotFound, "DeviceModel 9 was not found"))
	s.want("POST", "/api/devices", `{"device_model_id": 1, "config": "{\"deviceName\": 5}"}`, 400,
		problemJSON(fleet.Invalid, "Config validation failed: deviceName must be a string"))

	one := `{"id": 1, "key": "key00001", "device_model_id": 1, "active": true, "device_name": "Kitchen", "device_entity_id": "kitchen",
		"enable_ota": true, "tags": [], "rotation_state": "OK", "secret_created_at": "` + epochText + `", "last_coredump_at": null, "revoked": false}`
	two := `{"id": 2, "key": "key00002", "device_model_id": 1, "active": false, "device_name": null, "device_entity_id": "kitchen",
		"enable_ota": null, "tags": [], "rotation_state": "OK", "secret_created_at": "` + epochText + `", "last_coredump_at": null, "revoked": false}`
	all := `{"devices": [` + one + "," + two + `], "count": 2}`
	none := `{"devices": [], "count": 0}`
	s.want("GET", "/api/devices", "", 200, all)
	s.want("GET", "/api/devices?model_id=1&rotation_state=OK", "", 200, all)
	s.want("GET", "/api/devices?model_id=one", "", 200, all)
	s.want("GET", "/api/devices?model_id=99999999999999999999", "", 200, all)
	s.want("GET", "/api/devices?model_id=2", "", 200, none)
	s.want("GET", "/api/devices?rotation_state=PENDING", "", 200, none)
	s.want("GET", "/api/devices?rotation_state=nonsense", "", 200, none)

	s.want("DELETE", "/api/devices/1", "", 204, "")
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		body := ""
		if method == "PUT" {
			body = `{"config": "{}", "active": true}`
		}
		s.want(method, "/api/devices/1", body, 404, problemJSON(fleet.NotFound, "Device 1 was not found"))
		for _, id := range []string{"x", "-1", "+1", "1.0", "99999999999999999999"} {
			s.want(method, "/api/devices/"+id, body, 404, noRoute)
		}
	}
}

func TestDeviceSchemaViolations(t *testing.T) {
	s := newSite(t, nil)
	f := func(method, path, body string, want ...string) {
		t.Helper()
		res := s.do(method, path, body)
		var got []struct {
			Type, Msg string
			Loc       []any
		}
		if err := json.NewDecoder(res.Body).Decode(&got); err != nil || res.Code != 400 {
			t.Errorf("%s: status %d, %v", body, res.Code, err)
		}
		var short []string
		for _, v := range got {
			short = append(short, fmt.Sprintf("%v %s: %s", v.Loc, v.Type, v.Msg))
		}
		if diff := cmp.Diff(want, short); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
	number := func(value string, want ...string) {
		t.Helper()
		f("POST", "/api/devices", `{"config": "{", "device_model_id": `+value+`}`,
			append(want, "[config] value_error: Value error, config must be valid JSON: the text ends before the value does")...)
	}
	number("1")
	number("1.0")
	number("1e3")
	number(`" 12 "`)
	const intType = "[device_model_id] int_type: Input should be a valid integer"
	const intParsing = "[device_model_id] int_parsing: Input should be a valid integer, unable to parse string as an integer"
	const tooBig = "[device_model_id] int_parsing_size: Unable to parse input string as an integer, exceeded maximum size"
	number("null", intType)
	number("true", intType)
	number("{}", intType)
	number(`"x"`, intParsing)
	number(`""`, intParsing)
	number(`"99999999999999999999"`, tooBig)
	number("99999999999999999999", tooBig)
	number("1e999", tooBig)
	number("1.5", "[device_model_id] int_from_float: Input should be a valid integer, got a number with a fractional part")

	truth := func(value string, want ...string) {
		t.Helper()
		f("PUT", "/api/devices/1", `{"active": `+value+`}`, append([]string{"[config] missing: Field required"}, want...)...)
	}
	for _, value := range []string{"true", "false", "0", "1.0", `"yes"`, `"OFF"`} {
		truth(value)
	}
	truth("null", "[active] bool_type: Input should be a valid boolean")
	truth("[]", "[active] bool_type: Input should be a valid boolean")
	truth("2", "[active] bool_parsing: Input should be a valid boolean, unable to interpret input")
	truth(`"maybe"`, "[active] bool_parsing: Input should be a valid boolean, unable to interpret input")

	f("PUT", "/api/devices/1", ``, "[config] missing: Field required", "[active] missing: Field required")
	f("PUT", "/api/devices/1", `{"active": true, "config": {}}`, "[config] string_type: Input should be a valid string")
	f("PUT", "/api/devices/1", `{"active": true, "config": "{\"a\": NaN}"}`,
		"[config] value_error: Value error, config must be valid JSON: invalid character 'N' looking for beginning of value at line 1 column 7")
}

func TestNoRoute(t *testing.T) {
	s := newSite(t, nil)
	for _, path := range []string{"/", "/api", "/api/devices/", "/api/devices/1/nothing", "/api/testing/sessions"} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			s.want(method, path, "", 404, noRoute)
		}
	}
	f := func(method, path, allow string) {
		t.Helper()
		res := s.do(method, path, "")
		s.same(method+" "+path, res, 405, noMethod)
		if got := res.Header().Get("Allow"); got != allow {
			t.Errorf("%s %s: Allow is %q", method, path, got)
		}
	}
	f("PATCH", "/api/devices", "GET, HEAD, OPTIONS, POST")
	f("POST", "/api/devices/1", "DELETE, GET, HEAD, OPTIONS, PUT")
	f("BREW", "/api/auth/self", "GET, HEAD, OPTIONS")
	res := s.do("OPTIONS", "/api/devices", "")
	s.same("OPTIONS", res, 204, "")
	if res.Header().Get("Allow") != "GET, HEAD, OPTIONS, POST" {
		t.Errorf("Allow is %q", res.Header().Get("Allow"))
	}
}

// The page is for its own paths; a wrong path of the API stays an error.
func TestPage(t *testing.T) {
	const html = "<title>Signalbox</title>"
	s := newSite(t, func(o *web.Options) {
		o.Identity = atHome(t)
		o.Page = func(notFound http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/assets/gone.js" {
					notFound.ServeHTTP(w, r)
					return
				}
				_, _ = io.WriteString(w, html)
			})
		}
	})
	for _, path := range []string{"/", "/devices/1", "/apis", "/healthy"} {
		if res := s.do("GET", path, ""); res.Code != 200 || res.Body.String() != html {
			t.Errorf("%s: status %d, %s", path, res.Code, res.Body)
		}
	}
	for _, path := range []string{"/api", "/api/", "/api/nothing", "/health", "/health/x", "/internal/rotation-nudge", "/metrics", "/assets/gone.js"} {
		s.want("GET", path, "", 404, noRoute)
	}
	s.want("GET", "/api/devices", "", 401, problemJSON(fleet.Unauthenticated, "No valid token provided"))
}

func TestBroker(t *testing.T) {
	newSite(t, nil).want("GET", "/api/broker", "", 200, `{"broker": null}`)
	s := newSite(t, func(o *web.Options) {
		o.Devices.TokenURL = "http://here/oauth/token"
		o.Devices.Broker = &web.Broker{Auth: "token", Port: 8883, TLS: true, Topic: "iotsupport/logsink"}
	})
	s.want("GET", "/api/broker", "", 200, `{"broker": {"auth": "token", "port": 8883, "tls": true, "topic": "iotsupport/logsink",
		"shared_topic": false, "token_url": "http://here/oauth/token"}}`)
}

func TestOverview(t *testing.T) {
	newSite(t, nil).want("GET", "/api/overview", "", 200, `{"step": 10, "start": 0, "series": []}`)

	metrics := prometheus.NewRegistry()
	streams := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sse_gateway_active_connections"})
	metrics.MustRegister(streams)
	streams.Set(7)
	recorder := overview.New(metrics, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := recorder.Run(ctx); err != nil { // once
		t.Fatal(err)
	}
	s := newSite(t, func(o *web.Options) { o.Overview = recorder })
	var got overview.Answer
	res := s.do("GET", "/api/overview", "", "Accept-Encoding", "br, gzip")
	if res.Header().Get("Content-Encoding") != "gzip" {
		t.Errorf("headers: %v", res.Header())
	}
	z, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if again := s.do("GET", "/api/overview", "", "Accept-Encoding", "gzip;q=0").Body.String(); again != string(plain) {
		t.Errorf("compressed %s, plain %s", plain, again)
	}
	if !strings.Contains(string(plain), `{"name":"streams","unit":"streams","points":[7]}`) || !strings.Contains(string(plain), `{"name":"lines","unit":"lines/s","points":[null]}`) {
		t.Errorf("answer %s", plain)
	}
	if err := json.Unmarshal(s.do("GET", "/api/overview?since=99999999999", "").Body.Bytes(), &got); err != nil || len(got.Series[0].Points) != 0 {
		t.Errorf("points of the future: %+v, %v", got, err)
	}
	for _, since := range []string{"x", "NaN", "2026-01-01"} {
		s.want("GET", "/api/overview?since="+since, "", 400, problemJSON(fleet.Invalid, "since must be a number of seconds since 1970"))
	}
}

func TestBodyBound(t *testing.T) {
	s := newSite(t, func(o *web.Options) { o.MaxBody = 100 })
	body := func(n int) string {
		const frame = `{"code": "a", "name": ""}`
		return `{"code": "a", "name": "` + strings.Repeat("x", n-len(frame)) + `"}`
	}
	if res := s.do("POST", "/api/device-models", body(100)); res.Code != 201 {
		t.Errorf("at the bound: %d", res.Code)
	}
	s.want("POST", "/api/device-models", body(101), 413, problemJSON(fleet.TooLarge, "The request body has more than 100 bytes"))
}

func TestCORS(t *testing.T) {
	s := newSite(t, func(o *web.Options) { o.CORSOrigins = []string{"http://localhost:3100"} })
	f := func(method, origin string, preflight bool, status int, want map[string]string) {
		t.Helper()
		headers := []string{"Origin", origin}
		if preflight {
			headers = append(headers, "Access-Control-Request-Method", "PUT")
		}
		res := s.do(method, "/api/devices", "", headers...)
		if res.Code != status {
			t.Errorf("%s from %s: %d", method, origin, res.Code)
		}
		got := make(map[string]string)
		for name := range res.Header() {
			if strings.HasPrefix(name, "Access-Control-") {
				got[name] = res.Header().Get(name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s from %s: %s", method, origin, diff)
		}
		if res.Header().Get("Vary") != "Origin" || res.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("headers: %v", res.Header())
		}
	}
	origin := map[string]string{"Access-Control-Allow-Origin": "http://localhost:3100"}
	f("GET", "http://localhost:3100", false, 200, origin)
	f("BREW", "http://localhost:3100", false, 405, origin)
	f("GET", "http://localhost:3101", false, 200, map[string]string{})
	f("GET", "null", false, 200, map[string]string{})
	f("OPTIONS", "http://localhost:3100", true, 204, map[string]string{
		"Access-Control-Allow-Origin":  "http://localhost:3100",
		"Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
		"Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, X-Request-ID",
		"Access-Control-Max-Age":       "600",
	})
	f("OPTIONS", "http://evil.example", true, 204, map[string]string{})

	s = newSite(t, func(o *web.Options) { o.CORSOrigins = []string{"*"} })
	f("GET", "http://anything.example", false, 200, map[string]string{"Access-Control-Allow-Origin": "http://anything.example"})
}

func TestPaths(t *testing.T) {
	s := newSite(t, nil)
	for _, path := range []string{"//api/devices", "/api//devices", "/api/./devices", "/api/x/../devices", "//", "/api/devices/", "/api/devices//", "/.."} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			s.want(method, path, "", 404, noRoute)
		}
	}
	s.want("GET", "/nothing", "", 404, noRoute)
}

func TestDrain(t *testing.T) {
	s := newSite(t, nil)
	s.server.Drain()
	res := s.do("GET", "/api/devices", "")
	if got := res.Header().Get("Retry-After"); got != "5" {
		t.Errorf("Retry-After is %q", got)
	}
	s.same("draining", res, 503, problemJSON(fleet.Unavailable, "Signalbox is currently unavailable: shutting down"))
	if strings.Contains(s.log.String(), "level=ERROR") { // it is meant
		t.Error(s.log)
	}
}

func TestMetrics(t *testing.T) {
	s := newSite(t, nil)
	s.do("GET", "/api/devices", "")
	s.do("GET", "/api/devices/1", "")
	s.do("POST", "/api/device-models", "{}")
	s.do("GET", "/api/auth/self", "")
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]uint64)
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "iot_config_") {
			continue
		}
		for _, m := range family.Metric {
			name := family.GetName()
			for _, label := range m.Label {
				name += " " + label.GetValue()
			}
			got[name] = uint64(m.Counter.GetValue()) + m.Histogram.GetSampleCount()
		}
	}
	want := map[string]uint64{
		"iot_config_operations_total create_device_model error":     1,
		"iot_config_operations_total get_device error":              1,
		"iot_config_operations_total list_devices success":          1,
		"iot_config_operation_duration_seconds create_device_model": 1,
		"iot_config_operation_duration_seconds get_device":          1,
		"iot_config_operation_duration_seconds list_devices":        1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A store that fails in the middle of a change answers 5xx without telling why,
// and leaves nothing.
func TestStoreFails(t *testing.T) {
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	store := &failing{DB: db}
	service, err := registry.New(t.Context(), store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, log: new(bytes.Buffer), server: web.New(web.Options{Log: slog.New(slog.DiscardHandler), Registry: service})}
	s.do("POST", "/api/device-models", `{"code": "relay", "name": "Relay"}`)
	const body = `{"device_model_id": 1, "config": "{}"}`
	store.err = errors.New("disk I/O error in secret place")
	s.want("POST", "/api/devices", body, 500, problemJSON(fleet.Internal, "Internal server error"))
	store.err = fleet.E(fleet.Unavailable, store.err, "Database is currently unavailable")
	s.want("POST", "/api/devices", body, 503, problemJSON(fleet.Unavailable, "Database is currently unavailable"))
	store.err = nil
	s.want("GET", "/api/devices", "", 200, `{"devices": [], "count": 0}`)
	if res := s.do("POST", "/api/devices", body); res.Code != 201 {
		t.Errorf("status %d", res.Code)
	}
}

type failing struct {
	*sqlstore.DB
	err error
}

func (s *failing) Tx(ctx context.Context, f func(registry.Queries) error) error {
	return s.DB.Tx(ctx, func(q registry.Queries) error {
		if err := f(q); err != nil {
			return err
		}
		return s.err
	})
}
