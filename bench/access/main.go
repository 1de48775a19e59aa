//go:build linux

// Command access measures what it costs to know who asks: requests a second
// with an API token, and with the signed token of an OpenID provider, as a ratio
// to those of a server without authentication. All three run in turn, in short
// pieces, in the same minute. See docs/PERFORMANCE.md.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	clients = 8 // connections that ask, one request after the other
	devices = 50
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "access:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	flags := flag.NewFlagSet("access", flag.ContinueOnError)
	rounds := flags.Int("rounds", 15, "times that each server is measured")
	piece := flags.Duration("piece", time.Second, "length of one measurement")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "signalbox-access-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "signalbox")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "signalbox/cmd/signalbox").CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	p, err := startProvider()
	if err != nil {
		return err
	}
	defer p.Close()
	all := []*server{{name: "without authentication"}, {name: "API token"}, {name: "signed token"}}
	for i, s := range all {
		s.program, s.dir = program, filepath.Join(dir, strconv.Itoa(i))
		if i == 2 {
			s.env = []string{"OIDC_ENABLED=true", "OIDC_ISSUER_URL=" + p.URL, "OIDC_CLIENT_ID=signalbox", "OIDC_CLIENT_SECRET=of no use here"}
			s.token = p.token
		}
		if err := s.start(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		if err := s.fill(ctx); err != nil {
			return err
		}
		if i == 1 {
			if err := s.login(ctx); err != nil {
				return err
			}
		}
		if err := s.refuses(ctx, s.token != ""); err != nil {
			return err
		}
	}
	for n := range *rounds + 1 {
		for _, s := range all {
			rate, err := s.measure(ctx, *piece)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if n > 0 { // the first warms up
				s.rates = append(s.rates, rate)
			}
		}
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GET /api/devices/{id}\trequests/s\tlowest\thighest\tratio")
	for _, s := range all {
		var ratios []float64
		for n := range s.rates {
			ratios = append(ratios, s.rates[n]/all[0].rates[n])
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.2f\n", s.name, median(s.rates), slices.Min(s.rates), slices.Max(s.rates), median(ratios))
	}
	return w.Flush()
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// server is a Signalbox of its own.
type server struct {
	name, program, dir, token string
	env                       []string
	addr                      string
	cmd                       *exec.Cmd
	devices                   []int64
	rates                     []float64
}

func (s *server) start(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.addr = l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(s.addr) // it is one
	s.env = append(s.env, "PORT="+port, "DATA_DIR="+s.dir, "MQTT_LISTEN=", "INTERNAL_LISTEN=", "BASEURL=http://"+s.addr, "LOG_LEVEL=error")
	s.cmd = exec.Command(s.program, "serve")
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for range 1000 {
		if status, _, err := s.ask(ctx, "GET", "/health/readyz", nil); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), s.stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return errors.Join(errors.New("it does not become ready"), s.stop())
}

func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	return s.cmd.Wait()
}

func (s *server) ask(ctx context.Context, method, path string, body any) (int, []byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://"+s.addr+path, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	q.Header.Set("Content-Type", "application/json")
	if s.token != "" {
		q.Header.Set("Authorization", "Bearer "+s.token)
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, nil, err
	}
	defer a.Body.Close()
	content, err := io.ReadAll(a.Body)
	return a.StatusCode, content, err
}

// fill makes the devices that are asked for.
func (s *server) fill(ctx context.Context) error {
	made := func(path string, body any) (int64, error) {
		status, content, err := s.ask(ctx, "POST", path, body)
		if err != nil {
			return 0, err
		}
		if status != http.StatusCreated {
			return 0, fmt.Errorf("%s: POST %s: %d %s", s.name, path, status, content)
		}
		var it struct{ ID int64 }
		return it.ID, json.Unmarshal(content, &it)
	}
	model, err := made("/api/device-models", map[string]any{"code": "board", "name": "Board"})
	for n := 0; err == nil && n < devices; n++ {
		var id int64
		id, err = made("/api/devices", map[string]any{"device_model_id": model, "config": fmt.Sprintf(`{"deviceName":"Board %d","deviceEntityId":"board_%d"}`, n, n)})
		s.devices = append(s.devices, id)
	}
	return err
}

// login makes an account, with which login is on, and a token of it.
func (s *server) login(ctx context.Context) error {
	command := func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, s.program, args...)
		cmd.Env = append(os.Environ(), s.env...)
		cmd.Stdin = strings.NewReader(stdin)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("%v: %w\n%s", args, err, &said)
		}
		return strings.TrimSpace(string(out)), nil
	}
	if _, err := command("a long password\n", "user", "add", "bench", "--role", "admin", "--password-stdin"); err != nil {
		return err
	}
	var err error
	s.token, err = command("", "token", "add", "--user", "bench", "--name", "bench", "--role", "viewer")
	return err
}

// refuses checks that the server wants to know who asks, if it should.
func (s *server) refuses(ctx context.Context, wanted bool) error {
	without := &server{addr: s.addr}
	for range 100 {
		status, _, err := without.ask(ctx, "GET", "/api/devices", nil)
		if err != nil {
			return err
		}
		if status == http.StatusUnauthorized == wanted {
			return nil
		}
		time.Sleep(20 * time.Millisecond) // it looks for accounts now and then
	}
	return fmt.Errorf("%s: whether it asks who is there is not %v", s.name, wanted)
}

// measure asks for devices, one after the other on each connection.
func (s *server) measure(ctx context.Context, length time.Duration) (rate float64, err error) {
	var wg sync.WaitGroup
	var n atomic.Int64
	errs := make([]error, clients)
	begin := time.Now()
	for c := range clients {
		wg.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			for i := c; time.Since(begin) < length && errs[c] == nil; i++ {
				errs[c] = s.one(ctx, transport, s.devices[i%len(s.devices)])
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(begin).Seconds(), errors.Join(errs...)
}

func (s *server) one(ctx context.Context, transport *http.Transport, id int64) error {
	q, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s/api/devices/%d", s.addr, id), nil)
	if err != nil {
		return err
	}
	if s.token != "" {
		q.Header.Set("Authorization", "Bearer "+s.token)
	}
	a, err := transport.RoundTrip(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if _, err := io.Copy(io.Discard, a.Body); err != nil || a.StatusCode == http.StatusOK {
		return err
	}
	return fmt.Errorf("status %d", a.StatusCode)
}

// provider is as much of an OpenID provider as it takes to have a token believed.
type provider struct {
	*httptest.Server
	token string
}

func startProvider() (*provider, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &provider{}
	mux := http.NewServeMux()
	answer := func(path string, v func() any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v()) // who does not get it asks again
		})
	}
	answer("/.well-known/openid-configuration", func() any {
		return map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
		}
	})
	answer("/keys", func() any {
		return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Algorithm: "ES256", Use: "sig"}}}
	})
	p.Server = httptest.NewServer(mux)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "one"}}, nil)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	p.token, err = jwt.Signed(signer).Claims(map[string]any{
		"iss": p.URL, "aud": "signalbox", "azp": "signalbox", "sub": "bench", "name": "Bench", "typ": "Bearer", "sid": "bench",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "realm_access": map[string]any{"roles": []string{"editor"}},
	}).Serialize()
	return p, err
}
