package nats

import (
	"strconv"
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	now := time.Now()
	th := newThrottle(func() time.Time { return now })
	f := func(address, name string, want time.Duration) {
		t.Helper()
		wait, _, leave := th.bad(address, name)
		leave()
		if wait != want {
			t.Errorf("%s at %s waits %s, want %s", name, address, wait, want)
		}
	}
	for _, want := range []time.Duration{250, 500, 1000, 2000, 4000, 8000, 8000} {
		f("192.0.2.1", "a", want*time.Millisecond)
	}
	f("192.0.2.2", "a", throttleFirst) // known elsewhere
	f("192.0.2.1", "", throttleFirst)
	f("192.0.2.1", "b", throttleFirst)
	f("192.0.2.1", "c", throttleFirst)        // the tenth at this address
	f("::ffff:192.0.2.1", "d", throttleFirst) // the eleventh
	f("192.0.2.1", "e", 2*throttleFirst)
	th.good("192.0.2.1", "a")
	f("192.0.2.1", "a", 4*throttleFirst) // for the address only
	now = now.Add(throttleForget + time.Second)
	f("192.0.2.1", "a", throttleFirst)

	for range throttleFree {
		f("2001:db8::1", strconv.Itoa(int(now.UnixNano())), throttleFirst)
		now = now.Add(time.Nanosecond)
	}
	f("2001:db8::2", "x", throttleFirst)
	f("2001:db8::3%eth0", "y", 2*throttleFirst) // of the same network
	f("2001:db8:0:1::1", "x", throttleFirst)
}

func TestThrottleBounds(t *testing.T) {
	th := newThrottle(time.Now)
	for i := range 3 * throttleSeen {
		_, _, leave := th.bad("192.0.2."+strconv.Itoa(i%256), strconv.Itoa(i))
		leave()
		if n := len(th.fresh) + len(th.old); n > throttleSeen {
			t.Fatalf("%d are remembered", n)
		}
	}
	if th.delayed() != 0 || len(th.waitingAt) != 0 {
		t.Errorf("%d wait, at %d places", th.delayed(), len(th.waitingAt))
	}

	var leaves []func()
	bad := func(address, name string) time.Duration {
		wait, _, leave := th.bad(address, name)
		leaves = append(leaves, leave)
		return wait
	}
	for range throttleName {
		if !th.look("198.51.100.1", "a") {
			t.Error("not looked at")
		}
		bad("198.51.100.1", "a")
	}
	if th.look("198.51.100.1", "a") || !th.look("198.51.100.1", "b") || !th.look("198.51.100.2", "a") {
		t.Error("a is looked at, or others are not")
	}
	for i := range throttlePlace - throttleName {
		if bad("198.51.100.1", "n"+strconv.Itoa(i)) == 0 {
			t.Fatalf("number %d does not wait", i)
		}
	}
	if bad("198.51.100.1", "more") != 0 {
		t.Error("more than throttlePlace wait at one address")
	}
	for i := 0; th.delayed() < throttleWait; i++ {
		bad("203.0.113."+strconv.Itoa(i%256), strconv.Itoa(i))
	}
	if bad("203.0.113.250", "more") != 0 || th.delayed() != throttleWait {
		t.Error("more than throttleWait wait")
	}
	for _, leave := range leaves {
		leave()
	}
	if th.delayed() != 0 || len(th.waitingAt) != 0 {
		t.Errorf("%d wait, at %d places", th.delayed(), len(th.waitingAt))
	}
}

func TestFilterSubjects(t *testing.T) {
	f := func(filter string, want ...string) {
		t.Helper()
		got, err := filterSubjects(filter)
		if (err == nil) != (len(want) > 0) || len(got) != len(want) {
			t.Fatalf("%q: %q, %v", filter, got, err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%q: %q", filter, got)
			}
		}
	}
	f("a/b", "a.b")
	f("a/+/c", "a.*.c")
	f("a/#", "a", "a.>")
	for _, bad := range []string{"", "#", "a//b", "/a", "a/", "a/#/b", "a.b", "a/*", "a/>", "a b", "$SYS/x", "a+", "a#"} {
		f(bad)
	}
}
