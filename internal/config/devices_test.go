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

	for _, bad := range []string{"DEVICE_BASEURL=box", "DEVICE_MQTT_URL=http://b", "DEVICE_MQTT_URL=b:1883", "OIDC_TOKEN_URL=mqtt://k", "DEVICE_TOKEN_LIFETIME=1s", "DEVICE_TOKEN_LIFETIME=0"} {
		if _, err := load(t, nil, []string{bad}, nil); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
