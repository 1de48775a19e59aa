package oidc

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"signalbox/internal/access"
)

// What logins are made of.
type (
	Login  = access.Login
	Tokens = access.Tokens
)

// LoginURL returns where a browser is sent to log in.
func (p *Provider) LoginURL(l Login) (string, error) {
	d := p.found.Load()
	if d == nil {
		return "", access.Deny(access.Unreachable, nil)
	}
	return d.oauth.AuthCodeURL(l.State, oidc.Nonce(l.Nonce), oauth2.S256ChallengeOption(l.Verifier)), nil
}

// Exchange turns the code that the browser came back with into tokens. The
// access token and the id token are verified, and that both are of one subject.
func (p *Provider) Exchange(ctx context.Context, code string, l Login) (Tokens, error) {
	d := p.found.Load()
	if d == nil {
		return Tokens{}, access.Deny(access.Unreachable, nil)
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.opts.Client), timeout)
	defer cancel()
	answer, err := d.oauth.Exchange(ctx, code, oauth2.VerifierOption(l.Verifier))
	if err != nil {
		return Tokens{}, refusal(err)
	}
	return p.tokens(ctx, answer, &l)
}

// Refresh gets new tokens for a refresh token. Many requests may come with the
// same one, at once or while their browser has not seen the answer to the first:
// the provider is asked once, and all get the same answer.
func (p *Provider) Refresh(ctx context.Context, refresh string) (Tokens, error) {
	if refresh == "" {
		return Tokens{}, access.Deny(access.Missing, nil)
	}
	d := p.found.Load()
	if d == nil {
		return Tokens{}, access.Deny(access.Unreachable, nil)
	}
	return p.again.do(ctx, refresh, func(ctx context.Context) (Tokens, error) {
		ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.opts.Client), timeout)
		defer cancel()
		answer, err := d.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: refresh}).Token()
		if err != nil {
			return Tokens{}, refusal(err)
		}
		return p.tokens(ctx, answer, nil)
	})
}

// tokens verifies what the provider gave: the access token, the id token, and
// that both are of one subject. l is nil after a refresh, which may bring no id
// token and need not repeat the nonce.
func (p *Provider) tokens(ctx context.Context, answer *oauth2.Token, l *Login) (Tokens, error) {
	claims, err := p.Verify(ctx, answer.AccessToken)
	if err != nil {
		return Tokens{}, err
	}
	t := Tokens{Access: answer.AccessToken, Refresh: answer.RefreshToken, Claims: claims}
	t.ID, _ = answer.Extra("id_token").(string)
	nonce := ""
	if l != nil {
		nonce = l.Nonce
	} else if t.ID == "" {
		return t, nil
	}
	id, err := p.verifyID(ctx, t.ID, nonce)
	if err != nil {
		return Tokens{}, err
	}
	if id.Subject != claims.Subject {
		return Tokens{}, access.Deny(access.Mismatch, errors.New("the id token is of another subject"))
	}
	return t, nil
}

// refusal says whether the provider refused or could not be asked.
func refusal(err error) error {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response != nil && e.Response.StatusCode < http.StatusInternalServerError &&
		e.Response.StatusCode != http.StatusTooManyRequests {
		return access.Deny(access.Refused, err)
	}
	return access.Deny(access.Unreachable, err)
}

// remembered is how long the answer to a refresh is given to those who come
// late with the token that it has used up.
const remembered = 30 * time.Second

// refreshes lets each refresh token be used once. A provider that rotates them
// takes a second use for a theft and ends the session.
type refreshes struct {
	now    func() time.Time
	flight singleflight.Group

	mu   sync.Mutex
	done map[[sha256.Size]byte]refreshed // by the hash of the token: none is kept
}

type refreshed struct {
	tokens Tokens
	until  time.Time
}

func (r *refreshes) do(ctx context.Context, token string, f func(context.Context) (Tokens, error)) (Tokens, error) {
	key := sha256.Sum256([]byte(token))
	if t, ok := r.known(key); ok {
		return t, nil
	}
	// The first who asks may give up; the others, and the session, need the answer.
	answer := r.flight.DoChan(string(key[:]), func() (any, error) {
		if t, ok := r.known(key); ok {
			return t, nil
		}
		t, err := f(context.WithoutCancel(ctx))
		if err == nil {
			r.keep(key, t)
		}
		return t, err
	})
	select {
	case a := <-answer:
		t, _ := a.Val.(Tokens)
		return t, a.Err
	case <-ctx.Done():
		return Tokens{}, ctx.Err()
	}
}

func (r *refreshes) known(key [sha256.Size]byte) (Tokens, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.done[key]
	if !ok || !r.now().Before(d.until) {
		return Tokens{}, false
	}
	return d.tokens, true
}

func (r *refreshes) keep(key [sha256.Size]byte, t Tokens) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = map[[sha256.Size]byte]refreshed{}
	}
	for k, d := range r.done {
		if !r.now().Before(d.until) {
			delete(r.done, k)
		}
	}
	r.done[key] = refreshed{t, r.now().Add(remembered)}
}
