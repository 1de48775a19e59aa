package registry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

func TestTags(t *testing.T) {
	s := newService(t, openStore(t))
	m := createModel(t, s, "relay", nil)
	f := func(config, problem string, tags ...string) {
		t.Helper()
		found, err := s.CheckConfig(t.Context(), m.ID, config)
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.CreateDevice(t.Context(), m.ID, config)
		if problem != "" {
			wantError(t, err, fleet.Invalid, "Config validation failed: "+problem)
			if len(found) == 0 || found[0].Message != problem {
				t.Errorf("%s: the check found %v", config, found)
			}
			return
		}
		if err != nil || len(found) > 0 {
			t.Fatalf("%s: %v, %v", config, err, found)
		}
		if diff := cmp.Diff(tags, slices.Collect(d.Tags.All())); diff != "" {
			t.Errorf("%s: %s", config, diff)
		}
		ref, _ := s.Directory().ByID(d.ID)
		if ref.Tags != d.Tags {
			t.Errorf("%s: the directory has %q", config, ref.Tags)
		}
	}
	f(`{}`, "")
	f(`{"tags": null}`, "")
	f(`{"tags": []}`, "")
	f(`["tags"]`, "")
	f(`{"tags": ["north", "lab", "lab"]}`, "", "lab", "north")
	f(`{"tags": ["höhe-3", "a/b:c"]}`, "", "a/b:c", "höhe-3")
	f(fmt.Sprintf(`{"tags": [%q]}`, strings.Repeat("ä", 64)), "", strings.Repeat("ä", 64))
	f(fmt.Sprintf(`{"tags": [%q]}`, strings.Repeat("ä", 65)), "tags must have 1 to 64 characters")
	f(`{"tags": [""]}`, "tags must have 1 to 64 characters")
	f(`{"tags": "lab"}`, "tags must be an array of strings")
	f(`{"tags": {"lab": true}}`, "tags must be an array of strings")
	f(`{"tags": ["lab", 1]}`, "tags must be strings")
	for _, bad := range []string{"a b", "a\\nb", "a\\tb", "\\u0000", "\\u2028", "\\u00a0", "\\u200b"} {
		f(`{"tags": ["`+strings.ReplaceAll(bad, `\\`, `\`)+`"]}`, "tags must be of printable characters without whitespace")
	}
	list := func(n int) (config string, tags []string) {
		for i := range n {
			tags = append(tags, fmt.Sprintf("t%03d", i))
		}
		return `{"tags": ["` + strings.Join(tags, `", "`) + `"]}`, tags
	}
	config, tags := list(32)
	f(config, "", tags...)
	config, _ = list(33)
	f(config, "tags must be at most 32")
}

// What was stored before there were tags has them after the next start.
func TestTagsOfOldDevices(t *testing.T) {
	store := openStore(t)
	s := newService(t, store)
	m := createModel(t, s, "relay", nil)
	want := map[int64]fleet.Tags{}
	for config, tags := range map[string]fleet.Tags{
		`{"tags": ["b", "a"], "deviceName": "x"}`: "a\nb", `{"tags": []}`: "", `{"deviceName": "tags"}`: "", `{}`: "",
	} {
		d := createDevice(t, s, m.ID, config)
		want[d.ID] = tags
		d.Tags = ""
		if err := store.Tx(t.Context(), func(q registry.Queries) error { return q.UpdateDevice(t.Context(), d) }); err != nil {
			t.Fatal(err)
		}
	}
	odd := createDevice(t, s, m.ID, `{}`)
	odd.Config, want[odd.ID] = `{"tags": "lab"}`, "" // from when that meant nothing
	if err := store.Tx(t.Context(), func(q registry.Queries) error { return q.UpdateDevice(t.Context(), odd) }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got := map[int64]fleet.Tags{}
		for _, ref := range newService(t, store).Directory().All() {
			got[ref.ID] = ref.Tags
			if d, err := store.Device(t.Context(), ref.ID); err != nil || d.Tags != ref.Tags {
				t.Errorf("stored is %+v, %v", d, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// A change that is not allowed is not made, and nobody hears of it.
func TestAllow(t *testing.T) {
	s := newService(t, openStore(t))
	m := createModel(t, s, "relay", nil)
	d := createDevice(t, s, m.ID, `{"deviceName": "before"}`)
	var rec recorder
	s.Observe(rec.observe)
	refusal := errors.New("no")
	var asked []registry.Change
	allow := func(err error) context.Context {
		asked = nil
		return registry.Allow(t.Context(), func(ch registry.Change) error {
			asked = append(asked, ch)
			return err
		})
	}
	if _, err := s.CreateDevice(allow(refusal), m.ID, `{}`); !errors.Is(err, refusal) {
		t.Errorf("created: %v", err)
	}
	if len(asked) != 1 || asked[0].Kind != registry.Created || asked[0].After.ModelCode != "relay" {
		t.Errorf("asked about %+v", asked)
	}
	if _, err := s.UpdateDevice(allow(refusal), d.ID, `{"deviceName": "after"}`, true); !errors.Is(err, refusal) {
		t.Errorf("updated: %v", err)
	}
	if len(asked) != 1 || asked[0].Before.Name != "before" || asked[0].After.Name != "after" {
		t.Errorf("asked about %+v", asked)
	}
	if err := s.DeleteDevice(allow(refusal), d.ID); !errors.Is(err, refusal) {
		t.Errorf("deleted: %v", err)
	}
	if got, err := s.Device(t.Context(), d.ID); err != nil || *got.Name != "before" || s.Directory().Len() != 1 || len(rec.changes) > 0 {
		t.Errorf("%+v, %v, told %v", got, err, rec.changes)
	}
	if _, err := s.UpdateModel(allow(refusal), m.ID, registry.ModelChange{Name: new("n")}); err != nil || len(asked) > 0 {
		t.Errorf("a model is no device: %v", err)
	}
	if err := s.DeleteDevice(allow(nil), d.ID); err != nil {
		t.Error(err)
	}
}
