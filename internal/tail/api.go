package tail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"signalbox/internal/fleet"
)

// maxAnswer bounds the body of an answer, in bytes; a device in the list takes
// about 300, a line of the history mostly as much, and at most 2 MB.
const maxAnswer = 64 << 20

// errTooLong is the cause of the error for an answer beyond that.
var errTooLong = errors.New("the answer is too long")

// api is the part of the server's HTTP API that a tail needs.
type api struct {
	base  *url.URL
	token string
	http  *http.Client
	pace  pace
	most  int64 // bytes of an answer
	own   bool  // http is ours to close
}

func newAPI(server, token string, client *http.Client, p pace) (*api, error) {
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	base, err := url.Parse(server)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fleet.E(fleet.Invalid, nil, "The server must be a URL like http://127.0.0.1:3101")
	}
	a := &api{base: base, token: token, pace: p, most: maxAnswer}
	if client == nil {
		a.http, a.own = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}, true
		return a, nil
	}
	endless := *client
	endless.Timeout = 0
	a.http = &endless
	return a, nil
}

// close gives up the connections that nobody uses.
func (a *api) close() {
	if a.own {
		a.http.CloseIdleConnections()
	}
}

// refused is an answer that is not a success. It unwraps to the *fleet.Error
// for its status, whose Msg is the server's own text.
type refused struct {
	err    *fleet.Error
	status int
	after  time.Duration // Retry-After, 0 if there was none
}

func (r *refused) Error() string { return r.err.Msg }
func (r *refused) Unwrap() error { return r.err }

// busy reports whether the server asks to come again later.
func (r *refused) busy() bool {
	return r.status == http.StatusTooManyRequests || r.status == http.StatusServiceUnavailable || r.status == http.StatusRequestTimeout
}

// gateway reports whether a proxy found no server behind it.
func (r *refused) gateway() bool {
	return r.status == http.StatusBadGateway || r.status == http.StatusGatewayTimeout
}

// transient reports whether the same request may succeed later.
func (r *refused) transient() bool { return r.busy() || r.status >= 500 }

func kindOf(status int) fleet.Kind {
	switch {
	case status == http.StatusUnauthorized:
		return fleet.Unauthenticated
	case status == http.StatusForbidden:
		return fleet.Forbidden
	case status == http.StatusNotFound:
		return fleet.NotFound
	case status == http.StatusTooManyRequests:
		return fleet.TooMany
	case status == http.StatusRequestTimeout, status == http.StatusServiceUnavailable:
		return fleet.Unavailable
	case status >= 400 && status < 500:
		return fleet.Invalid
	default:
		return fleet.External
	}
}

// devices returns every device, or those of one model, ordered by key.
func (a *api) devices(ctx context.Context, model int64) ([]device, error) {
	var answer struct {
		Devices []device `json:"devices"`
	}
	query := url.Values{}
	if model != 0 {
		query.Set("model_id", strconv.FormatInt(model, 10))
	}
	err := a.get(ctx, "api/devices", query, a.pace.call, &answer)
	return answer.Devices, err
}

// model is a device model as the server lists it.
type model struct {
	ID   int64  `json:"id"`
	Code string `json:"code"`
}

// models returns every device model.
func (a *api) models(ctx context.Context) ([]model, error) {
	var answer struct {
		Models []model `json:"device_models"`
	}
	err := a.get(ctx, "api/device-models", nil, a.pace.call, &answer)
	return answer.Models, err
}

// subscription is what a stream is to carry: one of a device, some, a model's, and all.
type subscription struct {
	RequestID string  `json:"request_id"`
	DeviceID  int64   `json:"device_id,omitempty"`
	DeviceIDs []int64 `json:"device_ids,omitempty"`
	ModelID   int64   `json:"model_id,omitempty"`
	All       bool    `json:"all,omitempty"`
	lineFilter
}

// lineFilter says which lines of them; "" is any.
type lineFilter struct {
	Level string `json:"level,omitempty"`
	Tag   string `json:"tag,omitempty"`
	Query string `json:"query,omitempty"`
	Regex string `json:"regex,omitempty"`
}

// subscribe makes the stream carry that. Idempotent.
func (a *api) subscribe(ctx context.Context, s subscription) error {
	return a.call(ctx, http.MethodPost, a.base.JoinPath("api/device-logs/subscribe"), a.pace.call, s, nil)
}

// get asks and reads the JSON answer into out, within the time. Its errors are
// those of call.
func (a *api) get(ctx context.Context, path string, query url.Values, within time.Duration, out any) error {
	target := a.base.JoinPath(path)
	target.RawQuery = query.Encode()
	return a.call(ctx, http.MethodGet, target, within, nil, out)
}

// call makes one request with a JSON body and reads the JSON answer into out.
// Its errors are *refused, or a *fleet.Error of kind Unavailable when there was
// no answer and External when it made no sense or was too long (errTooLong).
func (a *api) call(ctx context.Context, method string, target *url.URL, within time.Duration, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := a.do(ctx, method, target, body, func(h http.Header) {
		h.Set("Accept", "application/json")
		if body != nil {
			h.Set("Content-Type", "application/json")
		}
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// Reading to the end lets the connection be used again.
	b, err := io.ReadAll(io.LimitReader(resp.Body, a.most+1))
	switch {
	case err != nil:
		return a.unreachable(err)
	case int64(len(b)) > a.most:
		return fleet.E(fleet.External, errTooLong, "The answer of %s is too long", a.base.Redacted())
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return a.stranger(err)
	}
	return nil
}

// open opens the stream. Its errors are those of call. While a read of the
// stream waits longer than pace.idle, cancel is called with a *lost.
func (a *api) open(ctx context.Context, cancel context.CancelCauseFunc, requestID, lastID string) (io.ReadCloser, error) {
	target := a.base.JoinPath("api/sse/stream")
	target.RawQuery = url.Values{"request_id": {requestID}}.Encode()
	watchdog := time.AfterFunc(a.pace.idle, func() {
		cancel(&lost{why: fmt.Sprintf("nothing heard for %v", a.pace.idle)})
	})
	defer watchdog.Stop()
	resp, err := a.do(ctx, http.MethodGet, target, nil, func(h http.Header) {
		h.Set("Accept", "text/event-stream")
		h.Set("Accept-Encoding", "identity") // a compressor on the way would delay events
		h.Set("Cache-Control", "no-store")
		if lastID != "" {
			h.Set("Last-Event-ID", lastID)
		}
	})
	if err != nil {
		return nil, err
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || resp.StatusCode != http.StatusOK || media != "text/event-stream" {
		resp.Body.Close()
		return nil, a.stranger(err)
	}
	return &watched{resp.Body, watchdog, a.pace.idle}, nil
}

// do sends a request and returns its answer if that is a success.
func (a *api) do(ctx context.Context, method string, target *url.URL, body io.Reader, header func(http.Header)) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, fleet.E(fleet.Invalid, err, "The request to the server cannot be made")
	}
	header(req.Header)
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, a.unreachable(err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

// unreachable is the error for a server that did not answer.
func (a *api) unreachable(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // Msg has the URL already
	}
	return fleet.E(fleet.Unavailable, err, "Cannot reach %s", a.base.Redacted())
}

// stranger is the error for a server that does not speak our language.
func (a *api) stranger(cause error) error {
	return fleet.E(fleet.External, cause, "The answer of %s makes no sense: is it a Signalbox server?", a.base.Redacted())
}

// refusal reads an answer that is not a success.
func refusal(resp *http.Response) *refused {
	msg := http.StatusText(resp.StatusCode)
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // the status says enough
	var object struct {
		Error string `json:"error"`
	}
	var list []struct {
		Msg string `json:"msg"`
	}
	switch {
	case json.Unmarshal(b, &object) == nil && object.Error != "":
		msg = object.Error
	case json.Unmarshal(b, &list) == nil && len(list) > 0 && list[0].Msg != "":
		msg = list[0].Msg
	}
	return &refused{
		err:    fleet.E(kindOf(resp.StatusCode), nil, "%s", escape(msg)),
		status: resp.StatusCode,
		after:  retryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3), up to maxAsked.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxAsked)
	}
	if at, err := http.ParseTime(s); err == nil {
		return min(max(at.Sub(now), 0), maxAsked)
	}
	return 0
}

// watched is a stream whose every Read must bring something before the
// watchdog fires. Time between reads does not count.
type watched struct {
	io.ReadCloser
	watchdog *time.Timer
	idle     time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	w.watchdog.Reset(w.idle)
	defer w.watchdog.Stop()
	return w.ReadCloser.Read(p)
}
