package logs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// block is a run of one device's lines in columns. A growing block is the
// sealer's; a copy of the struct is a view of what it held then, since columns
// are only ever appended to.
type block struct {
	device string
	epoch  string

	batches []batchMark
	levels  LevelMask
	least   int64 // the earliest and the latest receive time, in microseconds since 1970
	most    int64

	// A column each; line i's message is messages[ends[i-1]:ends[i]].
	level    []Level
	tag      []uint32 // index into tags; 0 is ""
	template []uint32 // index into templates
	uptime   []int64  // milliseconds + 1; 0: none
	ends     []uint32
	messages []byte

	tags      []string
	templates []template

	lower []byte // messages in lower case, if matcher.mayMatch found it as long; else empty
}

// batchMark is where a batch begins in a block.
type batchMark struct {
	seq   uint64
	at    int64 // received, in microseconds since 1970
	first int   // index of its first line in the block
	skip  int   // index of that line in the batch
}

// template is a document without its time stamp and message.
type template struct{ prefix, suffix string }

// LevelMask has the bit 1<<l set for each level l of some lines.
type LevelMask uint8

func (b *block) lines() int { return len(b.level) }

// size is about how many bytes the block takes in memory.
func (b *block) size() int {
	return len(b.messages) + len(b.lower) + 24*len(b.level) + 32*len(b.batches) + 64*len(b.templates)
}

func (b *block) first() uint64 { return b.batches[0].seq }
func (b *block) last() uint64  { return b.batches[len(b.batches)-1].seq }

// line fills in l with the line i, which is in the batch mark.
func (b *block) line(i, mark int, l *Line) {
	m := &b.batches[mark]
	start := uint32(0)
	if i > 0 {
		start = b.ends[i-1]
	}
	*l = Line{
		Cursor: LineCursor{Cursor{b.epoch, m.seq}, i - m.first + m.skip}, Device: b.device, Received: time.UnixMicro(m.at).UTC(),
		Level: b.level[i], Tag: b.tags[b.tag[i]], Message: b.messages[start:b.ends[i]:b.ends[i]],
		template: b.templates[b.template[i]],
	}
	if u := b.uptime[i]; u > 0 {
		l.Uptime, l.HasUptime = time.Duration(u-1)*time.Millisecond, true
	}
}

// builder is a block that grows.
type builder struct {
	block
	tagIndex      map[string]uint32
	templateIndex map[template]uint32
	since         time.Time // when its first line came to the sealer
}

func newBuilder(epoch, device string) *builder {
	return &builder{
		block: block{device: device, epoch: epoch, tags: []string{""}, least: math.MaxInt64, most: math.MinInt64}, since: time.Now(),
		tagIndex: map[string]uint32{"": 0}, templateIndex: map[template]uint32{},
	}
}

// add appends a line, which must be the next one of its device.
func (b *builder) add(l *Line) {
	if n := len(b.batches); n == 0 || b.batches[n-1].seq != l.Cursor.Seq {
		at := l.Received.UnixMicro()
		b.batches = append(b.batches, batchMark{l.Cursor.Seq, at, len(b.level), l.Cursor.Line})
		b.least, b.most = min(b.least, at), max(b.most, at)
	}
	b.levels |= 1 << l.Level
	b.level = append(b.level, l.Level)
	tag, ok := b.tagIndex[l.Tag]
	if !ok {
		tag = uint32(len(b.tags))
		b.tagIndex[l.Tag] = tag
		b.tags = append(b.tags, l.Tag)
	}
	b.tag = append(b.tag, tag)
	// A template is mostly that of the line before.
	known := false
	var t uint32
	if n := len(b.template); n > 0 {
		t = b.template[n-1]
		known = b.templates[t] == l.template
	}
	if !known {
		if t, known = b.templateIndex[l.template]; !known {
			t = uint32(len(b.templates))
			b.templates = append(b.templates, l.template)
			b.templateIndex[l.template] = t
		}
	}
	b.template = append(b.template, t)
	uptime := int64(0)
	if l.HasUptime {
		uptime = l.Uptime.Milliseconds() + 1
	}
	b.uptime = append(b.uptime, uptime)
	b.messages = append(b.messages, l.Message...)
	b.ends = append(b.ends, uint32(len(b.messages)))
}

// addBlock appends the lines of a block of the same device that comes before.
func (b *builder) addBlock(o *block) {
	var l Line
	mark := 0
	for i := range o.lines() {
		for mark+1 < len(o.batches) && o.batches[mark+1].first <= i {
			mark++
		}
		o.line(i, mark, &l)
		b.add(&l)
	}
}

// The bytes of a block, before compression: a version, the tags, the
// templates, the batches and then column after column. Integers are varints
// (as in encoding/binary), sequences and times as differences. A message that
// begins as ESP-IDF writes it, which level, uptime and tag say already, is kept
// without that.
const blockVersion = 1

// appendPrefix appends "I (1234) wifi:", with which ESP-IDF begins a message.
func appendPrefix(dst []byte, level Level, uptime int64, tag string) []byte {
	dst = append(dst, " EWIDV"[level], ' ', '(')
	dst = strconv.AppendInt(dst, uptime-1, 10)
	return append(append(append(dst, ") "...), tag...), ':')
}

// dictionary is what blocks are compressed with beside their own text. It
// helps where there is little of that: a quiet device's block of ten lines is
// half as long with it. Once written it can never change; a better one gets the
// next id.
const (
	dictionaryID = 0x5342_0001
	dictionary   = `{"@timestamp":"20","entity_id":"","message":"","level":"","tag":"","heap":,"rssi":-,"firmware":"1.0.0","relative_time":` +
		`E () task_wdt: Task watchdog got triggered. The following tasks did not reset the watchdog in time: Backtrace: 0x4008 Rebooting... ` +
		`Guru Meditation Error: Core  0 panic'ed (LoadProhibited). Exception was unhandled. rst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT) ` +
		`I (0) cpu_start: Starting scheduler on PRO CPU. boot: ESP-IDF v5 2nd stage bootloader heap_init: At 3FFAE6E0 len 00001920 (6 KiB): DRAM ` +
		`W () wifi: beacon timeout wifi:state: run -> init (c800) wifi:new:<11,0>, old:<1,0>, ap:<255,255>, sta:<11,0>, prof:1 ` +
		`connected with aid = , channel , bssid = esp_netif_handlers: sta ip: 192.168.1. , mask: 255.255.255.0, gw: 192.168.1.1 ` +
		`mqtt_client: Error transport connect MQTT_EVENT_CONNECTED MQTT_EVENT_DISCONNECTED esp-tls: couldn't get hostname for : getaddrinfo() returns 202 ` +
		`connection refused, retry in  ms timeout failed reconnecting published subscribe sensor temperature humidity pressure value battery voltage ota: version is current free heap: `
)

// codecs compress and decompress blocks. All are safe for concurrent use.
type codecs struct {
	enc   *zstd.Encoder
	small *zstd.Encoder // with the dictionary
	dec   *zstd.Decoder

	raw sync.Pool // of *[]byte: the bytes of a block before compression, between two uses
}

// keptBlock is the largest memory, in bytes, that is kept to be used again: few
// blocks have more.
const keptBlock = 1 << 20

// smallBlock is up to which size, in bytes, the dictionary is used: beyond it,
// it gains nothing and costs half of the time.
const smallBlock = 16 << 10

// maxBlock bounds what a block may be decompressed to: several times what the
// largest message can hold.
const maxBlock = 64 << 20

var sharedCodecs = sync.OnceValue(func() *codecs {
	encoder := func(more ...zstd.EOption) *zstd.Encoder {
		enc, err := zstd.NewWriter(nil, append(more, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(true))...)
		if err != nil {
			panic("logs: zstd: " + err.Error()) // the options are constant
		}
		return enc
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderDictRaw(dictionaryID, []byte(dictionary)), zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		panic("logs: zstd: " + err.Error())
	}
	return &codecs{enc: encoder(), small: encoder(zstd.WithEncoderDictRaw(dictionaryID, []byte(dictionary))), dec: dec}
})

// scratch returns memory for the bytes of a block, for keep.
func (c *codecs) scratch() []byte {
	if raw, ok := c.raw.Get().(*[]byte); ok {
		return (*raw)[:0]
	}
	return nil
}

// keep takes memory that nothing refers to any more.
func (c *codecs) keep(raw []byte) {
	if 0 < cap(raw) && cap(raw) <= keptBlock {
		c.raw.Put(&raw)
	}
}

// encode returns the block as stored.
func (b *block) encode() []byte {
	c := sharedCodecs()
	raw := slices.Grow(c.scratch(), len(b.messages)+8*len(b.level)+64*len(b.templates)+1024)
	uv := func(v uint64) { raw = binary.AppendUvarint(raw, v) }
	text := func(s string) { uv(uint64(len(s))); raw = append(raw, s...) }
	raw = append(raw, blockVersion)
	uv(uint64(len(b.tags)))
	for _, t := range b.tags {
		text(t)
	}
	uv(uint64(len(b.templates)))
	for _, t := range b.templates {
		text(t.prefix)
		text(t.suffix)
	}
	uv(uint64(len(b.batches)))
	uv(uint64(len(b.level)))
	var seq uint64
	var at int64
	for i, m := range b.batches {
		uv(m.seq - seq)
		raw = binary.AppendVarint(raw, m.at-at)
		seq, at = m.seq, m.at
		end := len(b.level)
		if i+1 < len(b.batches) {
			end = b.batches[i+1].first
		}
		uv(uint64(end - m.first))
		uv(uint64(m.skip))
	}
	for _, l := range b.level {
		raw = append(raw, byte(l))
	}
	for _, t := range b.tag {
		uv(uint64(t))
	}
	for _, t := range b.template {
		uv(uint64(t))
	}
	var up int64
	for _, u := range b.uptime {
		if u == 0 {
			uv(0)
			continue
		}
		d := u - up
		uv(uint64(d<<1) ^ uint64(d>>63) + 1) // zigzag, as AppendVarint does
		up = u
	}
	// 2 * length of what is kept, + 1 if the prefix is not.
	kept := slices.Grow(c.scratch(), len(b.messages))
	var prefix []byte
	start := uint32(0)
	for i, end := range b.ends {
		m, bare := b.messages[start:end], uint64(0)
		if b.level[i] != Unknown && b.uptime[i] > 0 {
			prefix = appendPrefix(prefix[:0], b.level[i], b.uptime[i], b.tags[b.tag[i]])
			if bytes.HasPrefix(m, prefix) {
				m, bare = m[len(prefix):], 1
			}
		}
		uv(uint64(len(m))<<1 | bare)
		kept = append(kept, m...)
		start = end
	}
	raw = append(raw, kept...)
	enc := c.enc
	if len(raw) <= smallBlock {
		enc = c.small
	}
	packed := enc.EncodeAll(raw, kept[:0]) // what it held is in raw
	data := bytes.Clone(packed)
	c.keep(raw)
	c.keep(packed)
	return data
}

var errBlock = errors.New("damaged block of log lines")

// decode makes b what encode wrote, in the memory that b has. Its error is that
// data is not that; then b is good for nothing but to be decoded into again.
func (b *block) decode(epoch, device string, data []byte) error {
	c := sharedCodecs()
	raw, err := c.dec.DecodeAll(data, c.scratch())
	defer c.keep(raw)
	if err != nil {
		return errors.Join(errBlock, err)
	}
	if len(raw) == 0 || raw[0] != blockVersion {
		return errBlock
	}
	r := &blockReader{rest: raw[1:]}
	b.device, b.epoch, b.levels, b.least, b.most = device, epoch, 0, math.MaxInt64, math.MinInt64
	b.lower = b.lower[:0]
	b.tags = sized(b.tags, r.count())
	for i := range b.tags {
		b.tags[i] = string(r.bytes())
	}
	b.templates = sized(b.templates, r.count())
	for i := range b.templates {
		b.templates[i] = template{string(r.bytes()), string(r.bytes())}
	}
	batches, lines := r.count(), r.count()
	b.batches = sized(b.batches, batches)
	var seq uint64
	var at int64
	first := 0
	for i := range b.batches {
		seq += r.uvarint()
		at += r.varint()
		n, skip := int(r.uvarint()), int(r.uvarint())
		if r.bad || n <= 0 || n > lines-first || skip < 0 {
			return errBlock
		}
		b.batches[i] = batchMark{seq, at, first, skip}
		b.least, b.most = min(b.least, at), max(b.most, at)
		first += n
	}
	if first != lines || lines == 0 {
		return errBlock
	}
	b.level = sized(b.level, lines)
	for i, l := range r.take(lines) {
		if Level(l) > Verbose {
			return errBlock
		}
		b.level[i] = Level(l)
		b.levels |= 1 << l
	}
	index := func(column []uint32, n int) []uint32 {
		column = sized(column, lines)
		for i := range column {
			v := r.uvarint()
			if v >= uint64(n) {
				r.bad = true
				return column
			}
			column[i] = uint32(v)
		}
		return column
	}
	b.tag, b.template = index(b.tag, len(b.tags)), index(b.template, len(b.templates))
	b.uptime = sized(b.uptime, lines)
	var up int64
	for i := range b.uptime {
		b.uptime[i] = 0
		if d := r.uvarint(); d > 0 {
			d--
			up += int64(d>>1) ^ -int64(d&1)
			b.uptime[i] = up
		}
	}
	b.ends = sized(b.ends, lines)
	for i := range b.ends { // the lengths, for now
		n := r.uvarint()
		if n > 2*uint64(len(raw)) {
			return errBlock
		}
		b.ends[i] = uint32(n)
	}
	if r.bad {
		return errBlock
	}
	b.messages = slices.Grow(b.messages[:0], len(r.rest)+16*lines)
	for i, n := range b.ends {
		if n&1 == 1 {
			b.messages = appendPrefix(b.messages, b.level[i], b.uptime[i], b.tags[b.tag[i]])
		}
		b.messages = append(b.messages, r.take(int(n>>1))...)
		b.ends[i] = uint32(len(b.messages))
	}
	if r.bad || len(r.rest) > 0 {
		return errBlock
	}
	return nil
}

// sized returns a slice of n elements of any value, in the memory of s if that is enough.
func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// blockReader reads varints; after a fault it gives zeros.
type blockReader struct {
	rest []byte
	bad  bool
}

func (r *blockReader) uvarint() uint64 {
	if len(r.rest) > 0 && r.rest[0] < 0x80 { // nearly all are that small
		v := r.rest[0]
		r.rest = r.rest[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *blockReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads the number of things that take a byte at least.
func (r *blockReader) count() int {
	v := r.uvarint()
	if v > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return 0
	}
	return int(v)
}

func (r *blockReader) take(n int) []byte {
	if n > len(r.rest) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *blockReader) bytes() []byte { return r.take(r.count()) }
