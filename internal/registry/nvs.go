package registry

import (
	"encoding/binary"
	"hash/crc32"

	"signalbox/internal/fleet"
)

// The layout of a page of ESP-IDF's non-volatile storage, version 2, as its
// partition generator writes it.
const (
	nvsPage    = 4096
	nvsEntry   = 32
	nvsEntries = 126 // of a page, behind the header and the bitmap

	nvsActive = 0xFFFFFFFE // state of a page that is being filled
	nvsFull   = 0xFFFFFFFC
	nvsText   = 4000 // longest string, with its NUL

	// NVSMinSize and NVSStep bound the size of a partition, in bytes: at least
	// three pages, and whole ones.
	NVSMinSize = 3 * nvsPage
	NVSStep    = nvsPage
)

// NVSString is a key and its value. A key has 1 to 15 bytes.
type NVSString struct{ Key, Value string }

// NVS returns a partition of size bytes that holds the strings in one
// namespace, as an ESP-IDF device reads it. The same input gives the same bytes.
// Errors are fleet.Invalid: a size that is no multiple of NVSStep or below
// NVSMinSize, a value that is empty or too long, strings that do not fit.
func NVS(namespace string, values []NVSString, size int) ([]byte, error) {
	if size < NVSMinSize || size%NVSStep != 0 {
		return nil, fleet.E(fleet.Invalid, nil, "partition_size must be a multiple of %d, and at least %d", NVSStep, NVSMinSize)
	}
	w := &nvsWriter{data: make([]byte, size)}
	for i := range w.data {
		w.data[i] = 0xFF
	}
	w.write(nvsHead(0, 0x01, 1, namespace, []byte{1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}))
	for _, v := range values {
		if v.Value == "" {
			return nil, fleet.E(fleet.Invalid, nil, "Provisioning field '%s' cannot be empty", v.Key)
		}
		text := append([]byte(v.Value), 0)
		if len(text) > nvsText {
			return nil, fleet.E(fleet.Invalid, nil, "Provisioning field '%s' is too long", v.Key)
		}
		span := 1 + (len(text)+nvsEntry-1)/nvsEntry
		var about [8]byte
		binary.LittleEndian.PutUint16(about[:], uint16(len(text)))
		about[2], about[3] = 0xFF, 0xFF
		binary.LittleEndian.PutUint32(about[4:], nvsCRC(text))
		entries := append(nvsHead(1, 0x21, byte(span), v.Key, about[:]), text...)
		for len(entries) < span*nvsEntry {
			entries = append(entries, 0xFF)
		}
		w.write(entries)
	}
	// The last page stays free: the device needs one to tidy up.
	if w.page > size/nvsPage-2 {
		return nil, fleet.E(fleet.Invalid, nil, "The provisioning data does not fit in a partition of %d bytes", size)
	}
	return w.data, nil
}

// nvsHead returns the first entry of an item.
func nvsHead(namespace, kind, span byte, key string, data []byte) []byte {
	e := make([]byte, nvsEntry)
	e[0], e[1], e[2], e[3] = namespace, kind, span, 0xFF
	copy(e[8:23], key) // the last byte of the sixteen stays NUL
	copy(e[24:], data)
	binary.LittleEndian.PutUint32(e[4:], crc32.Update(nvsCRC(e[:4]), crc32.IEEETable, e[8:]))
	return e
}

// nvsCRC is CRC-32 as zlib computes it, begun with all ones.
func nvsCRC(b []byte) uint32 { return crc32.Update(0xFFFFFFFF, crc32.IEEETable, b) }

type nvsWriter struct {
	data []byte
	page int // that is written to
	used int // entries of it
}

// write adds an item, on the next page if it does not fit in this one. What does
// not fit in the partition is left out, and the page says so.
func (w *nvsWriter) write(item []byte) {
	n := len(item) / nvsEntry
	if w.used+n > nvsEntries {
		w.header(nvsFull)
		w.page, w.used = w.page+1, 0
	}
	start := w.page * nvsPage
	if start >= len(w.data) {
		return
	}
	copy(w.data[start+(2+w.used)*nvsEntry:], item)
	for i := w.used; i < w.used+n; i++ { // two bits of an entry: 10 is written
		w.data[start+nvsEntry+i/4] &^= 1 << (i % 4 * 2)
	}
	w.used += n
	w.header(nvsActive)
}

// header writes the head of the page.
func (w *nvsWriter) header(state uint32) {
	start := w.page * nvsPage
	if start >= len(w.data) {
		return
	}
	h := w.data[start : start+nvsEntry]
	binary.LittleEndian.PutUint32(h, state)
	binary.LittleEndian.PutUint32(h[4:], uint32(w.page))
	h[8] = 0xFE // version 2
	binary.LittleEndian.PutUint32(h[28:], nvsCRC(h[4:28]))
}
