package logs

import (
	"encoding/binary"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/FastFilter/xorfilter"
	"github.com/cespare/xxhash/v2"
)

// A token is a run of letters, digits and underscores; whatever is not ASCII
// counts as a letter. Tokens are compared in lower case.

func isTokenByte(c byte) bool { return tokenBytes[c] }

var tokenBytes = func() (is [256]bool) {
	for c := range is {
		c := byte(c)
		is[c] = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
	}
	return is
}()

// appendLower appends text in lower case to dst.
func appendLower(dst, text []byte) []byte {
	dst, _ = lower(dst, text)
	return dst
}

// lower appends text in lower case to dst, and reports whether every letter is
// as long as it was, so that what was at an offset of text still is.
func lower(dst, text []byte) (_ []byte, aligned bool) {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	dst, aligned = slices.Grow(dst, len(text)), true
	for {
		for len(text) >= 8 {
			word := binary.LittleEndian.Uint64(text)
			if word&high != 0 {
				break
			}
			// Of each byte, the highest bit of the first sum says that it is at least
			// 'A', that of the second that it is beyond 'Z'; none overflows.
			capital := (word + (0x80-'A')*ones) &^ (word + (0x80-'Z'-1)*ones) & high
			dst = binary.LittleEndian.AppendUint64(dst, word|capital>>2)
			text = text[8:]
		}
		for len(text) > 0 && text[0] < utf8.RuneSelf {
			c := text[0]
			if c-'A' < 26 {
				c |= 0x20
			}
			dst, text = append(dst, c), text[1:]
		}
		if len(text) == 0 {
			return dst, aligned
		}
		for len(text) > 0 && text[0] >= utf8.RuneSelf { // as bytes.ToLower does
			r, size := utf8.DecodeRune(text)
			before := len(dst)
			dst = utf8.AppendRune(dst, unicode.ToLower(r))
			aligned = aligned && len(dst)-before == size
			text = text[size:]
		}
	}
}

// tagMark stands before a tag in the filter, where it is no token.
const tagMark = '\x00'

// filterMaker makes filters; it keeps its memory between them.
type filterMaker struct {
	builder xorfilter.BinaryFuseBuilder
	seen    []uint64 // a hash table of keys with open addressing; its length is a power of 2
	keys    []uint64
	lower   []byte
}

// add notes a key, once.
func (m *filterMaker) add(key uint64) {
	if key == 0 { // marks a free place
		key = 1
	}
	mask := uint64(len(m.seen) - 1)
	for i := key & mask; ; i = (i + 1) & mask {
		switch m.seen[i] {
		case key:
			return
		case 0:
			m.seen[i] = key
			if m.keys = append(m.keys, key); 2*len(m.keys) > len(m.seen) {
				m.grow()
			}
			return
		}
	}
}

func (m *filterMaker) grow() {
	m.seen = make([]uint64, 2*len(m.seen))
	mask := uint64(len(m.seen) - 1)
	for _, key := range m.keys {
		i := key & mask
		for m.seen[i] != 0 {
			i = (i + 1) & mask
		}
		m.seen[i] = key
	}
}

// make returns a filter over the tokens and tags of a block: a binary fuse
// filter of 8 bits (Graf and Lemire, 2022), which says of 1 in 256 absent
// tokens that they are there, and of no present one that it is not. Nil, which
// excludes nothing, is returned if it cannot be made.
func (m *filterMaker) make(b *block) []byte {
	if m.seen == nil {
		m.seen = make([]uint64, 1<<13)
	}
	clear(m.seen)
	m.keys = m.keys[:0]
	var same bool
	m.lower, same = lower(m.lower[:0], b.messages)
	start := uint32(0)
	for _, end := range b.ends {
		text := m.lower
		if same {
			text = text[start:end]
		} else {
			m.lower = appendLower(m.lower[:0], b.messages[start:end])
			text = m.lower
		}
		start = end
		for i := 0; i < len(text); {
			if !tokenBytes[text[i]] {
				i++
				continue
			}
			from := i
			for i < len(text) && tokenBytes[text[i]] {
				i++
			}
			m.add(xxhash.Sum64(text[from:i]))
		}
	}
	for _, t := range b.tags[1:] {
		m.add(tagKey(t))
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
		if k == 0 {
			k = 1 // see filterMaker.add
		}
		if !f.Contains(k) {
			return false
		}
	}
	return true
}
