package nats

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

const (
	streamName      = "LOGS"
	logsPrefix      = "logs."                 // + device key: what matched a device
	unmatchedPrefix = "unmatched."            // + reason: what did not
	livePrefix      = "live."                 // + device key: each stored batch, republished
	cutSubject      = unmatchedPrefix + "cut" // an empty message for each sequence of a cut
	epochKey        = "signalbox-epoch"
	cutsKey         = "signalbox-cuts"   // "<from>-<to> ..."
	originHeader    = "Signalbox-Origin" // of a record: logs.Batch.Origin

	maxAppends    = 4096 // appends under way
	appendTimeout = 15 * time.Second
	apiTimeout    = 10 * time.Second
	pageRecords   = 256
	pageBytes     = 512 << 10
	prefetchBytes = 16 << 20 // must hold at least one record of maxPayload
	stallTimeout  = time.Second
	liveQueue     = 1 << 16 // records between the connection and the hub
	liveHigh      = liveQueue * 3 / 4
)

// JournalOptions are the limits of the journal; zero values do not limit.
type JournalOptions struct {
	MaxBytes int64
	MaxAge   time.Duration
	// Mark is the file that says which sequences may have been given out, so
	// that none is given twice when the end of the journal was lost; "" for none.
	Mark string
	Log  *slog.Logger
}

// Journal is logs.Journal on a JetStream stream. The stream republishes each
// stored batch together with its sequence and the device's previous one, which
// is how every process that has readers of the device hears of it.
type Journal struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	config jetstream.StreamConfig
	epoch  string
	mark   *mark // nil: none is kept
	log    *slog.Logger

	cutMu sync.Mutex
	cuts  []logs.Cut // in order; of the newest

	// Appends. The acknowledgements of one stream to one connection come in the
	// order of the appends, so a queue holds what is under way.
	server  *Server // knows the newest sequence that was acknowledged
	inbox   string  // prefix of the reply subjects
	acks    *nats.Subscription
	slots   chan struct{} // one is taken by each append under way
	append  sync.Mutex    // keeps queue and wire in one order
	queueMu sync.Mutex
	queue   []pending
	nextID  uint64
	stop    chan struct{}
	janitor sync.WaitGroup

	// Live.
	live    chan *nats.Msg
	lost    chan struct{} // has room for one: something may have been missed
	watchMu sync.Mutex
	watches map[string]*nats.Subscription
}

type pending struct {
	id   uint64
	at   time.Time
	done func(uint64, error)
}

// OpenJournal creates or opens the stream. server is where it runs.
func OpenJournal(ctx context.Context, server *Server, o JournalOptions) (*Journal, error) {
	j := &Journal{
		server: server, log: o.Log, slots: make(chan struct{}, maxAppends), stop: make(chan struct{}),
		live: make(chan *nats.Msg, liveQueue), lost: make(chan struct{}, 1), watches: map[string]*nats.Subscription{},
	}
	conn, err := server.connect(
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			j.log.Error("journal connection", "err", err)
			j.loseLive()
		}),
		nats.ReconnectHandler(func(*nats.Conn) { j.loseLive() }),
	)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j.conn = conn
	if err := j.open(ctx, o); err != nil {
		conn.Close()
		return nil, fmt.Errorf("journal: %w", err)
	}
	j.janitor.Go(j.expire)
	return j, nil
}

func (j *Journal) open(ctx context.Context, o JournalOptions) (err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if j.js, err = jetstream.New(j.conn); err != nil {
		return err
	}
	config := jetstream.StreamConfig{
		Name:        streamName,
		Description: "The journal of device logs",
		Subjects:    []string{logsPrefix + "*", unmatchedPrefix + "*"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxBytes:    o.MaxBytes,
		MaxAge:      o.MaxAge,
		Storage:     jetstream.FileStorage,
		Duplicates:  100 * time.Millisecond, // not used, and not free
		AllowDirect: true,
		RePublish:   &jetstream.RePublish{Source: logsPrefix + "*", Destination: livePrefix + "{{wildcard(1)}}"},
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = -1
	}
	epoch := strings.ToLower(rand.Text()[:8])
	config.Metadata = map[string]string{}
	old, err := j.js.Stream(ctx, streamName)
	switch {
	case err == nil:
		info := old.CachedInfo()
		epoch = info.Config.Metadata[epochKey]
		for _, c := range parseCuts(info.Config.Metadata[cutsKey]) {
			if c.To >= info.State.FirstSeq {
				j.cuts = append(j.cuts, c)
			}
		}
		config.Metadata[cutsKey] = formatCuts(j.cuts)
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	}
	config.Metadata[epochKey] = epoch
	if j.stream, err = j.js.CreateOrUpdateStream(ctx, config); err != nil {
		return err
	}
	j.config, j.epoch = config, epoch
	j.server.acknowledge(j.stream.CachedInfo().State.LastSeq)
	if o.Mark != "" {
		if err := j.openMark(ctx, o.Mark); err != nil {
			return err
		}
	}
	j.inbox = j.conn.NewInbox() + "."
	j.acks, err = j.conn.Subscribe(j.inbox+"*", j.acked)
	if err != nil {
		return err
	}
	return j.acks.SetPendingLimits(-1, -1) // bounded by slots
}

// Epoch implements logs.Journal.
func (j *Journal) Epoch() string { return j.epoch }

// Append implements logs.Journal.
func (j *Journal) Append(b logs.Batch, done func(uint64, error)) {
	subject := logsPrefix + b.Device
	if b.Device == "" {
		subject = unmatchedPrefix + string(b.Unmatched)
	}
	j.slots <- struct{}{}
	j.append.Lock()
	defer j.append.Unlock()
	j.queueMu.Lock()
	j.nextID++
	id := j.nextID
	j.queue = append(j.queue, pending{id, time.Now(), done})
	j.queueMu.Unlock()
	m := nats.Msg{Subject: subject, Reply: j.inbox + strconv.FormatUint(id, 36), Data: b.Body}
	if b.Origin != "" {
		m.Header = nats.Header{originHeader: []string{b.Origin}}
	}
	if err := j.conn.PublishMsg(&m); err != nil {
		j.settle(id, 0, fleet.E(fleet.Unavailable, err, "The log journal is not available"))
	}
}

// ack is what JetStream answers to a publication.
type ack struct {
	Seq   uint64 `json:"seq"`
	Error *struct {
		Code        int    `json:"code"`
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// acked takes one acknowledgement. Only the ack subscription's goroutine runs it.
func (j *Journal) acked(m *nats.Msg) {
	id, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, j.inbox), 36, 64)
	if err != nil {
		return
	}
	var a ack
	err = json.Unmarshal(m.Data, &a)
	switch {
	case err != nil:
		err = fleet.E(fleet.Unavailable, err, "The log journal gave no answer") // also: nobody serves the subject
	case a.Error != nil:
		err = fleet.E(fleet.Unavailable, fmt.Errorf("JetStream error %d: %s", a.Error.ErrCode, a.Error.Description), "The log journal refused a batch")
	case a.Seq == 0:
		err = fleet.E(fleet.Unavailable, nil, "The log journal gave no answer")
	case j.mark != nil:
		if err = j.mark.raise(a.Seq); err != nil {
			err = fleet.E(fleet.Unavailable, err, "The log journal cannot note how far it is")
		}
	}
	if err == nil {
		j.server.acknowledge(a.Seq)
	}
	j.settle(id, a.Seq, err)
}

// settle answers the append of that id, and before it those of lower ids that
// were passed over: their answers will not come.
func (j *Journal) settle(id, seq uint64, err error) {
	j.queueMu.Lock()
	defer j.queueMu.Unlock() // done is called under it, which keeps the order
	for len(j.queue) > 0 && j.queue[0].id <= id {
		p := j.queue[0]
		j.queue[0] = pending{}
		j.queue = j.queue[1:]
		<-j.slots
		if p.id == id {
			p.done(seq, err)
		} else {
			p.done(0, fleet.E(fleet.Unavailable, nil, "The log journal gave no answer"))
		}
	}
}

// expire gives up appends that were not answered in time.
func (j *Journal) expire() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-j.stop:
			return
		case now := <-tick.C:
			j.queueMu.Lock()
			var last uint64
			for _, p := range j.queue {
				if now.Sub(p.at) < appendTimeout {
					break
				}
				last = p.id
			}
			j.queueMu.Unlock()
			if last != 0 {
				j.settle(last, 0, fleet.E(fleet.Unavailable, nil, "The log journal gave no answer"))
			}
		}
	}
}

// Bounds implements logs.Journal.
func (j *Journal) Bounds(ctx context.Context) (oldest, newest uint64, err error) {
	state, err := j.state(ctx)
	if err != nil {
		return 0, 0, err
	}
	if state.Msgs == 0 {
		return state.LastSeq + 1, state.LastSeq, nil
	}
	return state.FirstSeq, state.LastSeq, nil
}

// Newest implements logs.Journal. The server is in this process and nobody else
// appends to its stream, so what it acknowledged is known without asking it.
func (j *Journal) Newest(context.Context) (uint64, error) {
	if j.conn.IsClosed() {
		return 0, fleet.E(fleet.Unavailable, nats.ErrConnectionClosed, "The log journal is not available")
	}
	return j.server.newest.Load(), nil
}

// Size returns the bytes that the journal holds and the time of its oldest record.
func (j *Journal) Size(ctx context.Context) (bytes uint64, oldest time.Time, err error) {
	state, err := j.state(ctx)
	return state.Bytes, state.FirstTime, err
}

func (j *Journal) state(ctx context.Context) (jetstream.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	info, err := j.stream.Info(ctx)
	if err != nil {
		return jetstream.StreamState{}, fleet.E(fleet.Unavailable, err, "The log journal is not available")
	}
	return info.State, nil
}

// Replay implements logs.Journal.
func (j *Journal) Replay(ctx context.Context, devices []string, after uint64, emit func(logs.Page) error) (uint64, error) {
	_, upTo, err := j.Bounds(ctx)
	if err != nil {
		return 0, err
	}
	subjects := make([]string, len(devices))
	for i, d := range devices {
		subjects[i] = logsPrefix + d
	}
	if devices == nil {
		subjects = []string{logsPrefix + "*"}
	}
	for {
		switch last, err := j.replay(ctx, subjects, &after, upTo, emit); {
		case err == nil:
			return max(upTo, last), nil
		case !errors.Is(err, errDropped):
			return 0, err
		}
		j.log.Debug("records were dropped on their way to a reader, which goes on behind the last one", "seq", after)
	}
}

// errDropped says that the client threw records away because its buffer, in
// which they share the room with the server's notices, was full.
var errDropped = errors.New("records were dropped")

// replay reads on, with a consumer that lives as long as the call, and returns
// the sequence of the last record. after moves with what was emitted; upTo is what
// the journal held in the beginning.
func (j *Journal) replay(ctx context.Context, subjects []string, after *uint64, upTo uint64, emit func(logs.Page) error) (last uint64, err error) {
	consumer, err := j.consumer(ctx, *after, time.Minute, subjects...)
	if err != nil {
		return 0, fleet.E(fleet.Unavailable, err, "The log journal cannot be read")
	}
	defer j.drop(ctx, consumer)

	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(pageRecords, prefetchBytes), jetstream.WithMessagesErrOnMissingHeartbeat(false))
	if err != nil {
		return 0, fleet.E(fleet.Unavailable, err, "The log journal cannot be read")
	}
	defer messages.Stop()
	delivered := uint64(0) // by the consumer's own count, which has no holes
	for pending, first := consumer.CachedInfo().NumPending, true; pending > 0 || first; first = false {
		var page logs.Page
		if page.Records, pending, err = nextPage(ctx, consumer, messages, pending, &delivered); err != nil {
			return 0, err
		}
		if page.Oldest, _, err = j.Bounds(ctx); err != nil {
			return 0, err
		}
		end := *after
		if n := len(page.Records); n > 0 {
			last = page.Records[n-1].Seq
			end = last
		}
		if pending == 0 {
			end = max(end, upTo)
		}
		if err := logs.WithCuts(j.epoch, j.knownCuts(), *after, end, page, emit); err != nil {
			return 0, err
		}
		*after = max(*after, last)
	}
	return last, nil
}

// Consume implements logs.Journal. It asks for what has come since the last
// time instead of having each record pushed when it comes: a page at a time
// costs a small part of what so many wake-ups do, and nobody waits for it who
// does not say so by hurry.
func (j *Journal) Consume(ctx context.Context, after uint64, hurry <-chan struct{}, emit func([]logs.Record) error) error {
	const shortest, longest = 100 * time.Millisecond, 5 * time.Second
	wait := shortest
	var consumer jetstream.Consumer
	defer func() { j.drop(ctx, consumer) }()
	size := consumeRecords
	for ctx.Err() == nil {
		page, pending, err := j.next(ctx, &consumer, after, size)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			j.log.Warn("the journal cannot be read; trying again", "err", err, "wait", wait)
			j.drop(ctx, consumer)
			consumer = nil
			sleep(ctx, wait, nil)
			wait = min(2*wait, longest)
			continue
		}
		wait = shortest
		if len(page) > 0 {
			after = page[len(page)-1].Seq
			if err := emit(page); err != nil {
				return err
			}
		}
		switch {
		case pending == 0:
			sleep(ctx, consumePace, hurry)
			size = consumePiece
		case pending < consumeRecords:
			sleep(ctx, consumePause, hurry)
			size = consumePiece
		default:
			size = consumeRecords
		}
	}
	return nil
}

// Consume looks for new records from time to time. What it finds it takes in
// small pieces, so that live delivery, which shares the processors, hardly
// notices; only what is far behind is taken as fast as it can be.
const (
	consumePace    = 500 * time.Millisecond
	consumePiece   = 128 // records
	consumePause   = 2 * time.Millisecond
	consumeRecords = 1024
)

// sleep waits for the time to pass, ctx to end or hurry.
func sleep(ctx context.Context, d time.Duration, hurry <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-hurry:
	case <-ctx.Done():
	}
}

// next returns the records after the sequence that are there now, up to that
// many, from the consumer, which is made when it is nil; and how many more
// there are.
func (j *Journal) next(ctx context.Context, consumer *jetstream.Consumer, after uint64, size int) (page []logs.Record, pending uint64, err error) {
	if *consumer == nil {
		if *consumer, err = j.consumer(ctx, after, time.Hour); err != nil {
			*consumer = nil // and not an interface that holds nothing
			return nil, 0, err
		}
	}
	batch, err := (*consumer).FetchNoWait(size)
	if err != nil {
		return nil, 0, err
	}
	for m := range batch.Messages() {
		var meta *jetstream.MsgMetadata
		if page, meta, err = appendRecord(page, m); err != nil {
			return nil, 0, err
		}
		pending = meta.NumPending
	}
	if err := batch.Error(); err != nil {
		return nil, 0, err
	}
	last := after
	for _, rec := range page {
		if rec.Seq != last+1 {
			// Either the journal gave up what is missing, or it got lost on its way.
			oldest, _, err := j.Bounds(ctx)
			if err != nil {
				return nil, 0, err
			}
			if oldest <= last+1 {
				return nil, 0, fmt.Errorf("record %d came after %d", rec.Seq, last)
			}
		}
		last = rec.Seq
	}
	return page, pending, nil
}

// consumer makes a consumer of what comes after the sequence on the subjects, or
// on all. The server forgets it when it was idle for so long.
func (j *Journal) consumer(ctx context.Context, after uint64, idle time.Duration, subjects ...string) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return j.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubjects:    subjects,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       after + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: idle,
	})
}

// drop deletes a consumer, if there is one.
func (j *Journal) drop(ctx context.Context, consumer jetstream.Consumer) {
	if consumer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
	defer cancel()
	if err := j.stream.DeleteConsumer(ctx, consumer.CachedInfo().Name); err != nil {
		j.log.Debug("a reading consumer was not deleted and will expire", "err", err)
	}
}

// appendRecord appends what the message holds to records, and returns where the
// message stands.
func appendRecord(records []logs.Record, m jetstream.Msg) ([]logs.Record, *jetstream.MsgMetadata, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, nil, fleet.E(fleet.Unavailable, err, "The log journal cannot be read")
	}
	device, _ := strings.CutPrefix(m.Subject(), logsPrefix)
	if device == m.Subject() {
		device = "" // matched none
	}
	return append(records, logs.Record{Seq: meta.Sequence.Stream, Device: device, Body: m.Data()}), meta, nil
}

// Trim implements logs.Journal.
func (j *Journal) Trim(ctx context.Context, below uint64) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := j.stream.Purge(ctx, jetstream.WithPurgeSequence(below)); err != nil {
		return fleet.E(fleet.Unavailable, err, "The log journal is not available")
	}
	return nil
}

// Keep gives up the oldest records for as long as the journal is larger than
// maxBytes or they are older than maxAge, but none after the sequence held. A
// limit of 0 is none.
func (j *Journal) Keep(ctx context.Context, maxBytes int64, maxAge time.Duration, held uint64) error {
	state, err := j.state(ctx)
	if err != nil || state.Msgs == 0 {
		return err
	}
	below := state.FirstSeq
	if excess := int64(state.Bytes) - maxBytes; maxBytes > 0 && excess > 0 {
		// By the average size; the next calls come as close as they have to.
		below += uint64(float64(excess)/float64(state.Bytes)*float64(state.Msgs)) + 1
	}
	if before := time.Now().Add(-maxAge); maxAge > 0 && state.FirstTime.Before(before) {
		first, err := j.firstSince(ctx, before, state)
		if err != nil {
			return err
		}
		below = max(below, first)
	}
	if below = min(below, held+1, state.LastSeq+1); below > state.FirstSeq {
		return j.Trim(ctx, below)
	}
	return nil
}

// firstSince returns the sequence of the oldest record that was stored at t or
// later.
func (j *Journal) firstSince(ctx context.Context, t time.Time, state jetstream.StreamState) (uint64, error) {
	if state.LastTime.Before(t) {
		return state.LastSeq + 1, nil
	}
	low, high := state.FirstSeq, state.LastSeq
	for low < high {
		middle := low + (high-low)/2
		m, err := j.stream.GetMsg(ctx, middle)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound): // given up meanwhile
			low = middle + 1
		case err != nil:
			return 0, fleet.E(fleet.Unavailable, err, "The log journal cannot be read")
		case m.Time.Before(t):
			low = middle + 1
		default:
			high = middle
		}
	}
	return low, nil
}

// Origins implements logs.Journal.
func (j *Journal) Origins(ctx context.Context, n int) ([]string, error) {
	_, newest, err := j.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	cuts := j.knownCuts()
	for i := len(cuts) - 1; i >= 0 && cuts[i].To >= newest; i-- { // nothing was appended since
		newest = min(newest, cuts[i].From)
	}
	consumer, err := j.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   uint64(max(1, int64(newest)-int64(n)+1)),
		HeadersOnly:   true,
	})
	if err != nil {
		return nil, fleet.E(fleet.Unavailable, err, "The log journal cannot be read")
	}
	batch, err := consumer.FetchNoWait(n)
	if err != nil {
		return nil, fleet.E(fleet.Unavailable, err, "The log journal cannot be read")
	}
	var origins []string
	for m := range batch.Messages() {
		if o := m.Headers().Get(originHeader); o != "" {
			origins = append(origins, o)
		}
	}
	return origins, nil
}

// nextPage reads one page and says how many records are left after it. Its error
// is errDropped if some are missing.
func nextPage(ctx context.Context, c jetstream.Consumer, messages jetstream.MessagesContext, pending uint64, delivered *uint64) ([]logs.Record, uint64, error) {
	failed := func(err error) error { return fleet.E(fleet.Unavailable, err, "The log journal cannot be read") }
	var records []logs.Record
	for bytes := 0; pending > 0 && len(records) < pageRecords && bytes < pageBytes; {
		wait, cancel := context.WithTimeout(ctx, stallTimeout)
		m, err := messages.Next(jetstream.NextContext(wait))
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, 0, ctx.Err()
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
			// What was pending may have been given up by the journal since.
			info, err := c.Info(ctx)
			if err != nil {
				return nil, 0, failed(err)
			}
			if info.Delivered.Consumer > *delivered {
				return nil, 0, errDropped
			}
			pending = info.NumPending
			continue
		case err != nil:
			return nil, 0, failed(err)
		}
		var meta *jetstream.MsgMetadata
		if records, meta, err = appendRecord(records, m); err != nil {
			return nil, 0, err
		}
		if *delivered++; meta.Sequence.Consumer != *delivered {
			return nil, 0, errDropped
		}
		pending = meta.NumPending
		bytes += len(m.Data())
	}
	return records, pending, nil
}

// Watch implements logs.Journal.
func (j *Journal) Watch(ctx context.Context, devices ...string) error {
	failed := func(err error, done int) error {
		for _, device := range devices[:done] {
			j.Unwatch(device)
		}
		return fleet.E(fleet.Unavailable, err, "The log journal is not available")
	}
	for i, device := range devices {
		// All watches share one channel, which keeps the stream's order over
		// all devices: a connection receives in the order of the server's sending.
		sub, err := j.conn.ChanSubscribe(livePrefix+device, j.live)
		if err != nil {
			return failed(err, i)
		}
		j.watchMu.Lock()
		j.watches[device] = sub
		j.watchMu.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := j.conn.FlushWithContext(ctx); err != nil {
		return failed(err, len(devices))
	}
	return nil
}

// Unwatch implements logs.Journal.
func (j *Journal) Unwatch(device string) {
	j.watchMu.Lock()
	sub := j.watches[device]
	delete(j.watches, device)
	j.watchMu.Unlock()
	if sub != nil {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			j.log.Warn("unwatching a device failed", "device", device, "err", err)
		}
	}
}

// Live implements logs.Journal.
func (j *Journal) Live(ctx context.Context, deliver func(logs.Record), lost func()) error {
	for {
		// The connection drops what does not fit the channel. Long before that
		// the readers are sent to the journal, which has it all.
		if len(j.live) > liveHigh {
			j.loseLive()
		}
		select {
		case <-j.lost:
			for range len(j.live) {
				<-j.live
			}
			lost()
		default:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-j.lost:
			j.loseLive() // for the top of the loop
		case m := <-j.live:
			rec, err := liveRecord(m)
			if err != nil {
				j.log.Error("a republished batch cannot be read", "subject", m.Subject, "err", err)
				j.loseLive()
				continue
			}
			deliver(rec)
		}
	}
}

func (j *Journal) loseLive() {
	select {
	case j.lost <- struct{}{}:
	default:
	}
}

func liveRecord(m *nats.Msg) (logs.Record, error) {
	seq, err := strconv.ParseUint(header(m, jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return logs.Record{}, err
	}
	prev, err := strconv.ParseUint(header(m, jetstream.LastSequenceHeader), 10, 64)
	if err != nil {
		return logs.Record{}, err
	}
	return logs.Record{Seq: seq, Prev: prev, Device: strings.TrimPrefix(m.Subject, livePrefix), Body: m.Data}, nil
}

// header returns the first value of a header that is known to be spelt so.
func header(m *nats.Msg, name string) string {
	if v := m.Header[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Pending returns how many appends are not answered yet.
func (j *Journal) Pending() int { return len(j.slots) }

// Lag returns how many live records wait to be delivered.
func (j *Journal) Lag() int { return len(j.live) }

// Ping reports whether the journal answers.
func (j *Journal) Ping(ctx context.Context) error {
	_, err := j.state(ctx)
	return err
}

// Close ends the connection. Appends not yet answered are answered with an error.
func (j *Journal) Close() {
	close(j.stop)
	j.janitor.Wait()
	j.queueMu.Lock()
	idle := len(j.queue) == 0 // so nobody raises the mark any more
	j.queueMu.Unlock()
	if j.mark != nil && idle {
		if _, newest, err := j.Bounds(context.Background()); err == nil {
			if err := j.mark.close(newest); err != nil {
				j.log.Warn("the end of the journal was not noted", "err", err)
			}
		}
	}
	j.conn.Close()
	j.queueMu.Lock()
	last := j.nextID
	j.queueMu.Unlock()
	j.settle(last, 0, fleet.E(fleet.Unavailable, nil, "The log journal is closed"))
}
