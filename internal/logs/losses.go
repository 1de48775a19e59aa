package logs

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// maxLosses bounds how many entries a losses has. About 100 bytes each are
// written with every position.
const maxLosses = 256

// losses is what a sink did not get, in order. When there are too many entries,
// neighbours become one that says less exactly where, and still how many.
type losses []Lost

// add enters one, which says nothing that is entered already.
func (s *losses) add(l Lost) {
	for i := range *s { // the next lines of a batch, or of a device with nothing else between
		if o := &(*s)[i]; o.Device == l.Device && o.Epoch == l.Epoch && o.Reason == l.Reason && l.From <= o.To && o.From <= l.To {
			o.join(l)
			return
		}
	}
	at, _ := slices.BinarySearchFunc(*s, l, func(a, b Lost) int { // what is of a former epoch stays before
		if a.Epoch != b.Epoch {
			return -1
		}
		return cmp.Compare(a.From, b.From)
	})
	*s = slices.Insert(*s, at, l)
	if len(*s) > maxLosses {
		s.shrink()
	}
}

// shrink joins the two entries that are nearest to each other, of one device if
// any has two.
func (s *losses) shrink() {
	type key struct{ device, epoch, reason string }
	for _, exact := range []bool{true, false} {
		last := map[key]int{}
		first, second, nearest := -1, -1, uint64(math.MaxUint64)
		for i, l := range *s {
			k := key{l.Device, l.Epoch, l.Reason}
			if !exact {
				k.device = ""
			}
			if o, ok := last[k]; ok {
				if d := l.From - min(l.From, (*s)[o].To); d < nearest {
					first, second, nearest = o, i, d
				}
			}
			last[k] = i
		}
		if first >= 0 {
			(*s)[first].join((*s)[second])
			*s = slices.Delete(*s, second, second+1)
			return
		}
	}
	*s = slices.Delete(*s, 0, 1) // of so many epochs that this one is long past
}

// join makes l say o, too.
func (l *Lost) join(o Lost) {
	if l.Device != o.Device {
		l.Device = ""
	}
	l.From, l.To = min(l.From, o.From), max(l.To, o.To)
	if l.Lines == 0 || o.Lines == 0 {
		l.Lines = 0
	} else {
		l.Lines += o.Lines
	}
	if l.Most.IsZero() || o.Most.IsZero() {
		l.Least, l.Most = time.Time{}, time.Time{} // not known
		return
	}
	if o.Least.Before(l.Least) {
		l.Least = o.Least
	}
	if o.Most.After(l.Most) {
		l.Most = o.Most
	}
}

// found takes back that a line of the epoch was refused.
func (s *losses) found(epoch string, l *SinkLine) {
	for _, device := range []string{l.Device, ""} { // its own entry before that of any device
		i := slices.IndexFunc(*s, func(o Lost) bool {
			return o.Reason == LostRejected && o.Epoch == epoch && o.Device == device && o.From < l.Seq && l.Seq <= o.To
		})
		if i < 0 {
			continue
		}
		if (*s)[i].Lines--; (*s)[i].Lines == 0 {
			*s = slices.Delete(*s, i, i+1)
		}
		return
	}
}
