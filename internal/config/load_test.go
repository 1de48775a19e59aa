package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

// files is a file system of names and contents.
type files map[string]string

func (f files) read(path string) ([]byte, error) {
	if content, ok := f[path]; ok {
		return []byte(content), nil
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// load parses args as the flags of a command and loads from them, the
// environment and the files.
func load(t *testing.T, args, environ []string, f files) (*Effective, error) {
	t.Helper()
	parser, err := kong.New(new(Flags), AsText(), kong.Exit(func(int) { t.Fatal("kong exits") }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	return Load(Sources{Flags: Given(ctx), Environ: environ, ReadFile: f.read})
}

func mustLoad(t *testing.T, args, environ []string, f files) *Effective {
	t.Helper()
	e, err := load(t, args, environ, f)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDefaultsNeedNothing(t *testing.T) {
	e := mustLoad(t, nil, nil, nil)
	want := Config{
		DataDir: "./data", JournalMaxBytes: 4 << 30, JournalMaxAge: Duration(7 * 24 * time.Hour), JournalSync: Sync(10 * time.Second),
		JournalDiskBytes: 16 << 30, LogsHistory: "sql", HistoryMaxAge: Duration(90 * 24 * time.Hour), HistoryMaxBytes: 20 << 30, HistoryRetention: HistoryLimits{}, HistorySealAge: Duration(5 * time.Minute),
		Host: "127.0.0.1", Port: 3101, InternalListen: "127.0.0.1:3103", MQTTListen: "127.0.0.1:1883",
		MQTTClientID: "iotsupport-backend", MQTTAuth: "auto", MQTTSharedLogTopic: "auto", LogsinkTopic: "iotsupport/logsink", LogsinkEntityField: "entity_id",
		DeviceLogQuotas: Quotas{}, LogRedact: "on", LogRedactPatterns: Patterns{},

		ElasticsearchIndexPrefix: "logstash-http-", ElasticsearchIndexPattern: "logstash-http-*",
		SSEHeartbeatInterval: Duration(15 * time.Second), SSEGatewayMaxBody: 96_000, StreamBufferBytes: 1 << 20, StreamWriteTimeout: Duration(10 * time.Second),
		MaxStreams: 20000, MaxSubscriptionsPerStream: 1000, StreamMaxRate: 5000,
		BaseURL: "http://127.0.0.1:3101", CORSOrigins: Origins{"http://localhost:3100"},
		OIDCScopes: "openid profile email", OIDCClockSkew: Duration(30 * time.Second), OIDCCookieName: "access_token", OIDCRefreshCookieName: "refresh_token",
		OIDCCookieSameSite: "Lax", SessionIdle: Duration(24 * time.Hour), SessionMax: Duration(30 * 24 * time.Hour), AuditMaxAge: Duration(400 * 24 * time.Hour),
		TrustedProxies: Networks{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		DeviceBaseURL:  "http://127.0.0.1:3101", DeviceMQTTURL: "mqtt://127.0.0.1:1883", DeviceTokenLifetime: Duration(5 * time.Minute),
		GracefulShutdownTimeout: Duration(30 * time.Second), LogLevel: "info", LogFormat: "auto",
		KeycloakDeviceScopeName: "iot-device-audience",
		RotationTimezone:        "UTC", RotationTimeout: Duration(5 * time.Minute), RotationInFlight: 1, RotationSilentAfter: Duration(20 * time.Second),
		RotationRetryAfter: Duration(10 * time.Minute), PresenceWindow: Duration(5 * time.Minute), PresenceHistory: Duration(30 * 24 * time.Hour), RotationTries: 3, RotationTurn: Duration(10 * time.Minute), RotationCriticalDays: 7,
	}
	if diff := cmp.Diff(want, e.Config, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if e.Addr() != "127.0.0.1:3101" || e.SQLitePath() != "data/signalbox.db" {
		t.Errorf("Addr %q, SQLitePath %q", e.Addr(), e.SQLitePath())
	}
}

// Each layer covers those below it, and says that it was the one.
func TestPrecedence(t *testing.T) {
	all := files{".env": "PORT=1", "box.conf": "PORT=2", "other.conf": "PORT=5"}
	f := func(args, environ []string, have files, port int, source string) {
		t.Helper()
		e := mustLoad(t, args, environ, have)
		if e.Port != port || e.source["PORT"] != source {
			t.Errorf("PORT is %d from %s, want %d from %s", e.Port, e.source["PORT"], port, source)
		}
	}
	f(nil, nil, nil, 3101, "default")
	f(nil, nil, all, 1, ".env:1")
	f([]string{"--config", "box.conf"}, nil, all, 2, "box.conf:1")
	f(nil, []string{"SIGNALBOX_CONFIG=box.conf"}, all, 2, "box.conf:1")
	f([]string{"--config=other.conf"}, []string{"SIGNALBOX_CONFIG=box.conf"}, all, 5, "other.conf:1")
	f([]string{"--config=box.conf"}, []string{"PORT=3"}, all, 3, "environment")
	f([]string{"--config=box.conf", "--port=4"}, []string{"PORT=3"}, all, 4, "flag --port")
	f([]string{"--port=3101"}, []string{"PORT=3"}, all, 3101, "flag --port") // a flag equal to the default still counts
}

// The process environment must not leak in past Sources.
func TestLoadIsPure(t *testing.T) {
	t.Setenv("PORT", "not a number")
	t.Setenv("HOST", "example.org")
	e := mustLoad(t, nil, []string{"HOST=127.0.0.9"}, nil)
	if e.Port != 3101 || e.Host != "127.0.0.9" {
		t.Errorf("got %s", e.Addr())
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := load(t,
		[]string{"--port=eighty", "--allow-insecure=perhaps", "--config", "box.conf"},
		[]string{"MAX_STREAMS=0", `DEVICE_LOG_QUOTAS={"m":{"brst":1}}`, "MQTT_LISTEN=1883", "DRAIN_AUTH_KEY=två ord", "DATABASE_URL=mysql://u:hunter2@h/d"},
		files{"box.conf": "LOG_LEVEL=loud\n\nMQTT_URLL=mqtt://x\nnonsense\nJOURNAL_MAX_AGE=1w\n"})
	if err == nil {
		t.Fatal("loaded")
	}
	want := []string{
		`box.conf:3: unknown setting MQTT_URLL, the nearest is MQTT_URL`,
		`box.conf:4: not NAME=VALUE`,
		`JOURNAL_MAX_AGE: "1w" (box.conf:5): want a time of at least 1s (0 = no limit), such as 90 (seconds), 1m30s or 7d`,
		`PORT: "eighty" (flag --port): want a whole number from 0 to 65535`,
		`ALLOW_INSECURE: "perhaps" (flag --allow-insecure): want true or false`,
		`DEVICE_LOG_QUOTAS: "{\"m\":{\"brst\":1}}" (environment): want a JSON object from model codes to objects of lines_per_second, burst, bytes_per_second, lines_per_day, bytes_per_day, each a whole number from 0, such as {"relay":{"lines_per_second":5,"lines_per_day":0}}; m: "brst" is not known`,
		`MAX_STREAMS: "0" (environment): want a whole number from 1 to 10000000`,
		`LOG_LEVEL: "loud" (box.conf:1): want one of debug, info, warn, error`,
		`DATABASE_URL: "mysql://u:(hidden)@h/d" (environment): want a URL that starts with postgres://, or nothing for SQLite`,
		`MQTT_LISTEN: "1883" (environment): want HOST:PORT with a port from 0 to 65535, or nothing to turn it off`,
		`DRAIN_AUTH_KEY: (hidden) (environment): want printable ASCII without spaces, as it travels in an HTTP header`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
	if m, ok := errors.AsType[*Mistake](err); !ok || m.Setting != "JOURNAL_MAX_AGE" {
		t.Errorf("first mistake: %v", m)
	}
}

func TestFile(t *testing.T) {
	f := func(content string, want any) {
		t.Helper()
		e, err := load(t, nil, nil, files{".env": content})
		if text, ok := want.(string); ok {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%q: error %v, want %q", content, err, text)
			}
			return
		}
		if err != nil {
			t.Errorf("%q: %v", content, err)
		} else if e.Port != want {
			t.Errorf("%q: PORT=%d, want %v", content, e.Port, want)
		}
	}
	f("PORT=1", 1)
	f("\ufeffPORT=1\r\n# comment\r\n  # another = one\r\n\r\n", 1)
	f("export PORT = '1'", 1)
	f(`PORT="1"`, 1)
	f("PORT=1 # the port", `.env:1: PORT has " #" in its value`)
	f("PORT=1\n\nPORT=2", ".env:3: PORT is already given in .env:1")
	f("port=1", "unknown setting port, the nearest is PORT")
	f("SIGNALBOX_CONFIG=x", "unknown setting")
	f("PORT_FILE=x", "unknown setting") // not a secret
}

func TestValuesKeepWhatTheyHold(t *testing.T) {
	e := mustLoad(t, nil, nil, files{".env": `MQTT_PASSWORD='a #b=c"'` + "\nMQTT_USERNAME=x=y#z\nMQTT_LISTEN=\nINTERNAL_LISTEN=\"\""})
	if got := e.MQTTPassword.Reveal(); got != `a #b=c"` {
		t.Errorf("password %q", got)
	}
	if e.MQTTUsername != "x=y#z" || e.MQTTClientID != "x=y#z" {
		t.Errorf("user name %q, client id %q", e.MQTTUsername, e.MQTTClientID)
	}
	if e.MQTTListen != "" || e.InternalListen != "" {
		t.Error("an empty value did not turn a listener off")
	}
}

func TestReferenceSettingsWarn(t *testing.T) {
	e := mustLoad(t, nil, []string{"WAITRESS_THREADS=50"}, files{".env": "FLASK_ENV=production\nPORT=9\nS3_REGION=x"})
	want := []string{"FLASK_ENV (.env:1) has no effect", "S3_REGION (.env:3) has no effect"}
	if diff := cmp.Diff(want, e.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestSecretFromFile(t *testing.T) {
	have := files{"/run/pw": "hunter2\n", "box.conf": "MQTT_PASSWORD=lower"}
	e := mustLoad(t, nil, []string{"MQTT_PASSWORD_FILE=/run/pw"}, have)
	if e.MQTTPassword.Reveal() != "hunter2" || e.source["MQTT_PASSWORD"] != "/run/pw" {
		t.Errorf("%q from %s", e.MQTTPassword.Reveal(), e.source["MQTT_PASSWORD"])
	}
	// A higher layer wins, whichever form it has.
	if e := mustLoad(t, []string{"--config=box.conf"}, []string{"MQTT_PASSWORD_FILE=/run/pw"}, have); e.MQTTPassword.Reveal() != "hunter2" {
		t.Errorf("got %q", e.MQTTPassword.Reveal())
	}
	if e := mustLoad(t, []string{"--mqtt-password=flag"}, []string{"MQTT_PASSWORD_FILE=/run/pw"}, have); e.MQTTPassword.Reveal() != "flag" {
		t.Errorf("got %q", e.MQTTPassword.Reveal())
	}
	for _, environ := range [][]string{{"MQTT_PASSWORD_FILE=/missing"}, {"MQTT_PASSWORD_FILE=/run/pw", "MQTT_PASSWORD=x"}} {
		if _, err := load(t, nil, environ, have); err == nil || !strings.Contains(err.Error(), "MQTT_PASSWORD") {
			t.Errorf("%q: %v", environ, err)
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	denied := func(path string) ([]byte, error) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	if _, err := Load(Sources{ReadFile: denied}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("unreadable .env: %v", err)
	}
	if _, err := load(t, []string{"--config=missing.conf"}, nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing settings file: %v", err)
	}
}

func TestCheckedTogether(t *testing.T) {
	f := func(environ string, mistaken ...string) {
		t.Helper()
		_, err := load(t, nil, strings.Fields(environ), files{"bad.pem": "not PEM", "cert.pem": "x", "key.pem": "y"})
		var got []string
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				name, _, _ := strings.Cut(line, ":")
				got = append(got, name)
			}
		}
		if diff := cmp.Diff(mistaken, got); diff != "" {
			t.Errorf("%s: %v\n%s", environ, err, diff)
		}
	}
	f("")

	// Exposure without authentication. Of what people reach, only the database
	// can tell whether there is any: TestExposed.
	f("HOST=0.0.0.0 INTERNAL_LISTEN=:3103")
	f("MQTT_LISTEN=[::]:1883 MQTT_AUTH=off", "MQTT_LISTEN")
	f("MQTT_LISTEN=[::]:1883 MQTT_AUTH=off ALLOW_INSECURE=true")
	f("MQTT_LISTEN=[::]:1883")
	f("MQTT_LISTEN=0.0.0.0:1883 MQTT_AUTH=secret")
	f("MQTT_AUTH=password", "MQTT_AUTH")
	f("MQTT_LISTEN=localhost:1883 MQTT_AUTH=off")
	f("HOST=", "HOST")

	// Login.
	const oidc = "OIDC_ENABLED=true OIDC_ISSUER_URL=https://i OIDC_CLIENT_ID=c OIDC_CLIENT_SECRET=s "
	f(oidc)
	f("OIDC_ENABLED=true", "OIDC_ISSUER_URL", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET")
	f("OIDC_ISSUER_URL=https://i")
	f(oidc+"OIDC_ISSUER_URL=i", "OIDC_ISSUER_URL")
	for _, text := range []string{"", "yes", "rubbish"} { // who asks for authentication must not be served without
		f("OIDC_ENABLED="+text, "OIDC_ENABLED")
	}
	f("OIDC_COOKIE_NAME=", "OIDC_COOKIE_NAME")
	f("OIDC_COOKIE_NAME=a;b", "OIDC_COOKIE_NAME")
	f("OIDC_COOKIE_NAME=id_token OIDC_REFRESH_COOKIE_NAME=login_state", "OIDC_COOKIE_NAME", "OIDC_REFRESH_COOKIE_NAME")
	f("OIDC_COOKIE_NAME=a OIDC_REFRESH_COOKIE_NAME=a", "OIDC_REFRESH_COOKIE_NAME")
	f("OIDC_COOKIE_SAMESITE=Strict")
	f("OIDC_COOKIE_SAMESITE=none", "OIDC_COOKIE_SAMESITE")
	f("OIDC_COOKIE_SAMESITE=None OIDC_COOKIE_PARTITIONED=true", "OIDC_COOKIE_SAMESITE", "OIDC_COOKIE_PARTITIONED")
	f("OIDC_COOKIE_SAMESITE=None OIDC_COOKIE_SECURE=true")
	f("OIDC_COOKIE_SAMESITE=None OIDC_COOKIE_PARTITIONED=true BASEURL=https://b")
	f("OIDC_COOKIE_SAMESITE=None OIDC_COOKIE_SECURE=false BASEURL=https://b", "OIDC_COOKIE_SAMESITE")
	f("OIDC_COOKIE_SECURE=perhaps", "OIDC_COOKIE_SECURE")
	f("OIDC_CLOCK_SKEW_SECONDS=0")
	f("OIDC_CLOCK_SKEW_SECONDS=601", "OIDC_CLOCK_SKEW_SECONDS")
	f("SESSION_IDLE=31d", "SESSION_IDLE")
	f("SESSION_IDLE=1h SESSION_MAX=1h")
	f("SESSION_MAX=59s", "SESSION_MAX")
	f("AUDIT_MAX_AGE=0")
	f("AUDIT_MAX_AGE=1h", "AUDIT_MAX_AGE")
	f(`TRUSTED_PROXIES=["10.1.2.3/8","fd00::1"]`)
	f(`TRUSTED_PROXIES=["proxy"]`, "TRUSTED_PROXIES")
	f("TRUSTED_PROXIES=10.0.0.0/8", "TRUSTED_PROXIES")

	// Listeners.
	f("MQTT_LISTEN=127.0.0.1:3101", "MQTT_LISTEN")
	f("MQTT_LISTEN=127.0.0.1:3103", "MQTT_LISTEN")
	f("PORT=0 MQTT_LISTEN=127.0.0.1:0 INTERNAL_LISTEN=127.0.0.1:0")
	f("INTERNAL_LISTEN=127.0.0.1:65536", "INTERNAL_LISTEN")
	f("PORT=65535")
	f("PORT=65536", "PORT")
	f("PORT=-1", "PORT")

	// TLS.
	f("TLS_CERT=cert.pem", "TLS_KEY")
	f("TLS_KEY=key.pem", "TLS_CERT")
	f("TLS_CERT=missing TLS_KEY=missing2", "TLS_CERT", "TLS_KEY")
	f("TLS_CERT=cert.pem TLS_KEY=key.pem", "TLS_CERT")
	f("MQTT_TLS_CERT=cert.pem", "MQTT_TLS_KEY")
	f("MQTT_TLS_CERT=cert.pem MQTT_TLS_KEY=key.pem", "MQTT_TLS_CERT")

	// MQTT.
	f("MQTT_URL=mqtt://broker")
	f("MQTT_URL=wss://broker/mqtt")
	f("MQTT_URL=http://broker", "MQTT_URL")
	f("MQTT_URL=mqtt://", "MQTT_URL")
	f("MQTT_URL=broker:1883", "MQTT_URL")
	f("MQTT_URL=mqtt://broker MQTT_CA_FILE=bad.pem", "MQTT_CA_FILE")
	f("MQTT_URL=mqtts://broker MQTT_CA_FILE=missing", "MQTT_CA_FILE")
	f("MQTT_URL=mqtts://broker MQTT_CA_FILE=bad.pem", "MQTT_CA_FILE")
	f("LOGSINK_TOPIC=a/+/b", "LOGSINK_TOPIC")
	f("LOGSINK_TOPIC=a/#", "LOGSINK_TOPIC")
	f("LOGSINK_TOPIC=/a", "LOGSINK_TOPIC")
	f("LOGSINK_TOPIC=", "LOGSINK_TOPIC")

	// Elasticsearch.
	f("ELASTICSEARCH_URL=https://es:9200/prefix/?a=b ELASTICSEARCH_USERNAME=u ELASTICSEARCH_PASSWORD=p")
	f("ELASTICSEARCH_URL=http://u:p@es")
	f("ELASTICSEARCH_URL=es:9200", "ELASTICSEARCH_URL")
	f("ELASTICSEARCH_URL=ftp://es", "ELASTICSEARCH_URL")
	f("ELASTICSEARCH_URL=http://", "ELASTICSEARCH_URL")
	f("ELASTICSEARCH_URL=http://es#x", "ELASTICSEARCH_URL")
	f("ELASTICSEARCH_PASSWORD=p", "ELASTICSEARCH_USERNAME")
	f("LOGS_HISTORY=elasticsearch", "ELASTICSEARCH_URL")
	f("LOGS_HISTORY=elasticsearch ELASTICSEARCH_URL=ftp://es", "ELASTICSEARCH_URL")
	f("LOGS_HISTORY=elasticsearch ELASTICSEARCH_URL=http://es")
	f("ELASTICSEARCH_INDEX_PREFIX=logs.fleet_1-")
	for _, prefix := range []string{"", "Logs-", "-logs", "_logs", "logs*", "a/b", "a,b", "a:b", strings.Repeat("a", 201)} {
		f("ELASTICSEARCH_INDEX_PREFIX="+prefix, "ELASTICSEARCH_INDEX_PREFIX")
	}
	f("ELASTICSEARCH_INDEX_PREFIX=" + strings.Repeat("a", 200))
	f("ELASTICSEARCH_INDEX_PATTERN=old-*,logstash-http-*")
	for _, pattern := range []string{"", "a/b", "a?", "_all", "a#b"} {
		f("ELASTICSEARCH_INDEX_PATTERN="+pattern, "ELASTICSEARCH_INDEX_PATTERN")
	}

	// Bounds, on both sides.
	f("SSE_HEARTBEAT_INTERVAL=1")
	f("SSE_HEARTBEAT_INTERVAL=999ms", "SSE_HEARTBEAT_INTERVAL")
	f("SSE_HEARTBEAT_INTERVAL=1h")
	f("SSE_HEARTBEAT_INTERVAL=3601", "SSE_HEARTBEAT_INTERVAL")
	f("JOURNAL_MAX_AGE=0 DEVICE_LOG_RATE=0 MAX_STREAMS_PER_SUBJECT=0")
	f("JOURNAL_MAX_AGE=1ms", "JOURNAL_MAX_AGE")
	f("JOURNAL_MAX_BYTES=0", "JOURNAL_MAX_BYTES")
	f("JOURNAL_SYNC=0", "JOURNAL_SYNC")
	f("JOURNAL_SYNC=always")
	f("SECRET_KEY=123456789012345", "SECRET_KEY")
	f("SECRET_KEY=1234567890123456")
	f("LOGSINK_ENTITY_FIELD=", "LOGSINK_ENTITY_FIELD")
	f("DATA_DIR=", "DATA_DIR")
	f("BASEURL=example.org", "BASEURL")
	f("FRONTEND_VERSION_URL=ftp://x/y", "FRONTEND_VERSION_URL")
	f("CORS_ORIGINS=*", "CORS_ORIGINS")
	f(`CORS_ORIGINS=["*"]`, "CORS_ORIGINS")
	f("DEVICE_LOG_BYTES_RATE=1 DEVICE_LOG_LINES_PER_DAY=1 DEVICE_LOG_BYTES_PER_DAY=1")
	f("DEVICE_LOG_BYTES_RATE=1TiB DEVICE_LOG_LINES_PER_DAY=2000000000 DEVICE_LOG_BYTES_PER_DAY=1024TiB")
	f("DEVICE_LOG_BYTES_RATE=2TiB DEVICE_LOG_LINES_PER_DAY=2000000001 DEVICE_LOG_BYTES_PER_DAY=1025TiB",
		"DEVICE_LOG_BYTES_RATE", "DEVICE_LOG_LINES_PER_DAY", "DEVICE_LOG_BYTES_PER_DAY")
	f("DEVICE_LOG_BYTES_RATE=-1 DEVICE_LOG_LINES_PER_DAY=-1", "DEVICE_LOG_BYTES_RATE", "DEVICE_LOG_LINES_PER_DAY")
	f(`LOG_REDACT=off LOG_REDACT_PATTERNS=["a+"]`)
	f(`LOG_REDACT=no LOG_REDACT_PATTERNS=["("]`, "LOG_REDACT", "LOG_REDACT_PATTERNS")
	f(`DEVICE_LOG_QUOTAS={"m":{"burst":-1}} PORT=-1`, "PORT", "DEVICE_LOG_QUOTAS")

	// Keycloak: all of it, or none.
	f("OIDC_TOKEN_URL=https://k/token")
	f("OIDC_TOKEN_URL=k/token", "OIDC_TOKEN_URL")
	f("KEYCLOAK_DEVICE_SCOPE_NAME=x")
	f("KEYCLOAK_BASE_URL=https://k/ KEYCLOAK_REALM=r KEYCLOAK_ADMIN_CLIENT_ID=c KEYCLOAK_ADMIN_CLIENT_SECRET=s OIDC_TOKEN_URL=https://k/token")
	f("KEYCLOAK_BASE_URL=https://k KEYCLOAK_REALM=r KEYCLOAK_ADMIN_CLIENT_ID=c KEYCLOAK_ADMIN_CLIENT_SECRET=s", "OIDC_TOKEN_URL")
	f("KEYCLOAK_REALM=r OIDC_TOKEN_URL=https://k/token", "KEYCLOAK_BASE_URL", "KEYCLOAK_ADMIN_CLIENT_ID", "KEYCLOAK_ADMIN_CLIENT_SECRET")
	f("KEYCLOAK_ADMIN_CLIENT_SECRET=s", "KEYCLOAK_BASE_URL", "KEYCLOAK_REALM", "KEYCLOAK_ADMIN_CLIENT_ID", "OIDC_TOKEN_URL")
	f("KEYCLOAK_BASE_URL=ftp://k KEYCLOAK_REALM=r KEYCLOAK_ADMIN_CLIENT_ID=c KEYCLOAK_ADMIN_CLIENT_SECRET=s OIDC_TOKEN_URL=https://k/token", "KEYCLOAK_BASE_URL")
}

func TestDerived(t *testing.T) {
	e := mustLoad(t, nil, strings.Fields("DATABASE_URL=postgresql+psycopg://u:p@h:5432/d MQTT_USERNAME=bob DEVICE_LOG_RATE=5 BASEURL=https://x.org/ CORS_ORIGINS=[]"), nil)
	if got := e.DatabaseURL.Reveal(); got != "postgresql://u:p@h:5432/d" {
		t.Errorf("DATABASE_URL %s", got)
	}
	if e.MQTTClientID != "bob" || e.DeviceLogBurst != 50 || e.BaseURL != "https://x.org" || len(e.CORSOrigins) != 0 {
		t.Errorf("%+v", e.Config)
	}
}

func TestPrintHidesSecrets(t *testing.T) {
	e := mustLoad(t, []string{"--drain-auth-key=hunter2"},
		strings.Fields("MQTT_PASSWORD=hunter2 OIDC_CLIENT_SECRET=hunter2 SECRET_KEY=hunter2hunter2hunter2 DATABASE_URL=postgres://u:hunter2@h/d?sslpassword=hunter2 MQTT_URL=mqtt://u:hunter2@broker"), nil)
	var b bytes.Buffer
	if err := e.Print(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if len(lines) != 1+len(settings())+1 {
		t.Errorf("%d lines", len(lines))
	}
	row := func(name, value, source string) {
		t.Helper()
		for _, line := range lines {
			if f := strings.Fields(line); len(f) >= 3 && f[0] == name {
				if f[1] != value || strings.Join(f[2:], " ") != source {
					t.Errorf("%s", line)
				}
				return
			}
		}
		t.Errorf("no row %s", name)
	}
	row("PORT", "3101", "default")
	row("JOURNAL_MAX_AGE", "7d", "default")
	row("DRAIN_AUTH_KEY", "(hidden)", "flag --drain-auth-key")
	row("DATABASE_URL", "postgres://u:(hidden)@h/d?sslpassword=(hidden)", "environment")
	row("MQTT_URL", "mqtt://u:(hidden)@broker", "environment")

	// No way of printing or logging a Config shows a secret.
	fmt.Fprintf(&b, "%v %+v %#v", e, e.Config, e.Config)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("settings", "config", e.Config)
	slog.New(slog.NewTextHandler(&b, nil)).Info("settings", "password", e.MQTTPassword)
	if strings.Contains(b.String(), "hunter2") {
		t.Error(b.String())
	}
}

// Every declaration is complete, its flag is its name in kebab case, and kong
// offers exactly these flags.
func TestDeclarations(t *testing.T) {
	parser, err := kong.New(new(Flags), AsText())
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string]*kong.Flag{}
	for _, f := range parser.Model.Flags {
		flags[f.Name] = f
	}
	delete(flags, "help")
	delete(flags, "config")
	for _, s := range settings() {
		f, ok := flags[s.flag]
		if !ok {
			t.Errorf("%s: no flag --%s", s.name, s.flag)
			continue
		}
		if delete(flags, s.flag); settingOf(f) != s.name {
			t.Errorf("--%s is for %v, want %s", s.flag, f.Envs, s.name)
		}
		if s.flag != strings.ToLower(strings.ReplaceAll(s.name, "_", "-")) {
			t.Errorf("%s: --%s is not its kebab case", s.name, s.flag)
		}
		if s.help == "" || s.group == "" || !strings.HasSuffix(s.help, ".") {
			t.Errorf("%s: help or group is missing", s.name)
		}
		for _, text := range []string{s.min, s.max} {
			if _, err := s.parse(text); text != "" && err != nil {
				t.Errorf("%s: bound %q: %v", s.name, text, err)
			}
		}
	}
	for name := range flags {
		t.Errorf("--%s is no setting", name)
	}
}

func TestSettingsDoc(t *testing.T) {
	const path = "../../docs/SETTINGS.md"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Markdown(), string(got)); diff != "" {
		t.Errorf("%s is stale, run go generate ./internal/config:\n%s", path, diff)
	}
}

// The README's short list must not tell other defaults.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| (`[A-Z_`, ]+`) \\| (.*?) ?\\|").FindAllStringSubmatch(string(readme), -1)
	if len(rows) < 5 {
		t.Fatalf("%d rows", len(rows))
	}
	defaults := map[string]string{}
	for _, s := range settings() {
		defaults[s.name] = s.initial
	}
	for _, row := range rows {
		var want []string
		for name := range strings.SplitSeq(row[1], ", ") {
			initial, ok := defaults[strings.Trim(name, "`")]
			if !ok {
				t.Errorf("%s is no setting", name)
			}
			if initial != "" {
				want = append(want, "`"+initial+"`")
			}
		}
		if row[2] != strings.Join(want, ", ") {
			t.Errorf("%s: default %s, want %s", row[1], row[2], strings.Join(want, ", "))
		}
	}
}

// Load accepts what os and testing/fstest call a file system.
func TestReadFileOfFS(t *testing.T) {
	fsys := fstest.MapFS{".env": {Data: []byte("PORT=7")}}
	e, err := Load(Sources{ReadFile: fsys.ReadFile})
	if err != nil || e.Port != 7 {
		t.Error(e, err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add("PORT=1\nexport HOST='127.0.0.1'\n# x")
	f.Add("MQTT_PASSWORD=\"\nDATABASE_URL=postgres://a:b@c\n=\nPORT")
	f.Fuzz(func(t *testing.T, content string) {
		e, err := Load(Sources{ReadFile: files{".env": content}.read})
		if err == nil && e == nil || err != nil && e != nil {
			t.Errorf("Load returned %v and %v", e, err)
		}
	})
}

func TestExposed(t *testing.T) {
	f := func(environ string, exposed ...string) {
		t.Helper()
		e := mustLoad(t, nil, strings.Fields(environ), nil)
		var got []string
		for _, err := range e.Exposed() {
			m, ok := errors.AsType[*Mistake](err)
			if !ok || !strings.Contains(m.Error(), "ALLOW_INSECURE") || strings.Contains(m.Error(), "()") {
				t.Fatal(err)
			}
			got = append(got, m.Setting)
		}
		if diff := cmp.Diff(exposed, got); diff != "" {
			t.Errorf("%s: %s", environ, diff)
		}
	}
	f("")
	f("HOST=::1 INTERNAL_LISTEN=[::1]:3103")
	f("HOST=::ffff:127.0.0.1 INTERNAL_LISTEN=")
	f("HOST=0.0.0.0 INTERNAL_LISTEN=:3103", "HOST", "INTERNAL_LISTEN")
	f("HOST=192.168.1.2", "HOST")
	f("HOST=localhost.example.org", "HOST")
	f("HOST=127.0.0.1.nip.io", "HOST")
}

func TestCookieSecure(t *testing.T) {
	f := func(environ string, want bool) {
		t.Helper()
		if e := mustLoad(t, nil, strings.Fields(environ), nil); e.CookieSecure() != want {
			t.Errorf("%s: %v", environ, !want)
		}
	}
	f("", false)
	f("BASEURL=https://b", true)
	f("BASEURL=https://b OIDC_COOKIE_SECURE=False", false)
	f("OIDC_COOKIE_SECURE=1", true)
}
