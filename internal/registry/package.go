package registry

import (
	"bytes"
	"encoding/json"
	"strings"

	"signalbox/internal/fleet"
)

// NVSMaxSize is the largest partition that is made, in bytes: as large as the
// largest flash that these devices have.
const NVSMaxSize = 16 << 20

// nvsNamespace is where the firmware looks for what it is provisioned with.
const nvsNamespace = "prov"

// Package is what a device is provisioned with. What is nil is not known: no
// setting says it.
type Package struct {
	DeviceKey    string  `json:"device_key"`
	ClientID     string  `json:"client_id"`
	ClientSecret string  `json:"client_secret"`
	TokenURL     *string `json:"token_url"`
	BaseURL      *string `json:"base_url"`
	MQTTURL      *string `json:"mqtt_url"`
	WiFiSSID     *string `json:"wifi_ssid"`
	WiFiPassword *string `json:"wifi_password"`
}

// JSON returns the package as one line of JSON.
func (p Package) JSON() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // \u0026 in a URL is five characters more for a QR code
	if err := enc.Encode(p); err != nil {
		panic(err) // of texts
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// NVS returns the package as a partition of size bytes, as NVS does, in which the
// firmware needs every field. Errors are fleet.Invalid.
func (p Package) NVS(size int) ([]byte, error) {
	var values []NVSString
	for _, f := range []struct {
		key   string
		value *string
	}{
		{"device_key", &p.DeviceKey}, {"client_id", &p.ClientID}, {"client_secret", &p.ClientSecret}, {"token_url", p.TokenURL},
		{"base_url", p.BaseURL}, {"mqtt_url", p.MQTTURL}, {"wifi_ssid", p.WiFiSSID}, {"wifi_password", p.WiFiPassword},
	} {
		switch {
		case f.value == nil:
			return nil, fleet.E(fleet.Invalid, nil, "Provisioning field '%s' is missing", f.key)
		case strings.TrimSpace(*f.value) == "":
			return nil, fleet.E(fleet.Invalid, nil, "Provisioning field '%s' cannot be empty", f.key)
		case strings.ContainsRune(*f.value, 0): // the firmware would read a part of it
			return nil, fleet.E(fleet.Invalid, nil, "Provisioning field '%s' cannot have a NUL character", f.key)
		}
		values = append(values, NVSString{f.key, *f.value})
	}
	if size > NVSMaxSize {
		return nil, fleet.E(fleet.Invalid, nil, "partition_size must be at most %d", NVSMaxSize)
	}
	return NVS(nvsNamespace, values, size)
}
