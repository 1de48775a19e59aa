package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"signalbox/internal/fleet"
)

// endpoint is a parsed broker URL.
type endpoint struct {
	scheme             string
	host               string // host:port
	path               string // of a WebSocket, with its query
	tls, websocket     bool
	username, password string
}

// String returns the URL without credentials.
func (e endpoint) String() string { return e.scheme + "://" + e.host + e.path }

// parseURL checks and splits a broker URL. The text and the cause of its errors
// hold no credentials.
func parseURL(raw string) (endpoint, error) {
	invalid := func(cause error, why string) (endpoint, error) {
		return endpoint{}, fleet.E(fleet.Invalid, cause, "the MQTT URL is invalid: %s", why)
	}
	u, err := url.Parse(raw)
	if err != nil {
		// The error repeats the URL, and with it the password; its reason may
		// quote a part of it, so that is left out as well.
		return invalid(nil, "it cannot be parsed")
	}
	e := endpoint{scheme: strings.ToLower(u.Scheme)}
	port := ""
	switch e.scheme {
	case "mqtt", "tcp":
		port = "1883"
	case "mqtts", "ssl", "tls":
		port, e.tls = "8883", true
	case "ws":
		port, e.websocket = "80", true
	case "wss":
		port, e.websocket, e.tls = "443", true, true
	default:
		return invalid(nil, "the scheme must be mqtt, mqtts, tcp, ssl, tls, ws or wss")
	}
	switch {
	case u.Hostname() == "":
		return invalid(nil, "it names no host")
	case u.Fragment != "":
		return invalid(nil, "it has a fragment")
	case !e.websocket && (strings.Trim(u.Path, "/") != "" || u.RawQuery != ""):
		return invalid(nil, "only ws and wss have a path")
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return invalid(nil, "the port must be between 1 and 65535")
		}
		port = p
	}
	e.host = net.JoinHostPort(u.Hostname(), port)
	if e.websocket {
		e.path = u.EscapedPath()
		if e.path == "" || e.path == "/" {
			e.path = "/mqtt"
		}
		if u.RawQuery != "" {
			e.path += "?" + u.RawQuery
		}
	}
	if u.User != nil {
		e.username = u.User.Username()
		e.password, _ = u.User.Password()
	}
	return e, nil
}

// checkTopic refuses what cannot be the name of a topic with topics below it.
func checkTopic(topic string) error {
	if topic == "" || len(topic) > 60_000 || !utf8.ValidString(topic) || strings.ContainsAny(topic, "+#\x00") || strings.HasSuffix(topic, "/") {
		return fleet.E(fleet.Invalid, nil, "the MQTT topic must be a plain topic name, without + or # or a / at its end")
	}
	return nil
}

// clientTLS returns the TLS settings: the system's authorities, or those of
// caFile and no other.
func clientTLS(caFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fleet.E(fleet.Invalid, err, "the CA file of the MQTT broker cannot be read")
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fleet.E(fleet.Invalid, errors.New(caFile), "the CA file of the MQTT broker holds no certificate in PEM")
	}
	return c, nil
}
