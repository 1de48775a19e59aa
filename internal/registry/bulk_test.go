package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

func TestReadDevices(t *testing.T) {
	f := func(file string, want ...registry.ImportLine) {
		t.Helper()
		got, err := registry.ReadDevices([]byte(file))
		if err != nil {
			t.Errorf("%q: %v", file, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", file, diff)
		}
	}
	relay := registry.ImportLine{Number: 2, Model: "relay", Name: "Küche"}
	f("model,name\nrelay,Küche", relay)
	f("\ufeffmodel;name\r\nrelay;Küche\r\n", relay)
	f("Model \t NAME\nrelay\tKüche\n", relay)
	f("sep=;\nmodel;name\nrelay;Küche\n", registry.ImportLine{Number: 3, Model: "relay", Name: "Küche"})
	f("model,name,\nrelay,Küche,\n,,\n\n", relay)
	f("model,name\n relay , Küche", registry.ImportLine{Number: 2, Model: "relay", Name: " Küche"})
	f("model;name;client_id;created_at\nrelay;Küche;iotdevice-x-y;now", relay) // what an export has
	f("model,name,config\nrelay,\"a\nb\",\"{\"\"n\"\": 1}\"\nrelay\n",
		registry.ImportLine{Number: 2, Model: "relay", Name: "a\nb", Config: `{"n": 1}`}, registry.ImportLine{Number: 4, Model: "relay"})
	f("model,name\nrelay,'=1+1\nrelay,''=1\nrelay,'x\n",
		registry.ImportLine{Number: 2, Model: "relay", Name: "=1+1"}, registry.ImportLine{Number: 3, Model: "relay", Name: "'=1"},
		registry.ImportLine{Number: 4, Model: "relay", Name: "'x"})
	// One bad line leaves the others.
	f("model,name\nrelay,a\"b\nrelay,ok\n", registry.ImportLine{
		Number: 2, Problem: "There is a quote within a value in line 2: such a value has to stand in quotes, and the one within it twice",
	}, registry.ImportLine{Number: 3, Model: "relay", Name: "ok"})
	f("model,name\nrelay,a,b\n", registry.ImportLine{Number: 2, Model: "relay", Name: "a", Problem: "The line has 3 values, and there are 2 columns"})
	f("model,name\nrelay,\xff\n", registry.ImportLine{Number: 2, Model: "relay", Problem: "The line is not UTF-8: save the file as CSV UTF-8"})
	f("model\n")

	refused := func(file string, kind fleet.Kind, say string) {
		t.Helper()
		if _, err := registry.ReadDevices([]byte(file)); fleet.KindOf(err) != kind || !strings.Contains(err.Error(), say) {
			t.Errorf("%.20q: %v", file, err)
		}
	}
	refused("", fleet.Invalid, "no first line")
	refused("name\nx\n", fleet.Invalid, "none named model")
	refused("model,entityid\n", fleet.Invalid, `"entityid" is not known`)
	refused("model,name,Name\n", fleet.Invalid, "twice")
	refused("\xff\xfem\x00", fleet.Invalid, "UTF-16")
	refused(strings.Repeat("x", registry.MaxImportBytes+1), fleet.TooLarge, "bytes")
	refused("model\n"+strings.Repeat("x\n", registry.MaxImportLines+1), fleet.TooLarge, "devices")
	if lines, err := registry.ReadDevices([]byte("model\n" + strings.Repeat("x\n", registry.MaxImportLines))); err != nil || len(lines) != registry.MaxImportLines {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

func FuzzReadDevices(f *testing.F) {
	for _, s := range []string{"model,name\nrelay,a\"b\n\"x", "sep=;\nmodel;key\n;;\n", "\ufeffmodel\tconfig\n'=\t\"{\n}\"\r\n", "model\n\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		lines, err := registry.ReadDevices(file)
		if err != nil {
			if kind := fleet.KindOf(err); kind != fleet.Invalid && kind != fleet.TooLarge {
				t.Fatal(err)
			}
			return
		}
		last := 1
		for _, l := range lines {
			if l.Number <= last || l.Number > bytes.Count(file, []byte("\n"))+bytes.Count(file, []byte("\r"))+1 {
				t.Fatalf("line %d after %d", l.Number, last)
			}
			last = l.Number
		}
	})
}

// What is written is read as it was, whatever people call their devices.
func FuzzWriteDevices(f *testing.F) {
	f.Add("=cmd|' /C calc'!A0", "''=x", "{\"a\":\n 1}")
	f.Add("Küche; \"x\", y", "@", "-1")
	f.Add("a", "\r", "'\r\n=")
	f.Fuzz(func(t *testing.T, name, entity, config string) {
		d := registry.ExportedDevice{ShowConfig: true, Device: fleet.Device{
			Key: "aaaaaaaa", Model: fleet.Model{Code: "relay"}, Name: &name, EntityID: &entity, Config: config, Tags: fleet.NewTags("=a", "b"),
		}}
		var b bytes.Buffer
		err := registry.WriteDevices(&b, func(yield func(registry.ExportedDevice) bool) { yield(d) }, true, func() error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		lines, err := registry.ReadDevices(b.Bytes())
		if err != nil || len(lines) != 1 {
			t.Fatalf("%v, %v of %q", lines, err, &b)
		}
		// Carriage returns are lost: only with a line feed do they come back from a table, and only without.
		same := func(got, want string) bool {
			return got == want || strings.ReplaceAll(got, "\r", "") == strings.ReplaceAll(want, "\r", "")
		}
		if l := lines[0]; l.Problem == "" && (!same(l.Name, name) || !same(l.EntityID, entity) || !same(l.Config, config) || l.Tags != "=a b" || l.Active != "false") {
			t.Fatalf("%+v of %q", l, &b)
		}
	})
}

func TestPlan(t *testing.T) {
	s := newService(t, openStore(t))
	m := createModel(t, s, "relay", new(`{"properties": {"n": {"type": "integer"}, "m": {"type": "integer"}}}`))
	createModel(t, s, "other", nil)
	there := createDevice(t, s, m.ID, `{"deviceEntityId": "there"}`)
	hidden := createDevice(t, s, m.ID, `{"deviceEntityId": "hidden"}`)
	models, err := s.Models(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	importer := s.NewImporter(models, func(d fleet.DeviceRef) bool { return d.ID != hidden.ID })
	number := 1
	f := func(l registry.ImportLine, status registry.ImportStatus, config string, says ...string) registry.ImportResult {
		t.Helper()
		number++
		l.Number = number
		n, r := importer.Plan(t.Context(), l)
		said := append(r.Errors, r.Warnings...)
		if r.Status != status || r.Line != number || config != "" && n.Config != config || len(said) != len(says) {
			t.Errorf("line %d: %+v, config %s", number, r, n.Config)
			return r
		}
		for i, s := range says {
			if !strings.Contains(said[i], s) {
				t.Errorf("line %d: %q, want %q", number, said[i], s)
			}
		}
		return r
	}
	const again = "neither a key nor an entity id"
	f(registry.ImportLine{Model: "relay"}, registry.ImportOK, `{}`, again)
	f(registry.ImportLine{Model: "relay", Name: `A "b"`, EntityID: "e1", Tags: " x  y "}, registry.ImportOK, `{"deviceName":"A \"b\"","deviceEntityId":"e1","tags":["x","y"]}`)
	f(registry.ImportLine{Model: "relay", Name: "A", Config: " { \"n\": 1 }\n"}, registry.ImportOK, " {\"deviceName\":\"A\", \"n\": 1 }\n", again)
	f(registry.ImportLine{Model: "relay", Name: "A", Tags: "y x", Config: `{"deviceName": "A", "tags": ["x","y"]}`}, registry.ImportOK, `{"deviceName": "A", "tags": ["x","y"]}`, again)
	f(registry.ImportLine{Model: "relay", EntityID: "e1"}, registry.ImportOK, "", "line 3 has the same")
	f(registry.ImportLine{Model: "relay", EntityID: "hidden"}, registry.ImportOK, "")
	f(registry.ImportLine{Model: "relay", Config: "7"}, registry.ImportOK, "7", again)

	f(registry.ImportLine{Problem: "unreadable"}, registry.ImportError, "", "unreadable")
	f(registry.ImportLine{Active: "perhaps"}, registry.ImportError, "", "model: is missing", "active:")
	f(registry.ImportLine{Model: "nope", Config: "{"}, registry.ImportError, "", `"nope"`, "config:")
	f(registry.ImportLine{Model: "relay", Name: "A", Config: "7"}, registry.ImportError, "", "must be an object")
	f(registry.ImportLine{Model: "relay", Name: "A", Config: `{"deviceName": "B"}`}, registry.ImportError, "", "name: the config says otherwise")
	f(registry.ImportLine{Model: "relay", Config: `{"n": "x", "m": "y"}`}, registry.ImportError, "", "config/m:", "config/n:")
	f(registry.ImportLine{Model: "relay", Tags: strings.Repeat("t", 65)}, registry.ImportError, "", "config/tags/0:")

	if r := f(registry.ImportLine{Model: "relay", EntityID: "there"}, registry.ImportExists, ""); r.Key != there.Key || r.DeviceID != there.ID {
		t.Errorf("%+v", r)
	}
	f(registry.ImportLine{Model: "relay", Key: there.Key}, registry.ImportExists, "")
	f(registry.ImportLine{Model: "other", Key: there.Key}, registry.ImportError, "", "of the model relay")
	f(registry.ImportLine{Model: "relay", Key: hidden.Key}, registry.ImportError, "", "key: that of another device")
	f(registry.ImportLine{Model: "relay", Key: "short"}, registry.ImportError, "", "8 characters")
	f(registry.ImportLine{Model: "relay", Key: "newkey22", EntityID: "there"}, registry.ImportOK, "", there.Key+" has the same")
	f(registry.ImportLine{Model: "relay", Key: "newkey22"}, registry.ImportError, "", "key: line")
	if n := s.Directory().Len(); n != 2 {
		t.Errorf("a plan made %d devices", n-2)
	}
}

// A device that has a key and a client already keeps both, with its secret, and
// nothing that goes wrong takes the client away.
func TestTakeOver(t *testing.T) {
	p := newPlant(t)
	const key, id = "old12345", "iotdevice-relay-old12345"
	if _, err := p.issuer.Issuer.Ensure(t.Context(), registry.Client{ID: id, Enabled: true}); err != nil {
		t.Fatal(err)
	}
	secret, err := p.issuer.Secret(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	n := registry.NewDevice{Model: p.model.ID, Config: `{"deviceName": "Hall"}`, Key: key}
	p.issuer.set(func(f *moody) { f.after = errors.New("the line was cut") })
	if _, err := p.Create(t.Context(), n); err == nil {
		t.Fatal("no error")
	}
	p.issuer.set(func(f *moody) { f.after = nil })
	if err := p.Work(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := p.db.Removals(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("the client of a device that is out there is to be removed: %v, %v", list, err)
	}
	d, err := p.Create(t.Context(), n)
	if err != nil || d.Key != key || d.Active || *d.Name != "Hall" {
		t.Fatalf("%+v, %v", d, err)
	}
	if _, got, err := p.Secret(t.Context(), d.ID); err != nil || got != secret {
		t.Errorf("the secret is another, %v", err)
	}
	if err := p.Work(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := p.clients()[id]; c.Name != "Hall" {
		t.Errorf("%+v", c)
	}
	if _, err := p.Create(t.Context(), n); fleet.KindOf(err) != fleet.Exists {
		t.Errorf("twice: %v", err)
	}
	// One whose client is nowhere gets one, as a fresh device does.
	n.Key = "new12345"
	if d, err = p.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if _, got, err := p.Secret(t.Context(), d.ID); err != nil || got == "" || got == secret {
		t.Errorf("%q, %v", got, err)
	}
	// A device that was deleted just now and comes back is not removed any more.
	if err := p.DeleteDevice(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if d, err = p.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Work(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := p.clients()[fmt.Sprint("iotdevice-relay-", n.Key)]; !ok {
		t.Error("its client is gone")
	}
}
