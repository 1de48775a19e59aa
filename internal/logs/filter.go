package logs

import (
	"bytes"
	"encoding/binary"

	"github.com/FastFilter/xorfilter"
	"github.com/cespare/xxhash/v2"
)

// A token is a run of letters, digits and underscores; whatever is not ASCII
// counts as a letter. Tokens are compared in lower case.

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

// eachToken calls f for every token of text.
func eachToken(text []byte, f func([]byte)) {
	for i := 0; i < len(text); {
		if !isTokenByte(text[i]) {
			i++
			continue
		}
		start := i
		for i < len(text) && isTokenByte(text[i]) {
			i++
		}
		f(text[start:i])
	}
}

// appendLower appends text in lower case to dst.
func appendLower(dst, text []byte) []byte {
	for i, c := range text {
		if c >= 0x80 {
			return append(dst, bytes.ToLower(text[i:])...)
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// tagMark stands before a tag in the filter, where it is no token.
const tagMark = '\x00'

// filterMaker makes filters; it keeps its memory between them.
type filterMaker struct {
	builder xorfilter.BinaryFuseBuilder
	seen    map[uint64]struct{}
	keys    []uint64
	lower   []byte
}

// make returns a filter over the tokens and tags of a block: a binary fuse
// filter of 8 bits (Graf and Lemire, 2022), which says of 1 in 256 absent
// tokens that they are there, and of no present one that it is not. Nil, which
// excludes nothing, is returned if it cannot be made.
func (m *filterMaker) make(b *block) []byte {
	if m.seen == nil {
		m.seen = map[uint64]struct{}{}
	}
	clear(m.seen)
	m.keys = m.keys[:0]
	add := func(h uint64) {
		if _, ok := m.seen[h]; !ok {
			m.seen[h] = struct{}{}
			m.keys = append(m.keys, h)
		}
	}
	m.lower = appendLower(m.lower[:0], b.messages)
	if len(m.lower) == len(b.messages) {
		start := uint32(0)
		for _, end := range b.ends {
			eachToken(m.lower[start:end], func(t []byte) { add(xxhash.Sum64(t)) })
			start = end
		}
	} else { // some letters have another length in lower case
		start := uint32(0)
		var lower []byte
		for _, end := range b.ends {
			lower = appendLower(lower[:0], b.messages[start:end])
			eachToken(lower, func(t []byte) { add(xxhash.Sum64(t)) })
			start = end
		}
	}
	for _, t := range b.tags[1:] {
		add(tagKey(t))
	}
	if len(m.keys) == 0 {
		m.keys = append(m.keys, 0) // the filter of nothing excludes everything
	}
	f, err := xorfilter.BuildBinaryFuse[uint8](&m.builder, m.keys)
	if err != nil {
		return nil
	}
	out := make([]byte, 0, filterHead+len(f.Fingerprints))
	out = binary.LittleEndian.AppendUint64(out, f.Seed)
	out = binary.LittleEndian.AppendUint32(out, f.SegmentLength)
	out = binary.LittleEndian.AppendUint32(out, f.SegmentCount)
	return append(out, f.Fingerprints...)
}

const filterHead = 8 + 4 + 4

// tagKey is the key of a tag in a filter.
func tagKey(tag string) uint64 {
	return xxhash.Sum64(appendLower([]byte{tagMark}, []byte(tag)))
}

// mayHold reports whether a block with that filter may hold all the keys.
func mayHold(filter []byte, keys []uint64) bool {
	if len(keys) == 0 || len(filter) < filterHead {
		return true
	}
	f := xorfilter.BinaryFuse[uint8]{
		Seed:          binary.LittleEndian.Uint64(filter),
		SegmentLength: binary.LittleEndian.Uint32(filter[8:]),
		SegmentCount:  binary.LittleEndian.Uint32(filter[12:]),
		Fingerprints:  filter[filterHead:],
	}
	if f.SegmentLength == 0 || f.SegmentLength&(f.SegmentLength-1) != 0 || f.SegmentCount > 1<<20 || f.SegmentLength > 1<<20 ||
		uint64(f.SegmentCount+2)*uint64(f.SegmentLength) != uint64(len(f.Fingerprints)) {
		return true // damaged, or of another kind: excludes nothing
	}
	f.SegmentLengthMask = f.SegmentLength - 1
	f.SegmentCountLength = f.SegmentCount * f.SegmentLength
	for _, k := range keys {
		if !f.Contains(k) {
			return false
		}
	}
	return true
}
