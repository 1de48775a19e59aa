package config

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// LeastSecretKey is how many characters SECRET_KEY has at least.
const LeastSecretKey = 16

// checker finds the mistakes that need more than one setting, a file, or a
// look inside a text. A setting that is bad already is not judged again.
type checker struct {
	*Config
	bad      map[string]bool
	source   map[string]string
	readFile func(string) ([]byte, error)
	mistakes []error
}

// wrong records that the named setting is not what it must be.
func (c *checker) wrong(name, want string) {
	for _, s := range settings() {
		if s.name != name || c.bad[name] {
			continue
		}
		c.bad[name] = true
		shown := s.show(c.Config)
		c.mistakes = append(c.mistakes, &Mistake{name, shown, c.source[name], want})
	}
}

func (c *checker) all() {
	c.storage()
	c.listeners()
	c.exposure()
	c.tls()
	c.mqtt()
	c.elasticsearch()
	c.keycloak()
	c.urls()
	c.login()
	c.devices()
	c.gateways()
	if c.SecretKey != "" && len(c.SecretKey) < LeastSecretKey {
		c.wrong("SECRET_KEY", "at least 16 characters")
	}
	if c.DrainAuthKey != "" && strings.ContainsFunc(c.DrainAuthKey.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		c.wrong("DRAIN_AUTH_KEY", "printable ASCII without spaces, as it travels in an HTTP header")
	}
	if c.LogsinkEntityField == "" {
		c.wrong("LOGSINK_ENTITY_FIELD", "the name of a field")
	}
}

func (c *checker) storage() {
	if c.DataDir == "" {
		c.wrong("DATA_DIR", "a directory")
	}
	if c.JournalDiskBytes != 0 && c.JournalDiskBytes < c.JournalMaxBytes {
		c.wrong("JOURNAL_DISK_BYTES", "a size of at least JOURNAL_MAX_BYTES")
	}
	if c.DatabaseURL == "" {
		return
	}
	u := c.DatabaseURL.parse()
	// SQLAlchemy's spelling names its driver: postgresql+psycopg://.
	scheme, driver, named := strings.Cut(u.Scheme, "+")
	if scheme != "postgres" && scheme != "postgresql" {
		c.wrong("DATABASE_URL", "a URL that starts with postgres://, or nothing for SQLite")
		return
	}
	if named {
		c.DatabaseURL = SecretURL(strings.Replace(c.DatabaseURL.Reveal(), "+"+driver, "", 1))
	}
}

func (c *checker) listeners() {
	if c.Host == "" {
		c.wrong("HOST", "an address; 0.0.0.0 is every one")
	}
	const want = "HOST:PORT with a port from 0 to 65535, or nothing to turn it off"
	inUse := map[string]string{}
	if c.Port != 0 {
		inUse[c.Addr()] = "HOST and PORT"
	}
	for _, l := range c.optionalListeners() {
		if l.addr == "" {
			continue
		}
		_, port, err := net.SplitHostPort(l.addr)
		if err != nil {
			c.wrong(l.name, want)
			continue
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			c.wrong(l.name, want)
			continue
		}
		if other := inUse[l.addr]; other != "" {
			c.wrong(l.name, "another address than "+other)
		}
		if port != "0" {
			inUse[l.addr] = l.name
		}
	}
}

type listener struct{ name, addr string }

func (c *checker) optionalListeners() []listener {
	return []listener{{"INTERNAL_LISTEN", c.InternalListen}, {"MQTT_LISTEN", c.MQTTListen}}
}

// exposure refuses a broker that other machines can reach while no device has
// to prove which it is. What people reach is for later: see Exposed.
func (c *checker) exposure() {
	if c.AllowInsecure || c.bad["ALLOW_INSECURE"] {
		return
	}
	if host, _, err := net.SplitHostPort(c.MQTTListen); c.MQTTAuth == "off" && err == nil && !loopback(host) {
		c.wrong("MQTT_LISTEN", "a loopback address such as 127.0.0.1, because MQTT_AUTH is off; ALLOW_INSECURE=true starts all the same")
	}
}

// loopback reports whether only this machine can reach host. It asks no name
// server: whatever answers today may answer differently tomorrow.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func (c *checker) tls() {
	c.keyPair("TLS_CERT", c.TLSCert, "TLS_KEY", c.TLSKey)
	c.keyPair("MQTT_TLS_CERT", c.MQTTTLSCert, "MQTT_TLS_KEY", c.MQTTTLSKey)
}

// keyPair checks the settings of a certificate and its key.
func (c *checker) keyPair(certName, certFile, keyName, keyFile string) {
	switch {
	case certFile == "" && keyFile == "":
		return
	case certFile == "":
		c.wrong(certName, "a certificate file, as "+keyName+" is given")
		return
	case keyFile == "":
		c.wrong(keyName, "a key file, as "+certName+" is given")
		return
	}
	cert, err := c.readFile(certFile)
	if err != nil {
		c.wrong(certName, "a file that can be read: "+err.Error())
	}
	key, err := c.readFile(keyFile)
	if err != nil {
		c.wrong(keyName, "a file that can be read: "+err.Error())
	}
	if c.bad[certName] || c.bad[keyName] {
		return
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		c.wrong(certName, "a PEM certificate that fits "+keyName+": "+err.Error())
	}
}

func (c *checker) mqtt() {
	for level := range strings.SplitSeq(c.LogsinkTopic, "/") {
		if level == "" || strings.ContainsAny(level, "+#\x00") {
			c.wrong("LOGSINK_TOPIC", "a topic without wildcards and empty levels")
		}
	}
	secure := false
	if c.MQTTURL != "" {
		u := c.MQTTURL.parse()
		switch u.Scheme {
		case "mqtts", "wss":
			secure = true
		case "mqtt", "ws":
		default:
			c.wrong("MQTT_URL", "a URL that starts with mqtt://, mqtts://, ws:// or wss://")
		}
		if u.Host == "" {
			c.wrong("MQTT_URL", "a URL with a host")
		}
	}
	if c.MQTTCAFile == "" || c.bad["MQTT_URL"] {
		return
	}
	if !secure {
		c.wrong("MQTT_CA_FILE", "nothing, unless MQTT_URL starts with mqtts:// or wss://")
		return
	}
	pem, err := c.readFile(c.MQTTCAFile)
	if err != nil {
		c.wrong("MQTT_CA_FILE", "a file that can be read: "+err.Error())
	} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		c.wrong("MQTT_CA_FILE", "a file with certificates in PEM")
	}
}

func (c *checker) elasticsearch() {
	if u := c.ElasticsearchURL.parse(); c.ElasticsearchURL != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "") {
		c.wrong("ELASTICSEARCH_URL", "a URL that starts with http:// or https://")
	}
	if c.LogsHistory == "elasticsearch" && c.ElasticsearchURL == "" {
		c.wrong("ELASTICSEARCH_URL", "a URL, as LOGS_HISTORY is elasticsearch")
	}
	if c.ElasticsearchPassword != "" && c.ElasticsearchUsername == "" {
		c.wrong("ELASTICSEARCH_USERNAME", "a user name, as ELASTICSEARCH_PASSWORD is given")
	}
	// What the servers forbid in names; more is theirs to say.
	const forbidden = "\\/\"<>|?# :"
	prefix := c.ElasticsearchIndexPrefix
	if prefix == "" || len(prefix) > 200 || strings.ContainsAny(prefix, forbidden+"*,") || strings.ContainsAny(prefix[:1], "-_+.") ||
		strings.ToLower(prefix) != prefix || strings.ContainsFunc(prefix, unicode.IsControl) {
		c.wrong("ELASTICSEARCH_INDEX_PREFIX", "the beginning of an index name: small letters, digits, hyphens and dots")
	}
	if pattern := c.ElasticsearchIndexPattern; pattern == "" || strings.ContainsAny(pattern, forbidden) || strings.ContainsAny(pattern[:1], "-_") ||
		strings.ContainsFunc(pattern, unicode.IsControl) {
		c.wrong("ELASTICSEARCH_INDEX_PATTERN", "names of indices, with * for any text, separated by commas")
	}
}

// urls checks the addresses of web pages and takes the slash off their end.
func (c *checker) urls() {
	c.webURL("BASEURL", &c.BaseURL)
	c.webURL("FRONTEND_VERSION_URL", &c.FrontendVersionURL)
}

func (c *checker) webURL(name string, text *string) {
	if *text == "" {
		return
	}
	u, err := url.Parse(*text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		c.wrong(name, "a URL that starts with http:// or https://")
		return
	}
	*text = strings.TrimRight(*text, "/")
}
