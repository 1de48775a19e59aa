package web

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// The bounds of proofs.
const (
	nonceLife   = 5 * time.Minute
	nonceAbout  = "rotation proof"
	maxProof    = 4 << 10 // bytes of a body
	maxProofsOf = 20      // of one device within nonceLife
)

// proofs is how devices prove which secret they have without sending it. A nonce
// is a sealed text that says for which device and until when it is good; nothing
// is kept of it before it is used. Any process that has SECRET_KEY takes it.
type proofs struct {
	box     *secret.Box // nil: there are none
	results *prometheus.CounterVec

	mu   sync.Mutex
	used map[int64][]usedNonce // by device, those that are not expired
}

type usedNonce struct {
	nonce string
	until time.Time
}

// The results of proofs, a label of the metric.
const (
	proofGood     = "ok"
	proofWrong    = "wrong"    // of none of the device's secrets
	proofNonce    = "nonce"    // a nonce that is expired, foreign or not ours
	proofReplayed = "replayed" // a nonce that was used before
	proofLimited  = "limited"
	proofFailed   = "error"
)

func newProofs(box *secret.Box, r prometheus.Registerer) *proofs {
	p := &proofs{
		box: box, used: map[int64][]usedNonce{},
		results: promauto.With(r).NewCounterVec(prometheus.CounterOpts{
			Name: "iot_rotation_proofs_total", Help: "Proofs of devices that they have a secret, by result.",
		}, []string{"result"}),
	}
	for _, result := range []string{proofGood, proofWrong, proofNonce, proofReplayed, proofLimited, proofFailed} {
		p.results.WithLabelValues(result)
	}
	return p
}

// nonce returns a fresh one for a device.
func (p *proofs) nonce(device int64, now time.Time) (text string, expires time.Time) {
	expires = now.Add(nonceLife).UTC().Truncate(time.Second)
	return p.box.Seal(strconv.FormatInt(device, 10)+" "+strconv.FormatInt(expires.Unix(), 10)+" "+rand.Text(), nonceAbout), expires
}

// take checks a nonce and has it used up. result is for the metric.
func (p *proofs) take(device int64, nonce string, now time.Time) (result string, err error) {
	refuse := func(result, msg string, cause error) (string, error) {
		return result, fleet.E(fleet.Invalid, cause, "%s", msg)
	}
	plain, err := p.box.Open(nonce, nonceAbout)
	if err != nil {
		return refuse(proofNonce, "The nonce is not one of ours", err)
	}
	words := strings.Fields(plain)
	if len(words) != 3 {
		return refuse(proofNonce, "The nonce is not one of ours", nil)
	}
	of, err1 := strconv.ParseInt(words[0], 10, 64)
	until, err2 := strconv.ParseInt(words[1], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return refuse(proofNonce, "The nonce is not one of ours", err)
	}
	expires := time.Unix(until, 0)
	switch {
	case of != device:
		return refuse(proofNonce, "The nonce was given to another device", nil)
	case !now.Before(expires):
		return refuse(proofNonce, "The nonce is expired", nil)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.used[device][:0]
	again := false
	for _, u := range p.used[device] {
		if now.Before(u.until) {
			kept = append(kept, u)
			again = again || u.nonce == nonce
		}
	}
	p.used[device] = kept
	switch {
	case again:
		return refuse(proofReplayed, "The nonce was used before", nil)
	case len(kept) >= maxProofsOf:
		return proofLimited, fleet.E(fleet.TooMany, nil, "There are too many proofs of this device; ask again in %d minutes", int(nonceLife/time.Minute))
	}
	p.used[device] = append(kept, usedNonce{nonce, expires})
	return "", nil
}

// giveBack makes a nonce good again, as nothing was learnt from the proof.
func (p *proofs) giveBack(device int64, nonce string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, u := range p.used[device] {
		if u.nonce == nonce {
			p.used[device] = append(p.used[device][:i], p.used[device][i+1:]...)
			break
		}
	}
	if len(p.used[device]) == 0 {
		delete(p.used, device)
	}
}

var errNoRotation = fleet.E(fleet.Unavailable, nil, "Rotation is currently unavailable: it is off")

// rotationNonce answers a device with what it is to compute its proof of.
func (s *Server) rotationNonce(w http.ResponseWriter, r *http.Request) error {
	if s.rotation == nil || s.proofs.box == nil {
		return errNoRotation
	}
	text, expires := s.proofs.nonce(callingDevice(r).ID, time.Now())
	w.Header().Set("Cache-Control", "no-store")
	s.write(w, r, http.StatusOK, struct {
		Nonce   string `json:"nonce"`
		Expires string `json:"expires_at"`
	}{text, timestamp(expires)})
	return nil
}

// proveRotation takes the proof of a device that it has its new secret: HMAC-SHA256
// (RFC 2104) over the nonce, keyed with the text of the secret.
func (s *Server) proveRotation(w http.ResponseWriter, r *http.Request) error {
	if s.rotation == nil || s.proofs.box == nil {
		return errNoRotation
	}
	c := callingDevice(r)
	aboutDevice(r, c)
	if r.Body != nil {
		r.Body = http.MaxBytesReader(w, r.Body, maxProof)
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	var mac []byte
	nonce := f.text("nonce", rule{least: 1, most: 512})
	f.text("hmac", rule{check: func(text string) (err error) {
		if mac, err = hex.DecodeString(text); err != nil || len(mac) != 32 {
			return errors.New("an HMAC-SHA256 is 64 hexadecimal digits")
		}
		return nil
	}})
	if err := f.err(); err != nil {
		return err
	}
	result, err := s.proofs.take(c.ID, nonce, time.Now())
	if err == nil {
		switch err = s.rotation.Prove(r.Context(), c.ID, []byte(nonce), mac); {
		case err == nil:
			result = proofGood
		case fleet.KindOf(err) == fleet.Forbidden:
			result = proofWrong
		default:
			result = proofFailed
			s.proofs.giveBack(c.ID, nonce)
		}
	}
	s.proofs.results.WithLabelValues(result).Inc()
	if err != nil {
		return err
	}
	d, err := s.registry.Device(r.Context(), c.ID)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, struct {
		State fleet.RotationState `json:"rotation_state"`
	}{d.Rotation})
	return nil
}
