package config

import (
	"net/url"
	"strings"
)

// Gateways returns the URLs of SSE_GATEWAY_URL, without a slash at the end.
func (c *Config) Gateways() (urls []string) {
	for u := range strings.SplitSeq(c.SSEGatewayURL, ",") {
		if u = strings.TrimRight(strings.TrimSpace(u), "/"); u != "" {
			urls = append(urls, u)
		}
	}
	return urls
}

// gateways checks what has to do with SSE gateways.
func (c *checker) gateways() {
	for _, text := range c.Gateways() {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			c.wrong("SSE_GATEWAY_URL", "URLs that start with http:// or https://, separated by commas")
			return
		}
	}
	switch {
	case len(c.Gateways()) == 0:
		if c.RabbitMQURL != "" {
			c.wrong("RABBITMQ_URL", "nothing, as SSE_GATEWAY_URL is not given")
		}
	case c.SSECallbackSecret == "":
		c.wrong("SSE_CALLBACK_SECRET", "a secret, as SSE_GATEWAY_URL is given: whoever knows it may open streams in anybody's name")
	}
	if c.RabbitMQURL != "" {
		if u := c.RabbitMQURL.parse(); u.Scheme != "amqp" && u.Scheme != "amqps" {
			c.wrong("RABBITMQ_URL", "a URL that starts with amqp:// or amqps://")
		}
	}
}
