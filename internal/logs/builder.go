package logs

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// ChunkBuilder makes chunks of lines that do not come through the journal, in
// the way the Sealer does.
type ChunkBuilder struct {
	epoch    string
	builders map[string]*builder // growing, by device key
	full     []*builder          // each device's in order
	lines    int
	bytes    int
}

// NewChunkBuilder returns an empty ChunkBuilder for lines of an epoch.
func NewChunkBuilder(epoch string) *ChunkBuilder {
	return &ChunkBuilder{epoch: epoch, builders: map[string]*builder{}}
}

// Add appends a line, which must come after all others of its device. It holds
// on to nothing of it.
func (c *ChunkBuilder) Add(l *Line) {
	b := c.builders[l.Device]
	if b == nil {
		b = newBuilder(c.epoch, l.Device)
		c.builders[l.Device] = b
	}
	before := b.size()
	b.add(l)
	c.lines++
	c.bytes += b.size() - before
	if b.lines() >= sealLines || len(b.messages) >= sealBytes {
		delete(c.builders, l.Device)
		c.full = append(c.full, b)
	}
}

// Lines and Bytes are what was added since Chunks was last called.
func (c *ChunkBuilder) Lines() int { return c.lines }

// Bytes is about how many bytes of memory that takes.
func (c *ChunkBuilder) Bytes() int { return c.bytes }

// Chunks returns the chunks of all lines that were added, and begins anew. The
// store must take them before it is called again: small ones go on with what the
// store has of a device.
func (c *ChunkBuilder) Chunks(ctx context.Context, store Chunks) ([]Chunk, error) {
	all := c.full
	for _, b := range c.builders {
		all = append(all, b)
	}
	chunks, err := chunksOf(ctx, store, all, sealLines, sealBytes)
	if err == nil {
		clear(c.builders)
		c.full, c.lines, c.bytes = nil, 0, 0
	}
	return chunks, err
}

// chunksOf makes chunks of blocks, each device's in order. A small block is joined with the device's last
// chunk if that is small too, so that a quiet device's lines do not end up in
// many small chunks.
func chunksOf(ctx context.Context, store Chunks, builders []*builder, maxLines, maxBytes int) ([]Chunk, error) {
	chunks := make([]Chunk, len(builders))
	blocks := make([]*block, len(builders))
	err := store.View(ctx, func(v ChunkView) error {
		seen := map[string]bool{} // what is stored of those is not what comes before
		for i, b := range builders {
			blocks[i] = &b.block
			if b.lines() >= maxLines*3/4 || seen[b.device] {
				seen[b.device] = true
				continue
			}
			seen[b.device] = true
			old, ok, err := v.Newest(ctx, b.epoch, b.device)
			if err != nil {
				return err
			}
			if !ok || old.Lines+b.lines() > maxLines || old.Bytes+len(b.messages) > maxBytes {
				continue
			}
			before, err := readChunk(ctx, v, &old)
			if errors.Is(err, errBlock) {
				continue // it stays, by itself; who reads it is told
			}
			if err != nil {
				return err
			}
			joined := newBuilder(b.epoch, b.device)
			joined.addBlock(before)
			joined.addBlock(&b.block)
			blocks[i], chunks[i].Replaces = &joined.block, old.ID
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var group errgroup.Group
	workers := min(runtime.GOMAXPROCS(0), 4)
	for worker := range workers {
		group.Go(func() error {
			var filters filterMaker
			for i := worker; i < len(blocks); i += workers {
				chunks[i].fill(blocks[i], &filters)
			}
			return nil
		})
	}
	_ = group.Wait() // they do not fail
	slices.SortStableFunc(chunks, func(a, b Chunk) int { return strings.Compare(a.Device, b.Device) })
	return chunks, nil
}

// fill makes c the chunk of a block.
func (c *Chunk) fill(b *block, filters *filterMaker) {
	c.Filter, c.Data = filters.make(b), b.encode()
	c.ChunkInfo = ChunkInfo{
		Device: b.device, Epoch: b.epoch, First: b.first(), Last: b.last(),
		Least: time.UnixMicro(b.least), Most: time.UnixMicro(b.most),
		Lines: b.lines(), Bytes: len(b.messages), Stored: len(c.Data) + len(c.Filter), Levels: b.levels,
	}
}
