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
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"signalbox/bench/target"
)

const (
	clients = 8 // connections that ask, one request after the other
	devices = 50
)

func main() { target.Main("access", run) }

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
	program, err := target.Build(ctx, dir)
	if err != nil {
		return err
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
			s.Token = p.token
		}
		if err := s.start(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Stop()) }()
		if s.devices, err = s.Devices(ctx, devices); err != nil {
			return err
		}
		if i == 1 {
			if err := s.login(ctx); err != nil {
				return err
			}
		}
		if err := s.refuses(ctx, s.Token != ""); err != nil {
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
	target.API
	*target.Process
	name, program, dir string
	env                []string
	devices            []int64
	rates              []float64
}

func (s *server) start(ctx context.Context) error {
	addrs, err := target.Addrs(1)
	if err != nil {
		return err
	}
	s.Addr = addrs[0]
	s.env = append(s.env, target.Port(s.Addr), "DATA_DIR="+s.dir, "MQTT_LISTEN=", "INTERNAL_LISTEN=", "BASEURL=http://"+s.Addr, "LOG_LEVEL=error")
	s.Process, err = target.Start(ctx, "http://"+s.Addr+"/health/readyz", s.env, s.program, "serve")
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
	s.Token, err = command("", "token", "add", "--user", "bench", "--name", "bench", "--role", "viewer")
	return err
}

// refuses checks that the server wants to know who asks, if it should.
func (s *server) refuses(ctx context.Context, wanted bool) error {
	without := &target.API{Addr: s.Addr}
	for range 100 {
		err := without.Do(ctx, "GET", "/api/devices", nil, nil)
		refused, no := errors.AsType[*target.StatusError](err)
		if err != nil && !no {
			return err
		}
		if (no && refused.Status == http.StatusUnauthorized) == wanted {
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
	q, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s/api/devices/%d", s.Addr, id), nil)
	if err != nil {
		return err
	}
	if s.Token != "" {
		q.Header.Set("Authorization", "Bearer "+s.Token)
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
