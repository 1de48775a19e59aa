package config

import (
	"net"
	"net/url"
	"strings"
)

// deriveDevices fills what devices are told when it is not set.
func (c *Config) deriveDevices() {
	if c.DeviceBaseURL == "" {
		c.DeviceBaseURL = c.BaseURL
	}
	if c.DeviceMQTTURL != "" {
		return
	}
	if c.MQTTURL != "" {
		u := c.MQTTURL.parse()
		u.User = nil // ours, not theirs
		c.DeviceMQTTURL = u.String()
		return
	}
	_, port, err := net.SplitHostPort(c.MQTTListen)
	if base, wrong := url.Parse(c.DeviceBaseURL); err == nil && wrong == nil && base.Hostname() != "" && port != "0" {
		scheme := "mqtt"
		if c.MQTTTLSCert != "" {
			scheme = "mqtts"
		}
		c.DeviceMQTTURL = scheme + "://" + net.JoinHostPort(base.Hostname(), port)
	}
}

// DeviceTokenURL returns where devices get their tokens.
func (c *Config) DeviceTokenURL() string {
	if c.OIDCTokenURL != "" {
		return c.OIDCTokenURL
	}
	return c.DeviceBaseURL + "/oauth/token"
}

// devices checks what devices are told.
func (c *checker) devices() {
	c.webURL("DEVICE_BASEURL", &c.DeviceBaseURL)
	c.webURL("OIDC_TOKEN_URL", &c.OIDCTokenURL)
	c.webURL("INTERNAL_API_URL", &c.InternalAPIURL)
	if strings.ContainsFunc(c.InternalAPIToken.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		c.wrong("INTERNAL_API_TOKEN", "printable ASCII without spaces, as it travels in an HTTP header")
	}
	if c.DeviceMQTTURL != "" {
		u, err := url.Parse(c.DeviceMQTTURL)
		switch {
		case err != nil || u.Host == "":
		case u.Scheme == "mqtt", u.Scheme == "mqtts", u.Scheme == "ws", u.Scheme == "wss":
			return
		}
		c.wrong("DEVICE_MQTT_URL", "a URL that starts with mqtt://, mqtts://, ws:// or wss://")
	}
}
