package access

import (
	"errors"

	"signalbox/internal/fleet"
)

// Reason says why somebody was not believed. Decisions, metric labels and
// sentences are made from it, never from the text of an error.
type Reason uint8

// The reasons. Each has a label and a sentence below.
const (
	Missing     Reason = iota + 1 // no token at all
	Malformed                     // not a token of a kind and algorithm that is accepted
	Expired                       // it was good once
	NotYet                        // it is from the future
	Signature                     // not signed by the key that it names
	UnknownKey                    // signed by a key that the provider does not publish
	Foreign                       // of another issuer, or for somebody else
	WrongUse                      // a token for another purpose, such as an id token
	Incomplete                    // a claim is missing that must be there
	Mismatch                      // not the answer to what was asked: nonce or state
	Revoked                       // withdrawn: logged out, disabled or deleted
	Unreachable                   // the provider cannot be asked
	Refused                       // the provider said no
)

var reasons = [...]struct{ label, sentence string }{
	Missing:     {"missing", "No valid token provided"},
	Malformed:   {"malformed", "Invalid token: it cannot be read"},
	Expired:     {"expired", "Token has expired"},
	NotYet:      {"not_yet", "Invalid token: it is not valid yet"},
	Signature:   {"signature", "Invalid token signature"},
	UnknownKey:  {"unknown_key", "Invalid token: it is signed by an unknown key"},
	Foreign:     {"foreign", "Token issuer or audience does not match expected values"},
	WrongUse:    {"wrong_use", "Invalid token: it is for another purpose"},
	Incomplete:  {"incomplete", "Invalid token: it lacks something that it must say"},
	Mismatch:    {"mismatch", "Invalid or expired authentication state"},
	Revoked:     {"revoked", "Session expired, please login again"},
	Unreachable: {"unreachable", "The identity provider cannot be reached"},
	Refused:     {"refused", "Session expired, please login again"},
}

// String returns the reason's label for metrics and logs.
func (r Reason) String() string {
	if int(r) < len(reasons) && reasons[r].label != "" {
		return reasons[r].label
	}
	return "unknown"
}

// denial is the cause of an error that says why.
type denial struct {
	reason Reason
	cause  error
}

func (d *denial) Error() string {
	if d.cause == nil {
		return d.reason.String()
	}
	return d.reason.String() + ": " + d.cause.Error()
}

func (d *denial) Unwrap() error { return d.cause }

// Deny returns the error for somebody who was not believed: of the kind
// Unauthenticated, or Unavailable when nobody can say yet. The cause is only logged.
func Deny(r Reason, cause error) error {
	kind := fleet.Unauthenticated
	if r == Unreachable {
		kind = fleet.Unavailable
	}
	return fleet.E(kind, &denial{r, cause}, "%s", reasons[r].sentence)
}

// ReasonOf returns why err denies; ok is false if it does not come from Deny.
func ReasonOf(err error) (r Reason, ok bool) {
	if d, ok := errors.AsType[*denial](err); ok {
		return d.reason, true
	}
	return 0, false
}
