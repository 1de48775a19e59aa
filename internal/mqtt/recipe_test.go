package mqtt_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/mosquittotest"
	"signalbox/internal/mqtt"
)

// recipe is a Mosquitto with the files of docs/mosquitto.
type recipe struct {
	*mosquittotest.Broker
	t      *testing.T
	config string      // of mosquitto_ctrl, as XDG_CONFIG_HOME
	read   chan string // what devices received
}

const recipeDir = "../../docs/mosquitto"

func startRecipe(t *testing.T) *recipe {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(recipeDir, "signalbox.conf"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := strings.ReplaceAll(string(b), "/var/lib/mosquitto/", dir+"/")
	plugin := pluginOf(conf)
	if _, err := os.Stat(plugin); errors.Is(err, fs.ErrNotExist) {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("the dynamic security plug-in is not at %s", plugin)
	}
	if out, err := exec.Command("mosquitto_ctrl", "dynsec", "init", filepath.Join(dir, "dynamic-security.json"), "admin", "admin-secret").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := &recipe{t: t, config: dir, read: make(chan string, 100), Broker: mosquittotest.Start(t, mosquittotest.Options{Extra: conf, Persistent: true})}
	host, port, _ := net.SplitHostPort(r.Addr)
	if err := os.WriteFile(filepath.Join(dir, "mosquitto_ctrl"), []byte("-h "+host+"\n-p "+port+"\n-u admin\n-P admin-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

func pluginOf(conf string) string {
	for line := range strings.Lines(conf) {
		if path, ok := strings.CutPrefix(line, "plugin "); ok {
			return strings.TrimSpace(path)
		}
	}
	return ""
}

// script runs docs/mosquitto/accounts.sh.
func (r *recipe) script(do, id string) error {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(recipeDir, "accounts.sh"), do, id)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+r.config)
	cmd.Stdin = strings.NewReader("secret of " + id + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.New(err.Error() + ": " + string(out))
	}
	return nil
}

func (r *recipe) must(do, id string) {
	r.t.Helper()
	if err := r.script(do, id); err != nil {
		r.t.Fatalf("accounts.sh %s %s: %v", do, id, err)
	}
}

func (r *recipe) connect(username, password, clientID string, lost func(paho.Client, error)) (paho.Client, error) {
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + r.Addr).SetProtocolVersion(4).SetAutoReconnect(false).
		SetClientID(clientID).SetUsername(username).SetPassword(password).SetConnectionLostHandler(lost).SetCleanSession(false).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { r.read <- m.Topic() + " " + string(m.Payload()) }))
	tok := c.Connect()
	if !tok.WaitTimeout(patience) {
		return nil, errors.New("no CONNACK")
	}
	if tok.Error() == nil {
		r.t.Cleanup(func() { c.Disconnect(100) })
	}
	return c, tok.Error()
}

const (
	devA = "iotdevice-relay-aaaaaaaa"
	devB = "iotdevice-relay-bbbbbbbb"
)

// The rights of docs/MOSQUITTO.md, on a real Mosquitto with its files.
func TestRecipe(t *testing.T) {
	r := startRecipe(t)
	r.must("setup", "signalbox")
	for _, id := range []string{devA, devB} {
		r.must("add", id)
	}
	for _, mistake := range [][2]string{{"add", devA}, {"revoke", "iotdevice-relay-cccccccc"}, {"add", "root"}, {"add", "signalbox"}, {"remove", "admin"}, {"add", "iotdevice-relay-aaaaaaaa\n"}, {"add", "iotdevice-relay-AAAAAAAA"}, {"frob", devA}} {
		if err := r.script(mistake[0], mistake[1]); err == nil {
			t.Errorf("accounts.sh %s succeeded", mistake)
		}
	}

	reg := prometheus.NewRegistry()
	s := newSource(t, mqtt.Config{URL: r.URL(), Username: "signalbox", Password: "secret of signalbox", ClientID: "signalbox", Registry: reg})
	lines := run(t, s, reg)
	lostB := make(chan error, 1)
	a, err := r.connect(devA, "secret of "+devA, devA, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.connect(devB, "secret of "+devB, devB, func(_ paho.Client, err error) { lostB <- err })
	if err != nil {
		t.Fatal(err)
	}

	// Who may not come in, and under whose name.
	for _, login := range [][2]string{{devA, "secret of " + devB}, {devA, ""}, {"", ""}, {"nobody", "x"}, {"iotdevice-relay-cccccccc", "secret"}} {
		if _, err := r.connect(login[0], login[1], "other", nil); !errors.Is(err, packets.ErrorRefusedNotAuthorised) && !errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword) {
			t.Errorf("%q: %v", login, err)
		}
	}

	// What a device may read.
	subscribe := func(c paho.Client, filter string) byte {
		t.Helper()
		tok := c.Subscribe(filter, 1, nil) // a handler here would be called although the subscription was refused
		if !tok.WaitTimeout(patience) {
			t.Fatal("no SUBACK")
		}
		return tok.(*paho.SubscribeToken).Result()[filter]
	}
	for _, filter := range []string{
		"#", "+/#", "iotsupport/#", "iotsupport/+/+", "iotsupport/updates/#", "iotsupport/logsink", "iotsupport/logsink/#", "iotsupport/logsink/" + devA, "iotsupport/logsink/" + devB,
		"iotsupport/telemetry/#", "iotsupport/telemetry/" + devB + "/#", "iotsupport/" + devB + "/rotation", "iotsupport/+/rotation", "$SYS/#", "$CONTROL/#", "$CONTROL/dynamic-security/v1/response",
	} {
		if q := subscribe(a, filter); q != 0x80 {
			t.Errorf("a device subscribed to %s: %#x", filter, q)
		}
	}
	for _, c := range []paho.Client{a, b} {
		if q := subscribe(c, "iotsupport/updates/+"); q != 1 {
			t.Errorf("updates: %#x", q)
		}
	}
	if q := subscribe(a, "iotsupport/"+devA+"/rotation"); q != 1 {
		t.Errorf("rotation: %#x", q)
	}

	// What a device may write.
	publish := func(topic, payload string, retained bool) {
		t.Helper()
		if tok := a.Publish(topic, 1, retained, payload); !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("%s: %v", topic, tok.Error())
		}
	}
	for _, topic := range []string{
		"iotsupport/logsink", "iotsupport/logsink/" + devB, "iotsupport/logsink/signalbox", "iotsupport/telemetry/" + devB + "/x", "iotsupport/updates/config", "iotsupport/" + devA + "/rotation", "iotsupport/" + devB + "/rotation",
		"$CONTROL/dynamic-security/v1",
	} {
		publish(topic, `{"commands":[{"command":"deleteClient","username":"`+devB+`"}]}`, true)
	}
	publish("iotsupport/telemetry/"+devA+"/room/temperature", "21", true)
	publish("iotsupport/logsink/"+devA, "mine", false)
	select {
	case m := <-lines:
		if m.ClientID != devA || string(m.Payload) != "mine" {
			t.Errorf("got %q of %q, want the first that was allowed", m.Payload, m.ClientID)
		}
		m.Done(nil)
	case <-time.After(patience):
		t.Fatal("the line did not arrive")
	}

	// What Signalbox may.
	for _, topic := range []string{"iotsupport/updates/config", "iotsupport/" + devA + "/rotation", "iotsupport/_flush/signalbox"} {
		if err := s.Publish(t.Context(), topic, 1, false, []byte("told")); err != nil {
			t.Errorf("%s: %v", topic, err)
		}
	}
	var got []string
	for range 3 {
		select {
		case m := <-r.read:
			got = append(got, m)
		case <-time.After(patience):
			t.Fatalf("only %q were read", got)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"iotsupport/" + devA + "/rotation told", "iotsupport/updates/config told", "iotsupport/updates/config told"}, got); diff != "" {
		t.Error(diff)
	}

	// What lies there for a device it gets when it comes, until that is taken back.
	notice := "iotsupport/" + devA + "/rotation"
	for _, payload := range []string{"lies there", ""} {
		if err := s.Publish(t.Context(), notice, 1, true, []byte(payload)); err != nil {
			t.Fatal(err)
		}
		want := 1 // as it is there
		if q := subscribe(a, notice); q != 1 {
			t.Errorf("rotation: %#x", q)
		}
		if payload != "" {
			want++ // as if it came now
		}
		for range want {
			select {
			case m := <-r.read:
				if m != notice+" "+payload {
					t.Errorf("got %q", m)
				}
			case <-time.After(patience):
				t.Fatalf("%q was not read", payload)
			}
		}
	}
	select {
	case m := <-r.read:
		t.Errorf("got %q, which was taken back", m)
	case <-time.After(200 * time.Millisecond):
	}

	// Nobody takes over the session of another.
	if _, err := r.connect(devA, "secret of "+devA, devB, nil); !errors.Is(err, packets.ErrorRefusedNotAuthorised) {
		t.Errorf("a device connected under the client id of another: %v", err)
	}
	select {
	case <-lostB:
		t.Error("the other device lost its connection")
	default:
	}

	// A device that is revoked is out within a second, and stays out.
	start := time.Now()
	r.must("revoke", devB)
	select {
	case <-lostB:
	case <-time.After(patience):
		t.Fatal("a revoked device is still connected")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if _, err := r.connect(devB, "secret of "+devB, devB, nil); err == nil {
		t.Error("a revoked device came back")
	}
	r.must("restore", devB)
	r.must("password", devB)
	if _, err := r.connect(devB, "secret of "+devB, devB, func(_ paho.Client, err error) { lostB <- err }); err != nil {
		t.Error(err)
	}
	r.must("remove", devB)
	select {
	case <-lostB:
	case <-time.After(patience):
		t.Error("a removed device is still connected")
	}
	r.Restart()
	if _, err := r.connect(devB, "secret of "+devB, devB, nil); err == nil {
		t.Error("a removed device came back with the broker")
	}
	if _, err := r.connect(devA, "secret of "+devA, devA, nil); err != nil {
		t.Error(err)
	}
}
