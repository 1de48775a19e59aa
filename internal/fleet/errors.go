package fleet

import (
	"errors"
	"fmt"
)

// Kind says what went wrong in terms a caller can act on. Every decision about
// an error (an HTTP status, a retry, a metric label) is made from its Kind and
// never from its text.
type Kind uint8

// The kinds. The zero value is Internal, so that an error nobody classified is
// never shown to a client.
const (
	Internal         Kind = iota // a fault of ours; the text is withheld
	Invalid                      // the input breaks a rule (VALIDATION_FAILED)
	InvalidOperation             // the input is well formed but not allowed now (INVALID_OPERATION)
	Unauthenticated              // nobody proved who they are
	Forbidden                    // somebody, but not one who may
	NotFound                     // the thing named does not exist
	Exists                       // the thing named exists already
	TooLarge                     // the input is over a bound
	TooMany                      // a limit of rate or number is reached
	External                     // another service answered wrongly
	Unavailable                  // we, or a service we need, cannot answer now
)

// String returns the kind's name in snake case, for metric labels and logs.
func (k Kind) String() string {
	names := [...]string{"internal", "invalid", "invalid_operation", "unauthenticated", "forbidden", "not_found", "exists", "too_large", "too_many", "external", "unavailable"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Error is the only error type that crosses a package border with a meaning.
type Error struct {
	Kind  Kind
	Msg   string // safe to show to any client
	Cause error  // logged, never shown; may be nil
}

// Error returns Msg and, for the log, the cause.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Msg + ": " + e.Cause.Error()
	}
	return e.Msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// E builds an *Error; cause may be nil. Msg is format with args.
func E(kind Kind, cause error, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...), Cause: cause}
}

// ErrNotFound is the error for a missing thing: "Device 7 was not found".
func ErrNotFound(thing string, id any) *Error {
	return E(NotFound, nil, "%s %v was not found", thing, id)
}

// ErrExists is the error for a second thing of one name:
// "DeviceModel for relay already exists".
func ErrExists(thing string, id any) *Error {
	return E(Exists, nil, "%s for %v already exists", thing, id)
}

// ErrOperation is the error for something not allowed in the present state:
// "Cannot delete device model because model has 2 associated device(s)".
func ErrOperation(op, format string, args ...any) *Error {
	return E(InvalidOperation, nil, "Cannot %s because %s", op, fmt.Sprintf(format, args...))
}

// KindOf returns the kind of the first *Error in err's chain, or Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Public splits err into what a client may see.
func Public(err error) (Kind, string) {
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != Internal {
		return e.Kind, e.Msg
	}
	return Internal, "Internal server error"
}
