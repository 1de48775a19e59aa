package web

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

// answer is what a kind of error looks like to a client.
type answer struct {
	status  int
	code    string
	message string // details.message
}

// answers is the only mapping from a kind to a status.
func answers(kind fleet.Kind) answer {
	switch kind {
	case fleet.Invalid:
		return answer{http.StatusBadRequest, "VALIDATION_FAILED", "Validation failed"}
	case fleet.InvalidOperation:
		return answer{http.StatusBadRequest, "INVALID_OPERATION", "The requested operation cannot be performed"}
	case fleet.Unauthenticated:
		return answer{http.StatusUnauthorized, "AUTHENTICATION_REQUIRED", "Authentication is required to access this resource"}
	case fleet.Forbidden:
		return answer{http.StatusForbidden, "AUTHORIZATION_FAILED", "Insufficient permissions to access this resource"}
	case fleet.NotFound:
		return answer{http.StatusNotFound, "RECORD_NOT_FOUND", "The requested resource could not be found"}
	case fleet.Exists:
		return answer{http.StatusConflict, "RECORD_EXISTS", "The resource already exists"}
	case fleet.TooLarge:
		return answer{http.StatusRequestEntityTooLarge, "REQUEST_TOO_LARGE", "The request is over a bound"}
	case fleet.TooMany:
		return answer{http.StatusTooManyRequests, "TOO_MANY_REQUESTS", "A limit is reached"}
	case fleet.External:
		return answer{http.StatusBadGateway, "EXTERNAL_SERVICE_ERROR", "External service request failed"}
	case fleet.Unavailable:
		return answer{http.StatusServiceUnavailable, "SERVICE_UNAVAILABLE", "Service is temporarily unavailable"}
	}
	return answer{http.StatusInternalServerError, "INTERNAL_ERROR", "An unexpected error occurred"}
}

// problem is the body of an error.
type problem struct {
	Error         string  `json:"error"`
	Details       details `json:"details"`
	Code          string  `json:"code,omitempty"`
	CorrelationID string  `json:"correlationId"`
}

type details struct {
	Message string `json:"message"`
}

// routeError is the error of a request that no row of the table takes. Its body
// has no code.
type routeError struct {
	status  int
	text    string
	message string
}

func (e *routeError) Error() string { return e.text }

var (
	errNoRoute = &routeError{http.StatusNotFound, "Resource not found", "The requested resource could not be found"}
	errMethod  = &routeError{http.StatusMethodNotAllowed, "Method not allowed", "The method is not allowed for the requested resource"}
)

// retryAfter is how many seconds a client is asked to wait when we are unavailable.
const retryAfter = "5"

// fail answers a request with an error. Faults of ours are logged with what the
// client is not told, under the correlation id that it is.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Pattern == streamRoute && s.refuseStream(w, err) {
		return
	}
	if v, ok := errors.AsType[violations](err); ok {
		s.write(w, r, http.StatusBadRequest, v)
		return
	}
	body := problem{CorrelationID: correlationID(r)}
	if e, ok := errors.AsType[*routeError](err); ok {
		body.Error, body.Details.Message = e.text, e.message
		s.write(w, r, e.status, body)
		return
	}
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		err = fleet.E(fleet.Unavailable, err, "The request was given up") // nobody hears it
	}
	kind, text := fleet.Public(err)
	a := answers(kind)
	body.Error, body.Details.Message, body.Code = text, a.message, a.code
	if a.status >= http.StatusInternalServerError && r.Context().Err() == nil && !errors.Is(err, errDraining) { // that is in the log once
		s.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "route", r.Pattern, "kind", kind.String(),
			"correlation_id", body.CorrelationID, "err", err)
	}
	if kind == fleet.Unavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	if limited, ok := errors.AsType[*access.TooManyAttempts](err); ok {
		w.Header().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(limited.RetryAfter.Seconds())), 10))
	}
	if s.refuseLink(w, r, a.status, body.Error) {
		return
	}
	s.write(w, r, a.status, body)
}

// correlationID returns the request's X-Request-ID if it is fit to be logged and
// sent back, else a fresh UUIDv4.
func correlationID(r *http.Request) string {
	const longest = 128
	id := r.Header.Get("X-Request-ID")
	if id == "" || len(id) > longest {
		return uuid.NewString()
	}
	for _, c := range []byte(id) {
		if c < ' ' || c > '~' {
			return uuid.NewString()
		}
	}
	return id
}
