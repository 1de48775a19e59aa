package registry

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"signalbox/internal/fleet"
)

// Directory finds devices by their names. It holds the whole fleet in memory,
// answers without allocating, and may be read by any number of goroutines. It
// shows committed devices only.
type Directory struct {
	mu       sync.RWMutex
	byID     map[int64]fleet.DeviceRef
	byClient map[string]int64
	byKey    map[string]int64
	// byEntity's slices are sorted by id and never change once a reader may
	// have seen them; see insert.
	byEntity map[string][]fleet.DeviceRef
	shared   int // entity ids of more than one device
}

func newDirectory() *Directory {
	return &Directory{
		byID:     make(map[int64]fleet.DeviceRef),
		byClient: make(map[string]int64),
		byKey:    make(map[string]int64),
		byEntity: make(map[string][]fleet.DeviceRef),
	}
}

// ByEntity returns the devices that have the entity id, oldest first: none, one,
// or several that share it. The slice must not be changed.
func (d *Directory) ByEntity(entityID string) []fleet.DeviceRef {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clip(d.byEntity[entityID])
}

// ByClientID returns the device that authenticates under the client id.
func (d *Directory) ByClientID(clientID string) (fleet.DeviceRef, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	id, ok := d.byClient[clientID]
	return d.byID[id], ok
}

// ByID returns the device with the id.
func (d *Directory) ByID(id int64) (fleet.DeviceRef, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	ref, ok := d.byID[id]
	return ref, ok
}

// ByKey returns the device with the key.
func (d *Directory) ByKey(key string) (fleet.DeviceRef, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	id, ok := d.byKey[key]
	return d.byID[id], ok
}

// All returns every device, oldest first. The slice is the caller's.
func (d *Directory) All() []fleet.DeviceRef {
	d.mu.RLock()
	all := slices.Collect(maps.Values(d.byID))
	d.mu.RUnlock()
	slices.SortFunc(all, byID)
	return all
}

// KeysOfModel returns the keys of the devices of the model with that code.
func (d *Directory) KeysOfModel(code string) (keys []string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, ref := range d.byID {
		if ref.ModelCode == code {
			keys = append(keys, ref.Key)
		}
	}
	return keys
}

// Len returns the number of devices.
func (d *Directory) Len() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.byID)
}

// SharedEntities returns how many entity ids more than one device has. A line
// on the shared topic under such an id belongs to all of them.
func (d *Directory) SharedEntities() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.shared
}

// introduce shows a new device by its id alone; put shows the rest.
func (d *Directory) introduce(ref fleet.DeviceRef) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byID[ref.ID] = ref
}

// put adds the device or replaces the one with its id.
func (d *Directory) put(ref fleet.DeviceRef) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeLocked(ref.ID)
	d.byID[ref.ID] = ref
	d.byClient[ref.ClientID] = ref.ID
	d.byKey[ref.Key] = ref.ID
	if ref.EntityID == "" {
		return
	}
	same := insert(d.byEntity[ref.EntityID], ref)
	d.byEntity[ref.EntityID] = same
	if len(same) == 2 {
		d.shared++
	}
}

// remove forgets the device, if it is there.
func (d *Directory) remove(id int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeLocked(id)
}

func (d *Directory) removeLocked(id int64) {
	old, ok := d.byID[id]
	if !ok {
		return
	}
	delete(d.byID, id)
	delete(d.byClient, old.ClientID)
	delete(d.byKey, old.Key)
	if old.EntityID == "" {
		return
	}
	same := make([]fleet.DeviceRef, 0, len(d.byEntity[old.EntityID]))
	for _, ref := range d.byEntity[old.EntityID] {
		if ref.ID != id {
			same = append(same, ref)
		}
	}
	switch len(same) {
	case 0:
		delete(d.byEntity, old.EntityID)
		return
	case 1:
		d.shared--
	}
	d.byEntity[old.EntityID] = same
}

// insert returns refs with ref in its place by id, leaving what readers of refs
// see as it was. A new device has the highest id, so that the usual case grows
// the array behind the readers' lengths instead of copying it: ten thousand
// devices of one entity id stay affordable.
func insert(refs []fleet.DeviceRef, ref fleet.DeviceRef) []fleet.DeviceRef {
	if len(refs) == 0 || refs[len(refs)-1].ID < ref.ID {
		return append(refs, ref)
	}
	i, _ := slices.BinarySearchFunc(refs, ref, byID)
	return slices.Insert(slices.Clone(refs), i, ref)
}

func byID(a, b fleet.DeviceRef) int { return cmp.Compare(a.ID, b.ID) }
