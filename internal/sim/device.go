package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"signalbox/internal/logs"
)

const (
	flushAfter = 200 * time.Millisecond // how long a board collects lines before it sends them
	maxBatch   = 1000                   // lines of one MQTT message, well under every broker's limit on its size
)

// Action is what a board does with its connection at one moment.
type Action uint8

// The actions.
const (
	Publish Action = iota // send the event's lines as one message
	Join                  // connect
	Leave                 // lose the connection
)

// Event is one step in the life of a board.
type Event struct {
	At     time.Duration // since the simulation began; never before the event before it
	Action Action
	Lines  []Line // for Publish: one or more, in order
}

// Line is one line of a board's log.
type Line struct {
	Seq     int           // counts the lines of the board from 1, without a gap and across reboots
	Message string        // as the firmware prints it, colours included
	Uptime  time.Duration // since the last boot

	// What a reader should make of the message: logs.Unknown and "" for one
	// that has no prefix.
	Level logs.Level
	Tag   string
}

// Device is one simulated ESP32. It decides what the board says and when, and
// does no I/O and reads no clock: two devices of equal arguments have equal
// events for ever.
type Device struct {
	entityID string
	rate     float64
	rng      *rand.Rand

	now    time.Duration // since the simulation began
	booted time.Duration // now at the last boot
	debt   float64       // lines said beyond the rate (below 0: short of it), to be made up for
	seq    int

	waiting []Line        // said and not sent
	since   time.Duration // now when the first of waiting was said
	online  bool
	events  []Event // decided and not yet returned by Next

	// The room it measures.
	temperature, humidity, pressure, battery float64
	rssi, heap                               int
}

// NewDevice returns board n (from 1) of the simulation with that seed. It says
// rate lines a second on average; rate is above 0.
func NewDevice(seed uint64, n int, rate float64) *Device {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	d := &Device{
		entityID: EntityID(n), rate: rate, rng: rng,
		temperature: 15 + 10*rng.Float64(), humidity: 40 + 30*rng.Float64(), pressure: 990 + 40*rng.Float64(),
		battery: 3.6 + 0.5*rng.Float64(), rssi: -45 - rng.IntN(35), heap: 180_000 + rng.IntN(20_000),
	}
	d.boot("0x1 (POWERON)", "power-on")
	// It has just come up when the simulation begins, and owes nothing for it.
	for i := range d.events {
		d.events[i].At = 0
	}
	d.booted, d.now, d.debt = d.booted-d.now, 0, 0
	return d
}

// EntityID returns what board n calls itself in its lines: "sim-0001".
func EntityID(n int) string { return fmt.Sprintf("sim-%04d", n) }

// Name returns the name of board n: "Greenhouse north 3".
func Name(n int) string {
	places := [...]string{"Greenhouse", "Pump house", "Barn", "Workshop", "Cellar", "Boiler room", "Cold store", "Weather mast", "Gate", "Orchard"}
	sides := [...]string{"north", "east", "south", "west"}
	n--
	place, n := places[n%len(places)], n/len(places)
	return fmt.Sprintf("%s %s %d", place, sides[n%len(sides)], n/len(sides)+1)
}

// Next returns the board's next event. There is always one.
func (d *Device) Next() Event {
	for len(d.events) == 0 {
		d.live()
	}
	e := d.events[0]
	d.events = d.events[1:]
	return e
}

// Payload returns lines as the NDJSON of one MQTT message.
func (d *Device) Payload(lines []Line) []byte {
	var b []byte
	for _, l := range lines {
		doc, err := json.Marshal(struct {
			Message  string `json:"message"`
			EntityID string `json:"entity_id"`
			Uptime   int64  `json:"relative_time"` // milliseconds
			Seq      int    `json:"seq"`
		}{l.Message, d.entityID, l.Uptime.Milliseconds(), l.Seq})
		if err != nil {
			panic(err) // strings and integers always marshal
		}
		b = append(append(b, doc...), '\n')
	}
	return b
}

// live goes on to the next thing that happens to the board.
func (d *Device) live() {
	d.wait()
	// What costs seconds is rare in lines for a slow board and in time for a
	// fast one, which could not keep its rate otherwise.
	crash := min(1.0/2000, 1/(300*d.rate))
	dropOut := min(1.0/1200, 1/(200*d.rate))
	switch p := d.rng.Float64(); {
	case p < crash:
		d.crash()
	case p < crash+dropOut:
		d.dropOut()
	case p < 0.01:
		d.burst()
	case p < 0.05:
		d.trouble()
	default:
		d.routine()
	}
}

// wait lets the time pass that belongs to one line. A board that has said much
// at once is quieter afterwards until it is back at its rate, and one that was
// busy is louder.
func (d *Device) wait() {
	gap := (0.2 + 1.6*d.rng.Float64()) / d.rate
	switch {
	case d.debt >= 1:
		d.debt--
		gap *= 2
	case d.debt <= -1:
		d.debt++
		gap /= 2
	}
	d.pass(time.Duration(gap * float64(time.Second)))
}

// pass lets time pass and sends what has waited long enough.
func (d *Device) pass(t time.Duration) {
	d.now += t
	if d.online && len(d.waiting) > 0 && d.now >= d.since+flushAfter {
		d.flush(d.since + flushAfter)
	}
}

// flush sends what is waiting.
func (d *Device) flush(at time.Duration) {
	for len(d.waiting) > 0 {
		n := min(len(d.waiting), maxBatch)
		d.events = append(d.events, Event{At: at, Action: Publish, Lines: d.waiting[:n:n]})
		d.waiting = d.waiting[n:]
	}
	d.waiting = nil
}

// leave loses the connection; join has it again and sends what was said since.
func (d *Device) leave() {
	d.flush(d.now)
	d.events = append(d.events, Event{At: d.now, Action: Leave})
	d.online = false
}

func (d *Device) join() {
	d.events = append(d.events, Event{At: d.now, Action: Join})
	d.online = true
	d.flush(d.now)
}

// print says a line without a prefix, as ROM, panic handler and printf do.
func (d *Device) print(format string, args ...any) {
	d.say(Line{Message: fmt.Sprintf(format, args...)})
}

// log says a line the way of ESP_LOGx: coloured, but for debug and verbose,
// which have only the end of a colour.
func (d *Device) log(level logs.Level, tag, format string, args ...any) {
	letter, colour := "?", ""
	switch level {
	case logs.Error:
		letter, colour = "E", "\x1b[0;31m"
	case logs.Warn:
		letter, colour = "W", "\x1b[0;33m"
	case logs.Info:
		letter, colour = "I", "\x1b[0;32m"
	case logs.Debug:
		letter = "D"
	case logs.Verbose:
		letter = "V"
	}
	text := fmt.Sprintf(format, args...)
	d.say(Line{
		Message: fmt.Sprintf("%s%s (%d) %s: %s\x1b[0m", colour, letter, (d.now - d.booted).Milliseconds(), tag, text),
		Level:   level, Tag: tag,
	})
}

func (d *Device) say(l Line) {
	d.seq++
	l.Seq, l.Uptime = d.seq, d.now-d.booted
	if len(d.waiting) == 0 {
		d.since = d.now
	}
	d.waiting = append(d.waiting, l)
}

// extra runs a scene and notes how far it went over or stayed under the rate.
func (d *Device) extra(scene func()) {
	lines, start := d.seq, d.now
	scene()
	d.debt += float64(d.seq-lines) - (d.now-start).Seconds()*d.rate
}

func (d *Device) ms(from, to int) time.Duration {
	return time.Duration(from+d.rng.IntN(to-from)) * time.Millisecond
}

// routine says one of the lines that a healthy board says all day.
func (d *Device) routine() {
	d.temperature += d.rng.NormFloat64() * 0.05
	d.humidity = min(max(d.humidity+d.rng.NormFloat64()*0.2, 5), 99)
	d.pressure += d.rng.NormFloat64() * 0.05
	d.battery = min(max(d.battery+d.rng.NormFloat64()*0.003, 3.3), 4.2)
	d.rssi = min(max(d.rssi+d.rng.IntN(5)-2, -88), -38)
	d.heap = min(max(d.heap+d.rng.IntN(2001)-1000, 90_000), 220_000)
	switch n := d.rng.IntN(20); {
	case n < 6:
		d.log(logs.Info, "sensor_hub", "temperature %.2f °C, humidity %.1f %%, pressure %.1f hPa", d.temperature, d.humidity, d.pressure)
	case n < 8:
		d.log(logs.Info, "soil", "bed %d: moisture %d %%, conductivity %d µS/cm", 1+d.rng.IntN(4), 20+d.rng.IntN(50), 200+d.rng.IntN(900))
	case n < 10:
		d.log(logs.Info, "power", "battery %.2f V, solar %d mA, load %d mA", d.battery, d.rng.IntN(180), 20+d.rng.IntN(60))
	case n < 12:
		d.log(logs.Debug, "heap", "free %d, minimum %d, largest block %d", d.heap, d.heap-30_000, d.heap/2)
	case n < 14:
		d.log(logs.Debug, "mqtt_client", "msg_id=%d acknowledged after %d ms", 1+d.rng.IntN(65535), 4+d.rng.IntN(90))
	case n < 15:
		d.log(logs.Verbose, "i2c_master", "read 0x%02x reg 0x%02x: %02x %02x %02x", 0x40+d.rng.IntN(56), d.rng.IntN(256), d.rng.IntN(256), d.rng.IntN(256), d.rng.IntN(256))
	case n < 16:
		d.log(logs.Info, "wifi", "rssi %d dBm, channel 6, beacon interval 102 ms", d.rssi)
	case n < 17:
		d.log(logs.Info, "valve", "zone %d %s after %d s", 1+d.rng.IntN(6), [...]string{"opened", "closed"}[d.rng.IntN(2)], 1+d.rng.IntN(600))
	case n < 18:
		d.log(logs.Debug, "sntp", "offset %+d µs", d.rng.IntN(4000)-2000)
	case n < 19:
		d.log(logs.Info, "ota", "no newer firmware")
	default:
		d.print("stats: tasks=%d cpu=%d%% uptime=%ds", 11+d.rng.IntN(4), 3+d.rng.IntN(30), int((d.now - d.booted).Seconds()))
	}
}

// trouble says one warning or error that the firmware gets over.
func (d *Device) trouble() {
	switch d.rng.IntN(8) {
	case 0:
		d.log(logs.Warn, "wifi", "beacon lost %d times, rssi %d dBm", 2+d.rng.IntN(6), d.rssi)
	case 1:
		d.log(logs.Warn, "sensor_hub", "SCD41 answered after %d retries", 1+d.rng.IntN(3))
	case 2:
		d.log(logs.Warn, "power", "battery low: %.2f V", 3.3+0.1*d.rng.Float64())
	case 3:
		d.log(logs.Warn, "mqtt_client", "outbox holds %d messages", 8+d.rng.IntN(40))
	case 4:
		d.log(logs.Warn, "heap", "largest block is down to %d bytes", 9_000+d.rng.IntN(9_000))
	case 5:
		d.log(logs.Error, "i2c_master", "NACK from 0x%02x, ESP_ERR_TIMEOUT", 0x40+d.rng.IntN(56))
	case 6:
		d.log(logs.Error, "esp-tls", "mbedtls_ssl_handshake returned -0x%04x", 0x7000+d.rng.IntN(0xfff))
	default:
		d.log(logs.Error, "nvs", "commit failed: ESP_ERR_NVS_NOT_ENOUGH_SPACE")
	}
}

// burst says many lines within a second or so.
func (d *Device) burst() {
	d.debt-- // wait has accounted for one line
	d.extra(func() {
		n := 10 + d.rng.IntN(25)
		d.log(logs.Info, "ble_scan", "scan window open")
		for range n {
			d.pass(min(d.ms(10, 60), time.Duration(0.3/d.rate*float64(time.Second))))
			d.log(logs.Debug, "ble_scan", "%02x:%02x:%02x:%02x:%02x:%02x rssi %d dBm, %d bytes of advertisement",
				d.rng.IntN(256), d.rng.IntN(256), d.rng.IntN(256), d.rng.IntN(256), d.rng.IntN(256), d.rng.IntN(256), -50-d.rng.IntN(45), 8+d.rng.IntN(23))
		}
		d.log(logs.Info, "ble_scan", "%d beacons seen", n)
	})
}

// dropOut loses the access point for a while. The board goes on measuring and
// sends it all when it is back.
func (d *Device) dropOut() {
	d.leave()
	until := d.now + d.ms(4_000, 20_000)
	d.log(logs.Warn, "wifi", "bcn_timeout, ap_probe_send_start")
	d.log(logs.Info, "wifi", "state: run -> init (0x%x00)", 1+d.rng.IntN(8))
	d.log(logs.Warn, "mqtt_client", "transport closed, errno=%d", 100+d.rng.IntN(20))
	d.debt += 2 // three lines, and wait has accounted for one
	for d.wait(); d.now < until; d.wait() {
		d.routine()
	}
	d.debt-- // the last wait
	d.extra(d.associate)
}

// associate finds the access point, an address and the broker.
func (d *Device) associate() {
	d.log(logs.Info, "wifi", "new:<6,0>, old:<1,0>, ap:<255,255>, sta:<6,0>, prof:1")
	d.pass(d.ms(5, 400))
	d.log(logs.Info, "wifi", "state: init -> auth (0xb0)")
	d.pass(d.ms(3, 40))
	d.log(logs.Info, "wifi", "state: auth -> assoc (0x0)")
	d.pass(d.ms(3, 40))
	d.log(logs.Info, "wifi", "state: assoc -> run (0x10)")
	d.pass(d.ms(10, 60))
	d.log(logs.Info, "wifi", "connected with Farm-IoT, aid = %d, channel 6, BW20, bssid = 7c:10:c9:4e:%02x:%02x", 1+d.rng.IntN(40), d.rng.IntN(256), d.rng.IntN(256))
	d.pass(d.ms(200, 900))
	d.log(logs.Info, "esp_netif_handlers", "sta ip: 192.168.%d.%d, mask: 255.255.248.0, gw: 192.168.0.1", d.rng.IntN(8), 2+d.rng.IntN(250))
	d.pass(d.ms(50, 300))
	d.log(logs.Info, "mqtt_client", "connected, keepalive 30 s, session present: 0")
	d.join()
}

// crash panics and reboots. What the panic handler printed survives in a part
// of the memory that the reset does not clear, and is sent after the boot.
func (d *Device) crash() {
	d.leave()
	d.debt-- // wait has accounted for one line
	d.extra(func() {
		cause := [...]string{"LoadProhibited", "StoreProhibited", "IllegalInstruction", "Interrupt wdt timeout on CPU0"}[d.rng.IntN(4)]
		code := func() uint32 { return 0x400d0000 + uint32(d.rng.IntN(0x60000)) }
		stack := 0x3ffb4000 + uint32(d.rng.IntN(0x4000))&^15
		d.print("Guru Meditation Error: Core  %d panic'ed (%s). Exception was unhandled.", d.rng.IntN(2), cause)
		d.print("Core  0 register dump:")
		d.print("PC      : 0x%08x  PS      : 0x00060130  A0      : 0x8%07x  A1      : 0x%08x", code(), code()&0xfffffff, stack)
		d.print("A2      : 0x00000000  A3      : 0x3f40%04x  A4      : 0x%08x  A5      : 0x00000001", d.rng.IntN(0x10000), stack+32)
		d.print("EXCVADDR: 0x%08x  LBEG    : 0x%08x  LEND    : 0x%08x  LCOUNT  : 0x00000000", d.rng.IntN(64), code(), code())
		var trace strings.Builder
		for range 4 + d.rng.IntN(6) {
			fmt.Fprintf(&trace, " 0x%08x:0x%08x", code(), stack)
			stack += uint32(32 + 16*d.rng.IntN(6))
		}
		d.print("Backtrace:%s", trace.String())
		d.print("ELF file SHA256: %016x", d.rng.Uint64())
		d.print("Rebooting...")
		d.pass(d.ms(800, 1500))
	})
	d.boot("0xc (RTC_SW_CPU_RST)", "panic")
}

// boot starts the firmware, up to the connection to the broker.
func (d *Device) boot(rst, reason string) {
	d.booted = d.now
	d.extra(func() {
		d.print("ESP-ROM:esp32s3-20210327")
		d.print("Build:Mar 27 2021")
		d.print("rst:%s,boot:0x8 (SPI_FAST_FLASH_BOOT)", rst)
		d.print("SPIWP:0xee")
		d.print("mode:DIO, clock div:1")
		d.print("load:0x3fce2820,len:0x15a0")
		d.print("entry 0x403c88ac")
		d.pass(24 * time.Millisecond)
		d.log(logs.Info, "boot", "ESP-IDF v5.3.1 2nd stage bootloader")
		d.pass(d.ms(2, 9))
		d.log(logs.Info, "esp_image", "segment 0: paddr=00010020 vaddr=3c0a0020 size=%05xh map", 0x20000+d.rng.IntN(0x1000))
		d.pass(d.ms(100, 300))
		d.log(logs.Info, "cpu_start", "Multicore app")
		d.log(logs.Info, "app_init", "App version:      1.8.%d", d.rng.IntN(9))
		d.log(logs.Info, "app_init", "ESP-IDF:          v5.3.1")
		d.log(logs.Info, "heap_init", "At 3FCA%04X len 000%05X (%d KiB): RAM", d.rng.IntN(0x10000), 0x40000+d.rng.IntN(0xfff), 256)
		d.pass(d.ms(20, 80))
		d.log(logs.Info, "main_task", "Calling app_main()")
		d.log(logs.Info, "app", "reset reason: %s, free heap %d", reason, d.heap)
		if reason == "panic" {
			d.log(logs.Warn, "app", "a core dump of the last run is in flash")
		}
		d.pass(d.ms(100, 400))
		d.log(logs.Info, "phy_init", "phy_version 680,a6008b2,Jun  4 2024,16:41:10")
		d.log(logs.Info, "wifi", "mode : sta (7c:df:a1:%02x:%02x:%02x)", d.rng.IntN(256), d.rng.IntN(256), d.rng.IntN(256))
		d.associate()
	})
}
