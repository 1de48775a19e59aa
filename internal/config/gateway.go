package config

// Gateway is the settings of `signalbox gateway`, which reads flags and the
// environment only. Their names are those of the gateway that it replaces, so
// that some are also names of settings of serve; the tag `of` keeps them apart.
type Gateway struct {
	Host           string    `env:"HOST" of:"gateway" placeholder:"ADDRESS" help:"Address to listen on. Empty: every interface."`
	Port           uint16    `env:"PORT" of:"gateway" default:"3000" placeholder:"PORT" help:"Port for the streams and for /internal/send."`
	InternalListen string    `env:"INTERNAL_LISTEN" of:"gateway" placeholder:"HOST:PORT" help:"Listener for /metrics, /healthz and /readyz. Empty: off."`
	CallbackURL    SecretURL `env:"CALLBACK_URL" of:"gateway" name:"callback-url" placeholder:"URL" help:"Where the backend is told of streams, such as http://backend:3101/api/sse/callback?secret=... Without it no stream is opened."`
	CallbackSecret Secret    `env:"CALLBACK_SECRET" of:"gateway" placeholder:"SECRET" help:"Bearer token that goes with every callback."`
	GatewaySecret  Secret    `env:"GATEWAY_SECRET" of:"gateway" name:"secret" placeholder:"SECRET" help:"Bearer token that POST /internal/send asks for. Empty: none, and whoever reaches the port can write to streams whose token they know."`

	// HeartbeatIntervalSeconds is text: what is no number above 0 is logged, and
	// the default taken.
	HeartbeatIntervalSeconds string   `env:"HEARTBEAT_INTERVAL_SECONDS" of:"gateway" default:"15" placeholder:"N" help:"Seconds between two heartbeats."`
	MaxBody                  ByteSize `env:"GATEWAY_MAX_BODY" of:"gateway" default:"8MiB" placeholder:"SIZE" help:"Largest body of /internal/send."`
	MaxStreams               int      `env:"MAX_STREAMS" of:"gateway" default:"20000" placeholder:"N" help:"Streams open at once."`
	StreamBufferBytes        ByteSize `env:"STREAM_BUFFER_BYTES" of:"gateway" default:"1MiB" placeholder:"SIZE" help:"What may wait in memory for one slow reader before its stream is cut."`
	StreamWriteTimeout       Duration `env:"STREAM_WRITE_TIMEOUT" of:"gateway" default:"10s" placeholder:"TIME" help:"A reader that takes nothing for this long is cut."`

	RabbitMQURL           SecretURL `env:"RABBITMQ_URL" of:"gateway" name:"rabbitmq-url" placeholder:"URL" help:"RabbitMQ to take events from, as amqp://user:password@host:5672/vhost. Empty: off."`
	RabbitMQQueueTTLMS    int       `env:"RABBITMQ_QUEUE_TTL_MS" of:"gateway" name:"rabbitmq-queue-ttl-ms" default:"300000" placeholder:"N" help:"Milliseconds that a queue nobody reads is kept."`
	RabbitMQEnvPrefix     string    `env:"RABBITMQ_ENV_PREFIX" of:"gateway" name:"rabbitmq-env-prefix" placeholder:"TEXT" help:"Put in front of the names of the exchange and the queues, with a dot."`
	RabbitMQEnvAutoDelete string    `env:"RABBITMQ_ENV_AUTO_DELETE" of:"gateway" name:"rabbitmq-env-auto-delete" placeholder:"BOOL" help:"true: the exchange is neither durable nor kept when nothing is bound to it."`

	LogLevel  string `env:"LOG_LEVEL" of:"gateway" default:"info" enum:"debug,info,warn,error" placeholder:"LEVEL" help:"Least important messages that are logged: debug, info, warn or error."`
	LogFormat string `env:"LOG_FORMAT" of:"gateway" default:"auto" enum:"auto,json,text" placeholder:"FORMAT" help:"auto, json or text. auto: text on a terminal, otherwise JSON."`
}
