// Package config holds the settings of `signalbox serve`.
//
// Each setting is declared once, as a field of [Config] whose tags give its
// name, default, bounds and help. Everything else is derived from that one
// declaration: the flag, the environment variable, the key in a file, the
// checks, the output of --print-config and docs/SETTINGS.md.
//
// A setting's value comes from the highest of these layers that gives one:
// flag, environment, the file named by --config, the file .env in the working
// directory, default. [Load] is a function of its [Sources]: it does not look
// at the process it runs in.
package config

import (
	"cmp"
	"net"
	"path/filepath"
	"strconv"
)

//go:generate go run ./settingsdoc ../../docs/SETTINGS.md

// Config is the settings of `signalbox serve`, complete and checked: what Load
// returns needs no further defaults.
//
// Tags: `env` is the setting's name everywhere (its flag is the same in kebab
// case); `min` and `max` bound a value; `zero` says what 0 means where 0 is
// allowed below min; `oneof` lists the only words allowed.
type Config struct {
	DataDir     string    `env:"DATA_DIR" default:"./data" group:"Storage" placeholder:"DIR" help:"Directory for everything Signalbox keeps: the journal and, without DATABASE_URL, the database. Made when missing."`
	DatabaseURL SecretURL `env:"DATABASE_URL" group:"Storage" placeholder:"URL" help:"PostgreSQL, as postgres://user:password@host/name. Empty: SQLite in DATA_DIR/signalbox.db."`

	JournalMaxBytes ByteSize `env:"JOURNAL_MAX_BYTES" default:"4GiB" min:"64KiB" group:"Storage" placeholder:"SIZE" help:"Size of the journal on disk at which its oldest lines go first, once they are in the history and at ELASTICSEARCH_URL."`
	JournalMaxAge   Duration `env:"JOURNAL_MAX_AGE" default:"7d" min:"1s" zero:"no limit" group:"Storage" placeholder:"TIME" help:"Age at which lines leave the journal, once they are in the history and at ELASTICSEARCH_URL."`
	JournalSync     Sync     `env:"JOURNAL_SYNC" default:"10s" group:"Storage" placeholder:"TIME" help:"How often the journal is forced to disk (fsync). Only a power failure or a kernel crash can lose what was not; 'always' loses nothing and is slower."`

	JournalDiskBytes ByteSize `env:"JOURNAL_DISK_BYTES" default:"0" min:"64KiB" zero:"four times JOURNAL_MAX_BYTES" group:"Storage" placeholder:"SIZE" help:"Size of the journal at which even lines go that are not in the history yet, or not at ELASTICSEARCH_URL. Until then the journal keeps them whatever its other limits say."`

	LogsHistory      string        `env:"LOGS_HISTORY" default:"sql" oneof:"sql,elasticsearch,off" group:"History" help:"Where lines are kept and searched after the journal: sql, which is DATA_DIR/history.db or DATABASE_URL; elasticsearch, which is the copy at ELASTICSEARCH_URL, and the other settings of the history have no effect; or off."`
	HistoryMaxAge    Duration      `env:"HISTORY_MAX_AGE" default:"90d" min:"1m" zero:"no limit" group:"History" placeholder:"TIME" help:"Age at which lines are deleted from the history."`
	HistoryMaxBytes  ByteSize      `env:"HISTORY_MAX_BYTES" default:"20GiB" min:"1MiB" zero:"no limit" group:"History" placeholder:"SIZE" help:"Size of the history at which its oldest lines are deleted."`
	HistoryRetention HistoryLimits `env:"HISTORY_RETENTION" default:"{}" group:"History" placeholder:"JSON" help:"Limits of single device models beside the two above, by model code. What a model's limit leaves, the common ones still apply to."`
	HistorySealAge   Duration      `env:"HISTORY_SEAL_AGE" default:"5m" min:"1s" max:"1h" group:"History" placeholder:"TIME" help:"Longest time that a line waits in the journal and in memory before it is moved to the history. It can be read all the while."`

	Host           string `env:"HOST" default:"127.0.0.1" group:"Listeners" placeholder:"ADDRESS" help:"Address for the API and the event streams."`
	Port           int    `env:"PORT" default:"3101" min:"0" max:"65535" group:"Listeners" placeholder:"PORT" help:"Port for the API and the event streams. 0 takes a free one, named in the log."`
	InternalListen string `env:"INTERNAL_LISTEN" default:"127.0.0.1:3103" group:"Listeners" placeholder:"HOST:PORT" help:"Second listener for /internal, /metrics and /health. Empty: off."`
	MQTTListen     string `env:"MQTT_LISTEN" name:"mqtt-listen" default:"127.0.0.1:1883" group:"Listeners" placeholder:"HOST:PORT" help:"Listener of the built-in MQTT broker. Empty: off."`
	TLSCert        string `env:"TLS_CERT" name:"tls-cert" group:"Listeners" placeholder:"FILE" help:"Certificate chain (PEM) for HOST:PORT. Needs TLS_KEY. Empty: plain HTTP."`
	TLSKey         string `env:"TLS_KEY" name:"tls-key" group:"Listeners" placeholder:"FILE" help:"Private key (PEM) of TLS_CERT."`
	AllowInsecure  bool   `env:"ALLOW_INSECURE" default:"false" group:"Listeners" help:"Start although a listener can be reached from other machines and nobody has to log in."`

	MQTTURL      SecretURL `env:"MQTT_URL" name:"mqtt-url" group:"MQTT" placeholder:"URL" help:"External broker to take log lines from, as mqtt://host:1883, mqtts://host:8883, ws://host/path or wss://host/path. Works beside the built-in one. Empty: off."`
	MQTTUsername string    `env:"MQTT_USERNAME" name:"mqtt-username" group:"MQTT" placeholder:"NAME" help:"User name at MQTT_URL."`
	MQTTPassword Secret    `env:"MQTT_PASSWORD" name:"mqtt-password" group:"MQTT" placeholder:"SECRET" help:"Password at MQTT_URL."`
	MQTTClientID string    `env:"MQTT_CLIENT_ID" name:"mqtt-client-id" group:"MQTT" placeholder:"ID" help:"Client id at MQTT_URL. Empty: MQTT_USERNAME, or iotsupport-backend without one."`
	MQTTCAFile   string    `env:"MQTT_CA_FILE" name:"mqtt-ca-file" group:"MQTT" placeholder:"FILE" help:"Certificates (PEM) to trust at an mqtts:// or wss:// MQTT_URL. Empty: those of the system."`

	MQTTAuth               string `env:"MQTT_AUTH" name:"mqtt-auth" default:"auto" oneof:"auto,off,token,secret" group:"MQTT" placeholder:"MODE" help:"What a device must have at MQTT_LISTEN. off: nothing, everybody may write every log. token: its client id as MQTT client id and user name, and its access token as password. secret: as token, and its client secret is taken as well. auto: token, but off while people need no login either and MQTT_LISTEN is on loopback."`
	MQTTSharedLogTopic     string `env:"MQTT_SHARED_LOG_TOPIC" name:"mqtt-shared-log-topic" default:"auto" oneof:"auto,on,off" group:"MQTT" placeholder:"auto|on|off" help:"Whether a device may publish to LOGSINK_TOPIC itself at MQTT_LISTEN, where a line says which device it is from, and may say what is not so. auto: only with MQTT_AUTH=off."`
	MQTTDisconnectOnExpiry bool   `env:"MQTT_DISCONNECT_ON_EXPIRY" name:"mqtt-disconnect-on-expiry" default:"false" group:"MQTT" help:"Close a connection at MQTT_LISTEN when the token expires that it was opened with. Otherwise it stays until the device is revoked or deleted."`
	MQTTTLSCert            string `env:"MQTT_TLS_CERT" name:"mqtt-tls-cert" group:"MQTT" placeholder:"FILE" help:"Certificate chain (PEM) for MQTT_LISTEN. Needs MQTT_TLS_KEY. Empty: MQTT without TLS."`
	MQTTTLSKey             string `env:"MQTT_TLS_KEY" name:"mqtt-tls-key" group:"MQTT" placeholder:"FILE" help:"Private key (PEM) of MQTT_TLS_CERT."`

	LogsinkTopic       string `env:"LOGSINK_TOPIC" default:"iotsupport/logsink" group:"Log lines" placeholder:"TOPIC" help:"MQTT topic of the log lines: one shared by all devices, and below it one for each client id."`
	LogsinkEntityField string `env:"LOGSINK_ENTITY_FIELD" default:"entity_id" group:"Log lines" placeholder:"FIELD" help:"Field of a line on the shared topic that says which device it is from."`
	DeviceLogRate      int    `env:"DEVICE_LOG_RATE" default:"0" min:"0" max:"1000000" zero:"unlimited" group:"Log lines" placeholder:"N" help:"Lines per second that one device may send for long. What is over is cut off, and the cut is told in its log."`
	DeviceLogBurst     int    `env:"DEVICE_LOG_BURST" default:"0" min:"0" max:"100000000" zero:"ten seconds of DEVICE_LOG_RATE" group:"Log lines" placeholder:"N" help:"Lines that one device may send at once before DEVICE_LOG_RATE holds."`

	DeviceLogBytesRate   ByteSize `env:"DEVICE_LOG_BYTES_RATE" default:"0" min:"1" max:"1TiB" zero:"unlimited" group:"Log lines" placeholder:"SIZE" help:"Bytes of lines, as they are journalled, per second that one device may send for long, and ten seconds of it at once."`
	DeviceLogLinesPerDay int      `env:"DEVICE_LOG_LINES_PER_DAY" default:"0" min:"0" max:"2000000000" zero:"unlimited" group:"Log lines" placeholder:"N" help:"Lines that one device may send in a day. What it has used comes back evenly over 24 hours."`
	DeviceLogBytesPerDay ByteSize `env:"DEVICE_LOG_BYTES_PER_DAY" default:"0" min:"1" max:"1024TiB" zero:"unlimited" group:"Log lines" placeholder:"SIZE" help:"Bytes of lines, as they are journalled, that one device may send in a day. What it has used comes back evenly over 24 hours."`
	DeviceLogQuotas      Quotas   `env:"DEVICE_LOG_QUOTAS" default:"{}" group:"Log lines" placeholder:"JSON" help:"Other limits for the devices of some models, by the model's code. What is not named is as for all; 0 is unlimited."`

	LogRedact         string   `env:"LOG_REDACT" default:"on" oneof:"on,off" group:"Log lines" placeholder:"on|off" help:"Whether secrets that devices log are replaced before anything is kept or shown: bearer tokens, passwords in URLs, Wi-Fi keys, and JSON fields named like secrets. LOG_REDACT_PATTERNS holds in any case."`
	LogRedactPatterns Patterns `env:"LOG_REDACT_PATTERNS" default:"[]" group:"Log lines" placeholder:"JSON" help:"Your own patterns of secrets, as a JSON list of regular expressions (RE2). If one has a group, only what its first group matches is replaced. Each is tried on every text that a device logs."`

	ElasticsearchURL          SecretURL `env:"ELASTICSEARCH_URL" group:"Elasticsearch" placeholder:"URL" help:"Elasticsearch, OpenSearch or what speaks their protocol, which gets a copy of every line, as https://host:9200; a path and a query are kept. Empty: off."`
	ElasticsearchUsername     string    `env:"ELASTICSEARCH_USERNAME" group:"Elasticsearch" placeholder:"NAME" help:"User name at ELASTICSEARCH_URL."`
	ElasticsearchPassword     Secret    `env:"ELASTICSEARCH_PASSWORD" group:"Elasticsearch" placeholder:"SECRET" help:"Password at ELASTICSEARCH_URL."`
	ElasticsearchIndexPrefix  string    `env:"ELASTICSEARCH_INDEX_PREFIX" default:"logstash-http-" group:"Elasticsearch" placeholder:"TEXT" help:"Beginning of the name of the index for the lines of a day; YYYY.MM.DD in UTC follows."`
	ElasticsearchIndexPattern string    `env:"ELASTICSEARCH_INDEX_PATTERN" default:"logstash-http-*" group:"Elasticsearch" placeholder:"PATTERN" help:"Names of the indices that lines are read from."`

	SSEHeartbeatInterval      Duration `env:"SSE_HEARTBEAT_INTERVAL" name:"sse-heartbeat-interval" default:"15s" min:"1s" max:"1h" group:"Streams" placeholder:"TIME" help:"Time between heartbeats on an event stream that has nothing else to say."`
	StreamBufferBytes         ByteSize `env:"STREAM_BUFFER_BYTES" default:"1MiB" min:"64KiB" max:"1GiB" group:"Streams" placeholder:"SIZE" help:"What may wait in memory for one slow reader before it has to read from the journal instead."`
	StreamWriteTimeout        Duration `env:"STREAM_WRITE_TIMEOUT" default:"10s" min:"100ms" max:"10m" group:"Streams" placeholder:"TIME" help:"A reader that takes nothing for this long is disconnected."`
	MaxStreams                int      `env:"MAX_STREAMS" default:"20000" min:"1" max:"10000000" group:"Streams" placeholder:"N" help:"Event streams open at once."`
	MaxStreamsPerSubject      int      `env:"MAX_STREAMS_PER_SUBJECT" default:"0" min:"0" max:"10000000" zero:"unlimited" group:"Streams" placeholder:"N" help:"Event streams open at once for one user. Without authentication everybody is one user."`
	MaxSubscriptionsPerStream int      `env:"MAX_SUBSCRIPTIONS_PER_STREAM" default:"1000" min:"1" max:"1000000" group:"Streams" placeholder:"N" help:"Devices that one event stream may follow."`
	StreamMaxRate             int      `env:"STREAM_MAX_RATE" default:"5000" min:"1" max:"10000000" zero:"unlimited" group:"Streams" placeholder:"N" help:"Lines per second that one event stream gets of the sets of devices it follows. What is over is told as a gap."`

	SSEGatewayURL      string    `env:"SSE_GATEWAY_URL" name:"sse-gateway-url" group:"SSE gateway" placeholder:"URL,..." help:"SSE gateways that hold event streams for this Signalbox, as http://gateway:3000, separated by commas. Streams can be opened here as well. Empty: none."`
	SSECallbackSecret  Secret    `env:"SSE_CALLBACK_SECRET" name:"sse-callback-secret" group:"SSE gateway" placeholder:"SECRET" help:"What the gateways prove themselves with at /api/sse/callback: as a bearer token, or as ?secret=. Needed with SSE_GATEWAY_URL."`
	SSEGatewaySecret   Secret    `env:"SSE_GATEWAY_SECRET" name:"sse-gateway-secret" group:"SSE gateway" placeholder:"SECRET" help:"Bearer token for the gateways' /internal/send: their GATEWAY_SECRET. Empty: none."`
	SSEGatewayMaxBody  ByteSize  `env:"SSE_GATEWAY_MAX_BODY" name:"sse-gateway-max-body" default:"96000" min:"16KiB" max:"1GiB" group:"SSE gateway" placeholder:"SIZE" help:"Largest body that the gateways take. Longer batches of lines are sent in pieces."`
	RabbitMQURL        SecretURL `env:"RABBITMQ_URL" name:"rabbitmq-url" group:"SSE gateway" placeholder:"URL" help:"RabbitMQ over which the gateways get their events, as amqp://user:password@host:5672/vhost. Empty: they are sent to SSE_GATEWAY_URL."`
	RabbitMQPrefix     string    `env:"RABBITMQ_ENV_PREFIX" name:"rabbitmq-env-prefix" group:"SSE gateway" placeholder:"TEXT" help:"Put in front of the name of the exchange at RABBITMQ_URL, with a dot, as at the gateways."`
	RabbitMQAutoDelete bool      `env:"RABBITMQ_ENV_AUTO_DELETE" name:"rabbitmq-env-auto-delete" default:"false" group:"SSE gateway" help:"The exchange at RABBITMQ_URL is neither durable nor kept when nothing is bound to it, as at the gateways."`

	BaseURL            string  `env:"BASEURL" name:"baseurl" group:"Web" placeholder:"URL" help:"Address under which people reach Signalbox, for links and for the way back from a login. Empty: made of HOST and PORT."`
	CORSOrigins        Origins `env:"CORS_ORIGINS" name:"cors-origins" default:"[\"http://localhost:3100\"]" group:"Web" placeholder:"JSON" help:"Web pages of other origins that may call the API, as a JSON list."`
	FrontendVersionURL string  `env:"FRONTEND_VERSION_URL" group:"Web" placeholder:"URL" help:"Where the version of a separately deployed web page is read, to tell open pages of a new one. Empty: Signalbox's own version."`

	OIDCEnabled           bool     `env:"OIDC_ENABLED" name:"oidc-enabled" default:"false" group:"Login" help:"Have people log in at the OpenID provider OIDC_ISSUER_URL. false: those with an account of Signalbox log in here, and while nobody has one, there is no login."`
	OIDCIssuerURL         string   `env:"OIDC_ISSUER_URL" name:"oidc-issuer-url" group:"Login" placeholder:"URL" help:"The provider, as https://keycloak.example.org/realms/iot; its configuration is read below that."`
	OIDCClientID          string   `env:"OIDC_CLIENT_ID" name:"oidc-client-id" group:"Login" placeholder:"ID" help:"Signalbox's client id at the provider. Its redirect URI there is BASEURL/api/auth/callback."`
	OIDCClientSecret      Secret   `env:"OIDC_CLIENT_SECRET" name:"oidc-client-secret" group:"Login" placeholder:"SECRET" help:"Secret of OIDC_CLIENT_ID."`
	OIDCScopes            string   `env:"OIDC_SCOPES" name:"oidc-scopes" default:"openid profile email" group:"Login" placeholder:"TEXT" help:"Scopes to ask for, separated by spaces. openid is always among them."`
	OIDCAudience          string   `env:"OIDC_AUDIENCE" name:"oidc-audience" group:"Login" placeholder:"TEXT" help:"Audience that access tokens must be for, and client whose roles count. Empty: OIDC_CLIENT_ID."`
	OIDCClockSkew         Duration `env:"OIDC_CLOCK_SKEW_SECONDS" name:"oidc-clock-skew-seconds" default:"30s" min:"0s" max:"10m" group:"Login" placeholder:"TIME" help:"By how much the provider's clock may differ."`
	OIDCCookieName        string   `env:"OIDC_COOKIE_NAME" name:"oidc-cookie-name" default:"access_token" group:"Login" placeholder:"NAME" help:"Cookie with the access token, or with the session of somebody with an account of Signalbox."`
	OIDCRefreshCookieName string   `env:"OIDC_REFRESH_COOKIE_NAME" name:"oidc-refresh-cookie-name" default:"refresh_token" group:"Login" placeholder:"NAME" help:"Cookie with the refresh token, encrypted."`
	OIDCCookieSecure      Auto     `env:"OIDC_COOKIE_SECURE" name:"oidc-cookie-secure" default:"auto" group:"Login" placeholder:"true|false|auto" help:"Whether browsers send the cookies over https only. auto: if BASEURL starts with https://."`
	OIDCCookieSameSite    string   `env:"OIDC_COOKIE_SAMESITE" name:"oidc-cookie-samesite" default:"Lax" oneof:"Lax,Strict,None" group:"Login" placeholder:"WORD" help:"Which pages of other sites make browsers send the cookies. None needs secure cookies; requests of other sites that change something are refused in any case."`
	OIDCCookiePartitioned bool     `env:"OIDC_COOKIE_PARTITIONED" name:"oidc-cookie-partitioned" default:"false" group:"Login" help:"Keep the cookies apart by the site that Signalbox is embedded in (CHIPS). Needs secure cookies."`
	SessionIdle           Duration `env:"SESSION_IDLE" default:"24h" min:"1m" max:"366d" group:"Login" placeholder:"TIME" help:"A session of somebody with an account of Signalbox ends when it is not used for so long."`
	SessionMax            Duration `env:"SESSION_MAX" default:"30d" min:"1m" max:"366d" group:"Login" placeholder:"TIME" help:"It ends after so long in any case. With OIDC_ENABLED: how long a browser keeps a refresh token that does not say when it ends."`
	TrustedProxies        Networks `env:"TRUSTED_PROXIES" default:"[\"127.0.0.0/8\",\"::1/128\"]" group:"Login" placeholder:"JSON" help:"Reverse proxies, as a JSON list of networks: what they say in X-Forwarded-For is where a request comes from, for the audit and against guessing."`
	AuditMaxAge           Duration `env:"AUDIT_MAX_AGE" default:"400d" min:"1d" zero:"no limit" group:"Login" placeholder:"TIME" help:"Age at which the record of who did what is deleted."`

	DeviceBaseURL        string   `env:"DEVICE_BASEURL" name:"device-baseurl" group:"Devices" placeholder:"URL" help:"Address under which devices reach the API. Empty: BASEURL."`
	DeviceMQTTURL        string   `env:"DEVICE_MQTT_URL" name:"device-mqtt-url" group:"Devices" placeholder:"URL" help:"Broker that devices connect to, as mqtt://host:1883. Empty: MQTT_URL without user name and password, or else the built-in broker at the host of DEVICE_BASEURL."`
	WiFiSSID             string   `env:"WIFI_SSID" name:"wifi-ssid" group:"Devices" placeholder:"TEXT" help:"Network that devices are provisioned with."`
	WiFiPassword         Secret   `env:"WIFI_PASSWORD" name:"wifi-password" group:"Devices" placeholder:"SECRET" help:"Password of WIFI_SSID."`
	RotationCron         string   `env:"ROTATION_CRON" group:"Rotation" placeholder:"CRON" help:"When the credentials of all active devices are rotated, as minute, hour, day of the month, month, day of the week: 0 8 * * 6#1 is the first Saturday of each month at 8. Empty: only when asked."`
	RotationTimezone     string   `env:"ROTATION_TIMEZONE" default:"UTC" group:"Rotation" placeholder:"ZONE" help:"Time zone of ROTATION_CRON, as Europe/Berlin."`
	RotationTimeout      Duration `env:"ROTATION_TIMEOUT_SECONDS" name:"rotation-timeout-seconds" default:"300s" min:"5s" max:"7d" group:"Rotation" placeholder:"TIME" help:"Time that a device has to fetch and use its new secret. Its old one stays good when it does not."`
	RotationInFlight     int      `env:"ROTATION_IN_FLIGHT" default:"1" min:"1" max:"1000" group:"Rotation" placeholder:"N" help:"Devices that are rotated at once: that have a new secret and did not use it so far, or were told of one a moment ago. Those of campaigns do not count, which have a number of their own."`
	RotationSilentAfter  Duration `env:"ROTATION_SILENT_AFTER" default:"20s" min:"1s" max:"7d" group:"Rotation" placeholder:"TIME" help:"Time after which a device that was told of its new secret, and does not come for it, no longer counts as one of ROTATION_IN_FLIGHT. It may still come."`
	RotationRetryAfter   Duration `env:"ROTATION_RETRY_AFTER" default:"10m" min:"1s" max:"7d" group:"Rotation" placeholder:"TIME" help:"Wait before a rotation that timed out is tried again; twice as long after each more, and a day at most."`
	RotationTries        int      `env:"ROTATION_TRIES" default:"3" min:"1" max:"100" group:"Rotation" placeholder:"N" help:"Rotations of a device that may time out in a row. Then it waits for a person."`
	RotationTurn         Duration `env:"ROTATION_TURN" default:"10m" min:"1m" max:"7d" group:"Rotation" placeholder:"TIME" help:"With Keycloak, which holds one secret at a time: for how long it holds the new one, and then the old one, until the device has used one of them."`
	RotationCriticalDays int      `env:"ROTATION_CRITICAL_THRESHOLD_DAYS" name:"rotation-critical-threshold-days" default:"7" min:"1" max:"36500" group:"Rotation" placeholder:"DAYS" help:"Days since its last rotation after which a device whose rotation timed out counts as critical."`
	InternalAPIURL       string   `env:"INTERNAL_API_URL" name:"internal-api-url" group:"Rotation" placeholder:"URL" help:"Internal listener of the running Signalbox, which signalbox rotation-job tells that something changed."`
	InternalAPIToken     Secret   `env:"INTERNAL_API_TOKEN" name:"internal-api-token" group:"Rotation" placeholder:"SECRET" help:"Bearer token that INTERNAL_LISTEN asks for at /internal. Empty: none."`

	PresenceWindow  Duration `env:"PRESENCE_WINDOW" default:"5m" min:"30s" max:"7d" group:"Devices" placeholder:"TIME" help:"For how long a device without a session at the built-in broker counts as online after it sent a line or got a token. Longer than the time between its lines."`
	PresenceHistory Duration `env:"PRESENCE_HISTORY" default:"30d" min:"1h" max:"3660d" group:"Devices" placeholder:"TIME" help:"Age at which it is forgotten when devices came and went; of one device the last 1000 times are kept at most."`

	DeviceTokenLifetime       Duration `env:"DEVICE_TOKEN_LIFETIME" default:"5m" min:"30s" max:"24h" group:"Devices" placeholder:"TIME" help:"How long an access token that Signalbox gives to a device is good."`
	OIDCTokenURL              string   `env:"OIDC_TOKEN_URL" name:"oidc-token-url" group:"Devices" placeholder:"URL" help:"Where devices get their access tokens. With KEYCLOAK_BASE_URL it is the token endpoint of the realm. Empty: Signalbox's own."`
	KeycloakBaseURL           string   `env:"KEYCLOAK_BASE_URL" name:"keycloak-base-url" group:"Devices" placeholder:"URL" help:"Keycloak that holds the OAuth2 clients of devices, as https://keycloak.example.org. Needs the other KEYCLOAK settings and OIDC_TOKEN_URL. Empty: Signalbox issues the tokens itself."`
	KeycloakRealm             string   `env:"KEYCLOAK_REALM" group:"Devices" placeholder:"NAME" help:"Realm of KEYCLOAK_BASE_URL."`
	KeycloakAdminClientID     string   `env:"KEYCLOAK_ADMIN_CLIENT_ID" name:"keycloak-admin-client-id" group:"Devices" placeholder:"ID" help:"Client of the realm that may manage its clients, by its service account."`
	KeycloakAdminClientSecret Secret   `env:"KEYCLOAK_ADMIN_CLIENT_SECRET" name:"keycloak-admin-client-secret" group:"Devices" placeholder:"SECRET" help:"Secret of KEYCLOAK_ADMIN_CLIENT_ID."`
	KeycloakDeviceScopeName   string   `env:"KEYCLOAK_DEVICE_SCOPE_NAME" default:"iot-device-audience" group:"Devices" placeholder:"NAME" help:"Client scope of the realm that puts Signalbox's audience into the tokens of devices."`

	SecretKey               Secret   `env:"SECRET_KEY" group:"Running" placeholder:"SECRET" help:"Key for what Signalbox signs and encrypts, the same in every process with one DATABASE_URL; at least 16 characters. Empty: one that is made once and kept in DATA_DIR/secret.key."`
	DrainAuthKey            Secret   `env:"DRAIN_AUTH_KEY" group:"Running" placeholder:"SECRET" help:"Bearer token for GET /health/drain, which shuts down before it answers. Empty: nobody may."`
	GracefulShutdownTimeout Duration `env:"GRACEFUL_SHUTDOWN_TIMEOUT" default:"30s" min:"1s" max:"1h" group:"Running" placeholder:"TIME" help:"Longest time a shutdown may take before it is cut short."`
	LogLevel                string   `env:"LOG_LEVEL" default:"info" oneof:"debug,info,warn,error" group:"Running" placeholder:"LEVEL" help:"Least important messages of Signalbox's own log."`
	LogFormat               string   `env:"LOG_FORMAT" default:"auto" oneof:"auto,text,json" group:"Running" placeholder:"FORMAT" help:"Form of Signalbox's own log. auto: text on a terminal, json elsewhere."`
}

// Addr returns the address of the main listener.
func (c *Config) Addr() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// SQLitePath returns the database file that is used when DatabaseURL is empty.
func (c *Config) SQLitePath() string { return filepath.Join(c.DataDir, "signalbox.db") }

// Database returns where the devices are: DatabaseURL, or the file of SQLite.
func (c *Config) Database() string { return cmp.Or(c.DatabaseURL.Reveal(), c.SQLitePath()) }

// HistoryDatabase returns where the history is: DatabaseURL, or a file of SQLite
// of its own.
func (c *Config) HistoryDatabase() string {
	return cmp.Or(c.DatabaseURL.Reveal(), filepath.Join(c.DataDir, "history.db"))
}

// MQTTLoopback reports whether only this machine can reach the embedded MQTT
// broker.
func (c *Config) MQTTLoopback() bool {
	host, _, err := net.SplitHostPort(c.MQTTListen)
	return err == nil && loopback(host)
}

// derive fills the settings whose default depends on others.
func (c *Config) derive() {
	if c.MQTTClientID == "" {
		c.MQTTClientID = c.MQTTUsername
	}
	if c.MQTTClientID == "" {
		c.MQTTClientID = "iotsupport-backend"
	}
	if c.JournalDiskBytes == 0 {
		c.JournalDiskBytes = 4 * c.JournalMaxBytes
	}
	if c.DeviceLogBurst == 0 {
		c.DeviceLogBurst = 10 * c.DeviceLogRate
	}
	if c.BaseURL == "" {
		scheme := "http"
		if c.TLSCert != "" {
			scheme = "https"
		}
		c.BaseURL = scheme + "://" + c.Addr()
	}
	c.deriveDevices()
}
