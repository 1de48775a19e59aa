package registry

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"signalbox/internal/fleet"
)

func ref(id int64, entity string) fleet.DeviceRef {
	key := fmt.Sprintf("key%05d", id)
	return fleet.DeviceRef{ID: id, Key: key, ClientID: fleet.ClientID("relay", key), EntityID: entity, ModelID: 1}
}

// The directory agrees with a plain map after any changes, and no slice that a
// reader ever got changes under its hands.
func TestDirectory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type held struct{ got, copied []fleet.DeviceRef }
		d := newDirectory()
		model := make(map[int64]fleet.DeviceRef)
		var readers []held
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				r := ref(rapid.Int64Range(1, 8).Draw(t, "id"), rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "entity"))
				d.put(r)
				model[r.ID] = r
			},
			"remove": func(t *rapid.T) {
				id := rapid.Int64Range(1, 8).Draw(t, "id")
				d.remove(id)
				delete(model, id)
			},
			"": func(t *rapid.T) {
				entities := make(map[string][]fleet.DeviceRef)
				for _, id := range slices.Sorted(maps.Keys(model)) {
					r := model[id]
					entities[r.EntityID] = append(entities[r.EntityID], r)
				}
				shared := 0
				for _, entity := range []string{"a", "b"} {
					got := d.ByEntity(entity)
					if !slices.Equal(got, entities[entity]) {
						t.Fatalf("%s: got %v, want %v", entity, got, entities[entity])
					}
					readers = append(readers, held{got, slices.Clone(got)})
					if len(got) > 1 {
						shared++
					}
				}
				if d.SharedEntities() != shared || d.Len() != len(model) || len(d.ByEntity("")) != 0 {
					t.Fatalf("%d shared of %d devices, want %d of %d", d.SharedEntities(), d.Len(), shared, len(model))
				}
				for id := range int64(9) {
					want, wanted := model[id]
					r := ref(id, "")
					for name, look := range map[string]func() (fleet.DeviceRef, bool){
						"id":        func() (fleet.DeviceRef, bool) { return d.ByID(id) },
						"key":       func() (fleet.DeviceRef, bool) { return d.ByKey(r.Key) },
						"client id": func() (fleet.DeviceRef, bool) { return d.ByClientID(r.ClientID) },
					} {
						if got, ok := look(); ok != wanted || got != want {
							t.Fatalf("device %d by %s: %v, %v", id, name, got, ok)
						}
					}
				}
				if diff := cmp.Diff(slices.SortedFunc(maps.Values(model), byID), d.All()); diff != "" && len(model) > 0 {
					t.Fatal(diff)
				}
				for _, h := range readers {
					if !slices.Equal(h.got, h.copied) {
						t.Fatalf("a reader's slice changed from %v to %v", h.copied, h.got)
					}
				}
			},
		})
	})
}

func TestDirectoryConcurrently(t *testing.T) {
	d := newDirectory()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range int64(2000) {
				for _, r := range d.ByEntity("a") {
					if r.EntityID != "a" {
						t.Errorf("got %v", r)
					}
				}
				d.ByKey(fmt.Sprintf("key%05d", i))
			}
		})
	}
	for i := range int64(500) {
		d.put(ref(i, "a"))
		if i%3 == 0 {
			d.remove(i / 2)
		}
	}
	wg.Wait()
}

func BenchmarkByEntity(b *testing.B) {
	d := newDirectory()
	for i := range int64(10_000) {
		d.put(ref(i, fmt.Sprintf("entity_%d", i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(d.ByEntity("entity_5000")) != 1 {
			b.Fatal("lost")
		}
	}
}
