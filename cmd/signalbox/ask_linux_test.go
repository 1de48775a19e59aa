package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTerminal returns both ends of a terminal.
func newTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { person.Close() })
	raw, err := person.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		if failed == nil {
			number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); errors.Join(err, failed) != nil {
		t.Fatal(err, failed)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// echoes reports whether the terminal shows what is typed.
func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// A password is asked for twice, and never shown.
func TestAsk(t *testing.T) {
	f := func(first, second string, code int, want string) {
		t.Helper()
		person, program := newTerminal(t)
		c := command(t, nil, "user", "add", "ann", "--role", "admin")
		c.Stdin, c.Stdout, c.Stderr = program, program, program
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if err := person.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		screen := bufio.NewReader(person)
		var shown strings.Builder
		until := func(end string) {
			t.Helper()
			for !strings.HasSuffix(shown.String(), end) {
				b, err := screen.ReadByte()
				if err != nil {
					t.Fatalf("%q is shown: %v", shown.String(), err)
				}
				shown.WriteByte(b)
			}
		}
		until("New password: ")
		waitNoEcho(t, program)
		fmt.Fprint(person, first)
		if second != "" {
			until("Once more: ")
			waitNoEcho(t, program)
			fmt.Fprint(person, second)
		}
		until(want)
		if got := exitOf(t, c.Wait()); got != code {
			t.Errorf("exit code %d, want %d; shown %q", got, code, shown.String())
		}
		if strings.Contains(shown.String(), "horse") {
			t.Errorf("the password is shown: %q", shown.String())
		}
		if !echoes(t, program) {
			t.Error("the terminal stays silent")
		}
	}
	f("right horse battery\n", "right horse battery\n", 0, "from now on.")
	f("right horse battery\n", "wrong horse battery\n", 2, "the two passwords differ")
	f("\x04\n", "\n", 2, "at least 10 characters") // the end of a file is none on a terminal
	f("\x03", "", 130, "\n")                       // Ctrl-C
}

// waitNoEcho waits until the program has switched the echo off, which it says by
// no other sign.
func waitNoEcho(t *testing.T, f *os.File) {
	t.Helper()
	for range 100_000 {
		if !echoes(t, f) {
			return
		}
	}
	t.Fatal("the terminal echoes a password")
}
