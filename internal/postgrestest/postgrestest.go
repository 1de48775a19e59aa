// Package postgrestest runs a real PostgreSQL for a test.
package postgrestest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/porttest"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver
)

// Server is a PostgreSQL server of the test's own.
type Server struct {
	t         testing.TB
	addr      string // host:port
	databases atomic.Int64
}

// Start runs a server on a free loopback port until the test ends. It
// needs Debian's binaries. Without them the test is skipped, but under CI it fails.
func Start(t testing.TB) *Server {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		const reason = "no PostgreSQL in /usr/lib/postgresql (apt-get install postgresql)"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	bin := filepath.Dir(found[len(found)-1])

	// Not under t.TempDir, whose parents only root can enter.
	dir, err := os.MkdirTemp("", "signalbox-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var account *syscall.SysProcAttr
	if os.Getuid() == 0 { // the server refuses to run as root
		account = accountOf(t, "postgres", dir)
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, account
		return cmd
	}

	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-D", data, "-A", "trust", "-U", "test", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	p := &Server{t: t, addr: porttest.Free(t)}
	_, port, _ := net.SplitHostPort(p.addr)
	server := command("postgres", "-D", data, "-p", port, "-k", dir, "-c", "listen_addresses=127.0.0.1",
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=100")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = server.Wait()
	}()
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT) // fast shutdown
		<-exited
		if t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("server log:\n%s", text)
			}
		}
	})
	p.await(exited)
	return p
}

func accountOf(t testing.TB, name, dir string) *syscall.SysProcAttr {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr, os.Chown(dir, uid, gid)); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// await polls until the server answers: it gives no other sign.
func (p *Server) await(exited <-chan struct{}) {
	p.t.Helper()
	db := p.Connect("postgres")
	defer db.Close()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-exited:
			p.t.Fatal("the server ended at once")
		case <-ctx.Done():
			p.t.Fatal(err)
		}
	}
}

func (p *Server) dsn(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("test"), Host: p.addr, Path: database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Connect opens a database by its name.
func (p *Server) Connect(database string) *sql.DB {
	p.t.Helper()
	db, err := sql.Open("pgx", p.dsn(database))
	if err != nil {
		p.t.Fatal(err)
	}
	return db
}

// New creates an empty database and returns its DSN.
func (p *Server) New() string {
	p.t.Helper()
	name := fmt.Sprintf("test%d", p.databases.Add(1))
	db := p.Connect("postgres")
	defer db.Close()
	if _, err := db.Exec("CREATE DATABASE " + name + " STRATEGY FILE_COPY"); err != nil {
		p.t.Fatal(err)
	}
	return p.dsn(name)
}
