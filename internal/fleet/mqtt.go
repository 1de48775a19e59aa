package fleet

import (
	"strings"
	"unicode/utf8"
)

// CheckPublish checks what a message to devices is published with: a topic name
// (MQTT 3.1.1, section 4.7) and a quality of service that is 0 or 1. Errors:
// Invalid.
func CheckPublish(topic string, qos byte) error {
	if topic == "" || len(topic) > 65535 || !utf8.ValidString(topic) || strings.ContainsAny(topic, "+#\x00") {
		return E(Invalid, nil, "the MQTT topic is not a topic name")
	}
	if qos > 1 {
		return E(Invalid, nil, "the MQTT quality of service must be 0 or 1")
	}
	return nil
}
