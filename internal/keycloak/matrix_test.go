package keycloak_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/keycloak"
	"signalbox/internal/keycloaktest"
	"signalbox/internal/registry"
)

// open returns an issuer at the stand-in. It has no network below it, unless the
// stand-in was started.
func open(t testing.TB, s *keycloaktest.Server, change ...func(*keycloak.Options)) *keycloak.Issuer {
	t.Helper()
	o := keycloak.Options{ClientID: keycloaktest.AdminID, ClientSecret: keycloaktest.AdminSecret, Realm: keycloaktest.Realm, DeviceScope: keycloaktest.DeviceScope,
		Log: slog.New(slog.DiscardHandler)}
	if s.URL() == "" {
		s.Place("http://keycloak.test/auth")
		o.Transport = s.Transport()
	}
	o.BaseURL, o.TokenURL = s.URL()+"/", s.TokenURL()
	for _, f := range change {
		f(&o)
	}
	if o.Metrics == nil {
		o.Metrics = keycloak.NewMetrics(prometheus.NewRegistry())
	}
	issuer, err := keycloak.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = issuer.Close() })
	return issuer
}

const (
	device      = "iotdevice-relay_2-aaaa1111"
	description = "This device is being managed in IoT Support."
)

func wanted(name string) registry.Client {
	return registry.Client{ID: device, Name: name, Description: description, Enabled: true}
}

// there is a client in the state that Ensure leaves one in.
func there(s *keycloaktest.Server) keycloaktest.Client {
	return s.Put(keycloaktest.Client{ClientID: device, Name: "Relay", Description: description, Enabled: true, ServiceAccount: true, Protocol: "openid-connect",
		Secret: "the first secret", Secrets: 1, Default: []string{keycloaktest.DeviceScope, "profile", "email"}})
}

// state is all that is in the realm and does not differ from run to run.
func state(s *keycloaktest.Server) []keycloaktest.Client {
	all := s.Clients("")
	for i := range all {
		all[i].UUID = ""
		if all[i].Secret != "" {
			all[i].Secret = "some"
		}
		if all[i].Old != "" {
			all[i].Old = "some"
		}
	}
	return all
}

func current(s *keycloaktest.Server) keycloaktest.Client {
	for _, c := range s.Clients(device) {
		return c
	}
	return keycloaktest.Client{}
}

// job is something to do, and what can be compared of its result.
type job struct {
	name    string
	prepare func(*keycloaktest.Server)
	run     func(context.Context, *keycloaktest.Server, *keycloak.Issuer) (any, error)
}

func jobs() []job {
	secret := func(got string, err error, good string) (any, error) {
		if err == nil && got != good {
			return "another secret than the server has", nil
		}
		return nil, err
	}
	ensure := func(ctx context.Context, _ *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
		return k.Ensure(ctx, wanted("Relay"))
	}
	return []job{
		{"ensure makes", func(*keycloaktest.Server) {}, ensure},
		{"ensure makes where a scope is optional", func(s *keycloaktest.Server) { s.Born = []string{keycloaktest.DeviceScope, "email"} }, ensure},
		{"ensure finds", func(s *keycloaktest.Server) { there(s) }, ensure},
		{"ensure mends", func(s *keycloaktest.Server) {
			c := there(s)
			c.Name, c.Enabled, c.Public, c.ServiceAccount, c.Default = "Other", false, true, false, nil
			s.Put(c)
		}, ensure},
		{"ensure mends the secret", func(s *keycloaktest.Server) {
			c := there(s)
			c.Secret = ""
			s.Put(c)
		}, ensure},
		{"secret", func(s *keycloaktest.Server) { there(s) }, func(ctx context.Context, s *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			got, err := k.Secret(ctx, device)
			return secret(got, err, current(s).Secret)
		}},
		{"delete", func(s *keycloaktest.Server) { there(s) }, func(ctx context.Context, _ *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			return nil, k.Delete(ctx, device)
		}},
		{"status", func(s *keycloaktest.Server) { there(s) }, func(ctx context.Context, s *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			got, err := k.Status(ctx, device)
			if err == nil && (got.UUID != current(s).UUID || !strings.HasSuffix(got.ConsoleURL, "/"+got.UUID+"/settings")) {
				return "another client than the server has", nil
			}
			got.UUID, got.ConsoleURL = "", ""
			return got, err
		}},
		{"clients", func(s *keycloaktest.Server) {
			for i := range 600 {
				s.Put(keycloaktest.Client{ClientID: fmt.Sprintf("iotdevice-x-%08d", i), Enabled: i%2 == 0})
			}
		}, func(ctx context.Context, _ *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			var all []registry.Client
			for c, err := range k.Clients(ctx) {
				if err != nil {
					return nil, err
				}
				all = append(all, c)
			}
			return all, nil
		}},
		{"rotate", func(s *keycloaktest.Server) { s.Rotation = true; there(s) }, func(ctx context.Context, s *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			got, err := k.Rotate(ctx, device)
			return secret(got, err, current(s).Secret)
		}},
		{"set secret", func(s *keycloaktest.Server) { there(s) }, func(ctx context.Context, s *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			err := k.SetSecret(ctx, device, "one of old")
			return secret("one of old", err, current(s).Secret)
		}},
		{"rotated", func(s *keycloaktest.Server) { c := there(s); c.Old = "old"; s.Put(c) }, func(ctx context.Context, s *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			got, err := k.Rotated(ctx, device)
			return secret(got, err, "old")
		}},
		{"drop old", func(s *keycloaktest.Server) { c := there(s); c.Old = "old"; s.Put(c) }, func(ctx context.Context, _ *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			return nil, k.DropOld(ctx, device)
		}},
		{"rotates two", func(s *keycloaktest.Server) { c := there(s); c.Rotates = true; s.Put(c) }, func(ctx context.Context, _ *keycloaktest.Server, k *keycloak.Issuer) (any, error) {
			return k.RotatesTwo(ctx)
		}},
	}
}

var allOps = []keycloaktest.Op{keycloaktest.Token, keycloaktest.Find, keycloaktest.List, keycloaktest.Create, keycloaktest.Update, keycloaktest.Delete, keycloaktest.Scopes,
	keycloaktest.AddScope, keycloaktest.RemoveScope, keycloaktest.ReadSecret, keycloaktest.NewSecret, keycloaktest.ReadRotated, keycloaktest.DropRotated}

type ill struct {
	name  string
	fault keycloaktest.Fault
	fatal bool // an error is right
}

func ills() []ill {
	return []ill{
		{"slow", keycloaktest.Fault{Delay: 9 * time.Second}, false},
		{"no answer", keycloaktest.Fault{Hang: true}, false},
		{"no answer after the effect", keycloaktest.Fault{Hang: true, Effect: true}, false},
		{"effect after the time-out", keycloaktest.Fault{Hang: true, Effect: true, Delay: 10*time.Second + time.Millisecond}, false},
		{"reset", keycloaktest.Fault{Reset: true}, false},
		{"reset after the effect", keycloaktest.Fault{Reset: true, Effect: true}, false},
		{"truncated", keycloaktest.Fault{Truncate: true}, false},
		{"500", keycloaktest.Fault{Status: 500}, false},
		{"500 after the effect", keycloaktest.Fault{Status: 500, Effect: true}, false},
		{"502 of a proxy", keycloaktest.Fault{Status: 502, HTML: true}, false},
		{"504 of a proxy after the effect", keycloaktest.Fault{Status: 504, HTML: true, Effect: true}, false},
		{"503 for a while", keycloaktest.Fault{Status: 503, RetryAfter: "7"}, false},
		{"429", keycloaktest.Fault{Status: 429, RetryAfter: "3"}, false},
		{"expired token", keycloaktest.Fault{Expire: true}, false},
		{"401", keycloaktest.Fault{Status: 401}, false},
		{"a page that says 200", keycloaktest.Fault{HTML: true, Status: 200}, false},
		{"404", keycloaktest.Fault{Status: 404}, true},
		{"409", keycloaktest.Fault{Status: 409}, true},
		{"403", keycloaktest.Fault{Status: 403}, true},
		{"400", keycloaktest.Fault{Status: 400}, true},
		{"302", keycloaktest.Fault{Status: 302}, true},
	}
}

// may reports whether an error is right although the trouble may pass.
func (i ill) may(j job, op keycloaktest.Op) bool {
	switch {
	case i.fatal:
		return true
	case op == keycloaktest.NewSecret && !i.fault.Effect:
		return true // it is never asked for twice
	case op == keycloaktest.Token:
		return i.fault.Status == 401 // Keycloak does not know us
	}
	return false
}

// lie reports whether the answer says that all is well while nothing was done:
// no client can tell.
func (i ill) lie(op keycloaktest.Op) bool {
	return i.fault.Status == 404 && (op == keycloaktest.DropRotated || op == keycloaktest.RemoveScope)
}

// Whatever goes wrong once, with whichever request of an operation: it ends as
// with a server that is well, or with an error, and then another run does.
func TestOneFault(t *testing.T) {
	for _, j := range jobs() {
		t.Run(j.name, func(t *testing.T) {
			well, right, uses := outcome(t, j)
			for op, count := range uses {
				for _, i := range ills() {
					if i.lie(op) {
						continue
					}
					for _, at := range slices.Compact([]int{0, count / 2, count - 1}) {
						synctest.Test(t, func(t *testing.T) {
							s := new(keycloaktest.Server)
							j.prepare(s)
							k := open(t, s)
							s.Fail(op, make([]keycloaktest.Fault, at)...)
							s.Fail(op, i.fault)
							name := fmt.Sprintf("%s at %s %d", i.name, op, at)
							got, err := j.run(t.Context(), s, k)
							if err != nil && !i.may(j, op) {
								t.Errorf("%s: %v", name, err)
							}
							first := err == nil
							if err != nil {
								typed(t, name, err)
								got, err = j.run(t.Context(), s, k)
							}
							synctest.Wait()
							time.Sleep(time.Minute) // what is late has come
							if err != nil {
								t.Errorf("%s, again: %v", name, err)
							}
							if !first && strings.HasPrefix(j.name, "ensure makes") {
								got = right // the second run need not be the one that made it
							}
							if diff := difference(right, got); diff != "" {
								t.Errorf("%s: %s", name, diff)
							}
							if diff := difference(well, state(s)); diff != "" {
								t.Errorf("%s: the realm is another one:\n%s", name, diff)
							}
						})
					}
				}
			}
		})
	}
}

// What stays wrong is an error soon, and is made good by a run after it.
func TestLastingFault(t *testing.T) {
	for _, j := range jobs() {
		t.Run(j.name, func(t *testing.T) {
			well, _, uses := outcome(t, j)
			for op := range uses {
				for _, i := range ills() {
					if i.lie(op) || i.fault.Expire {
						continue
					}
					synctest.Test(t, func(t *testing.T) {
						s := new(keycloaktest.Server)
						j.prepare(s)
						k := open(t, s)
						s.Fail(op, slices.Repeat([]keycloaktest.Fault{i.fault}, 100)...)
						name, start := i.name+" at "+string(op), time.Now()
						_, err := j.run(t.Context(), s, k)
						if err != nil {
							typed(t, name, err)
						}
						if n, took := s.Requests(op), time.Since(start); n > 30 || took > 10*time.Minute {
							t.Errorf("%s: %d requests in %v", name, n, took)
						}
						s.Heal()
						time.Sleep(time.Minute)
						if _, err := j.run(t.Context(), s, k); err != nil {
							t.Errorf("%s, then healed: %v", name, err)
						}
						after := state(s)
						if j.name == "rotate" { // two runs may be two rotations; one must not be more
							for n := range after {
								if after[n].Secrets > well[n].Secrets+1 {
									t.Errorf("%s: %d secrets", name, after[n].Secrets)
								}
								after[n].Secrets = well[n].Secrets
							}
						}
						if diff := difference(well, after); diff != "" {
							t.Errorf("%s: the realm is another one:\n%s", name, diff)
						}
					})
				}
			}
		})
	}
}

// outcome is what a job leaves and answers at a server that is well, and how many
// requests of each kind it makes.
func outcome(t *testing.T, j job) (well []keycloaktest.Client, right any, uses map[keycloaktest.Op]int) {
	uses = map[keycloaktest.Op]int{}
	synctest.Test(t, func(t *testing.T) {
		s := new(keycloaktest.Server)
		j.prepare(s)
		var err error
		if right, err = j.run(t.Context(), s, open(t, s)); err != nil {
			t.Fatal(err)
		}
		if text, ok := right.(string); ok {
			t.Fatal(text)
		}
		for _, op := range allOps {
			if n := s.Requests(op); n > 0 {
				uses[op] = n
			}
		}
		well = state(s)
	})
	if len(uses) < 2 || uses[keycloaktest.Token] != 1 {
		t.Errorf("requests: %v", uses)
	}
	return well, right, uses
}

// typed checks what others see of an error.
func typed(t *testing.T, name string, err error) {
	t.Helper()
	kind, text := fleet.Public(err)
	if kind != fleet.Unavailable && kind != fleet.External && kind != fleet.NotFound {
		t.Errorf("%s: kind %v: %v", name, kind, err)
	}
	if kind != fleet.NotFound && !strings.HasPrefix(text, "Keycloak ") {
		t.Errorf("%s: %q", name, text)
	}
	for _, internal := range []string{"http:", "keycloak.test", keycloaktest.AdminSecret, "<", "dial", http.MethodPost} {
		if strings.Contains(text, internal) || internal == keycloaktest.AdminSecret && strings.Contains(err.Error(), internal) {
			t.Errorf("%s: shows %q: %v", name, internal, err)
		}
	}
}

// difference is cmp.Diff, which takes its time also when there is none.
func difference(want, got any) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return cmp.Diff(want, got)
}
