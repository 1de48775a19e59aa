package config

import "testing"

func TestDevicesAreTold(t *testing.T) {
	f := func(environ []string, base, mqtt, token string) {
		t.Helper()
		e := mustLoad(t, nil, environ, nil)
		if e.DeviceBaseURL != base || e.DeviceMQTTURL != mqtt || e.DeviceTokenURL() != token {
			t.Errorf("%q: %q, %q, %q", environ, e.DeviceBaseURL, e.DeviceMQTTURL, e.DeviceTokenURL())
		}
	}
	f(nil, "http://127.0.0.1:3101", "mqtt://127.0.0.1:1883", "http://127.0.0.1:3101/oauth/token")
	f([]string{"BASEURL=https://box.example.org/"}, "https://box.example.org", "mqtt://box.example.org:1883", "https://box.example.org/oauth/token")
	f([]string{"BASEURL=https://box.example.org", "DEVICE_BASEURL=http://10.0.0.1:3101/"}, "http://10.0.0.1:3101", "mqtt://10.0.0.1:1883", "http://10.0.0.1:3101/oauth/token")
	f([]string{"BASEURL=http://[fd00::1]:3101"}, "http://[fd00::1]:3101", "mqtt://[fd00::1]:1883", "http://[fd00::1]:3101/oauth/token")
	f([]string{"MQTT_LISTEN="}, "http://127.0.0.1:3101", "", "http://127.0.0.1:3101/oauth/token")
	f([]string{"MQTT_URL=mqtts://me:hunter2@broker.example.org:8883"}, "http://127.0.0.1:3101", "mqtts://broker.example.org:8883", "http://127.0.0.1:3101/oauth/token")
	f([]string{"DEVICE_MQTT_URL=mqtt://b:1", "OIDC_TOKEN_URL=https://k/realms/iot/token"}, "http://127.0.0.1:3101", "mqtt://b:1", "https://k/realms/iot/token")

	// In a file of the reference system they mean what they meant.
	e := mustLoad(t, nil, nil, files{".env": "DEVICE_BASEURL=http://d\nDEVICE_MQTT_URL=mqtt://m:1\nWIFI_SSID=net\nWIFI_PASSWORD=hunter2\nOIDC_TOKEN_URL=https://k/token\n"})
	if e.DeviceBaseURL != "http://d" || e.DeviceMQTTURL != "mqtt://m:1" || e.WiFiSSID != "net" || e.WiFiPassword.Reveal() != "hunter2" || e.OIDCTokenURL != "https://k/token" {
		t.Errorf("from a file: %+v", e.Config)
	}
	if len(e.Warnings) > 0 {
		t.Errorf("warnings: %q", e.Warnings)
	}

	for _, bad := range []string{"DEVICE_BASEURL=box", "DEVICE_MQTT_URL=http://b", "DEVICE_MQTT_URL=b:1883", "OIDC_TOKEN_URL=mqtt://k", "DEVICE_TOKEN_LIFETIME=1s", "DEVICE_TOKEN_LIFETIME=0"} {
		if _, err := load(t, nil, []string{bad}, nil); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestInternalAPI(t *testing.T) {
	e := mustLoad(t, nil, []string{"INTERNAL_API_URL=http://signalbox:3103/", "INTERNAL_API_TOKEN=tok"}, nil)
	if e.InternalAPIURL != "http://signalbox:3103" || e.InternalAPIToken.Reveal() != "tok" {
		t.Errorf("%q, %q", e.InternalAPIURL, e.InternalAPIToken.Reveal())
	}
	for _, environ := range []string{"INTERNAL_API_URL=signalbox:3103", "INTERNAL_API_URL=ftp://signalbox", "INTERNAL_API_TOKEN=a b", "INTERNAL_API_TOKEN=ä"} {
		if _, err := load(t, nil, []string{environ}, nil); err == nil {
			t.Errorf("%s is taken", environ)
		}
	}
}
