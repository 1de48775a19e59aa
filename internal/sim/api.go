package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"signalbox/internal/fleet"
)

const (
	serverPatience = 20 * time.Second // how long to wait for a server that is just starting
	requestTimeout = 10 * time.Second
	creatorsAtOnce = 8
	maxAnswer      = 64 << 20 // bytes; a list of 100 000 devices is well below
)

// board is a device as the server knows it.
type board struct {
	id       int64
	clientID string
}

// newAPI returns an api and what ends its connections.
func newAPI(cfg Config) (*api, func()) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = creatorsAtOnce
	return &api{
		base:  strings.TrimRight(cfg.Server, "/"),
		token: cfg.Token,
		http:  &http.Client{Transport: transport, Timeout: requestTimeout},
	}, transport.CloseIdleConnections
}

// provision makes sure that the server has the boards, and returns them in
// order. A board is found by its entity id, whatever its model.
func (api *api) provision(ctx context.Context, cfg Config, log *slog.Logger) ([]board, error) {
	if err := api.await(ctx); err != nil {
		return nil, err
	}
	model, codes, err := api.model(ctx, cfg.Model)
	if err != nil {
		return nil, err
	}
	var list struct {
		Devices []struct {
			ID       int64   `json:"id"`
			Key      string  `json:"key"`
			ModelID  int64   `json:"device_model_id"`
			EntityID *string `json:"device_entity_id"`
		} `json:"devices"`
	}
	if err := api.do(ctx, http.MethodGet, "/api/devices", nil, &list); err != nil {
		return nil, err
	}
	known := map[string]board{}
	for _, d := range list.Devices {
		if d.EntityID == nil || codes[d.ModelID] == "" {
			continue
		}
		if _, twice := known[*d.EntityID]; !twice { // the first by key, so that every run takes the same one
			known[*d.EntityID] = board{d.ID, fleet.ClientID(codes[d.ModelID], d.Key)}
		}
	}

	boards := make([]board, cfg.Devices)
	var missing []int
	for i := range boards {
		if boards[i] = known[EntityID(i+1)]; boards[i].clientID == "" {
			missing = append(missing, i)
		}
	}
	if err := api.create(ctx, model, missing, boards); err != nil {
		return nil, err
	}
	log.Info("the server knows all devices", "devices", cfg.Devices, "created", len(missing), "model", cfg.Model)
	return boards, nil
}

// api speaks to the server's HTTP API.
type api struct {
	base  string
	token string
	http  *http.Client
}

// await waits until the server answers at all.
func (a *api) await(ctx context.Context) error {
	deadline := time.Now().Add(serverPatience)
	for {
		err := a.do(ctx, http.MethodGet, "/api/device-models", nil, nil)
		if err == nil || fleet.KindOf(err) != fleet.Unavailable || time.Now().After(deadline) {
			return err
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// model returns the id of the model with that code, made if it is missing, and
// the codes of all models by id.
func (a *api) model(ctx context.Context, code string) (int64, map[int64]string, error) {
	type model struct {
		ID   int64  `json:"id"`
		Code string `json:"code"`
	}
	// Somebody else may make it between our look and our attempt, so look twice.
	for range 2 {
		var list struct {
			Models []model `json:"device_models"`
		}
		if err := a.do(ctx, http.MethodGet, "/api/device-models", nil, &list); err != nil {
			return 0, nil, err
		}
		codes := map[int64]string{}
		var id int64
		for _, m := range list.Models {
			codes[m.ID] = m.Code
			if m.Code == code {
				id = m.ID
			}
		}
		if id != 0 {
			return id, codes, nil
		}
		var made model
		err := a.do(ctx, http.MethodPost, "/api/device-models", map[string]string{"code": code, "name": "Simulated board (" + code + ")"}, &made)
		if err == nil {
			codes[made.ID] = made.Code
			return made.ID, codes, nil
		}
		if fleet.KindOf(err) != fleet.Exists {
			return 0, nil, err
		}
	}
	return 0, nil, fleet.E(fleet.External, nil, "the server has the device model %s and does not list it", code)
}

// create makes the boards with those indexes.
func (a *api) create(ctx context.Context, model int64, missing []int, boards []board) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var creators sync.WaitGroup
	for range min(creatorsAtOnce, len(missing)) {
		creators.Go(func() {
			for i := range next {
				var err error
				if boards[i], err = a.createDevice(ctx, model, i+1); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, i := range missing {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	creators.Wait()
	return context.Cause(ctx)
}

// createDevice makes board n.
func (a *api) createDevice(ctx context.Context, model int64, n int) (board, error) {
	config, err := json.MarshalIndent(struct {
		Name      string `json:"deviceName"`
		EntityID  string `json:"deviceEntityId"`
		EnableOTA bool   `json:"enableOTA"`
	}{Name(n), EntityID(n), n%3 != 0}, "", "  ")
	if err != nil {
		return board{}, err
	}
	var device struct {
		ID       int64  `json:"id"`
		ClientID string `json:"client_id"`
	}
	err = a.do(ctx, http.MethodPost, "/api/devices", map[string]any{"device_model_id": model, "config": string(config)}, &device)
	if err == nil && device.ClientID == "" {
		err = fleet.E(fleet.External, nil, "the server answered without a client id")
	}
	return board{device.ID, device.ClientID}, err
}

// do makes one request and reads the JSON of a 2xx answer into out, unless that
// is nil. The kinds of its errors: Unavailable when there is no answer or a 502,
// 503 or 504; Unauthenticated, Forbidden, Exists and Invalid for the statuses of
// these names; External for anything else.
func (a *api) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return fleet.E(fleet.Invalid, err, "%q is not the URL of a server", a.base)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return fleet.E(fleet.Unavailable, err, "%s %s: no answer from %s", method, path, a.base)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fleet.E(fleet.Unavailable, err, "%s %s: the answer broke off", method, path)
	}
	if resp.StatusCode/100 != 2 {
		return fleet.E(kindOf(resp.StatusCode), errors.New(string(answer[:min(len(answer), 500)])), "%s %s: %s", method, path, resp.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fleet.E(fleet.External, err, "%s %s: the answer is not what was expected", method, path)
	}
	return nil
}

func kindOf(status int) fleet.Kind {
	switch status {
	case http.StatusBadRequest:
		return fleet.Invalid
	case http.StatusUnauthorized:
		return fleet.Unauthenticated
	case http.StatusForbidden:
		return fleet.Forbidden
	case http.StatusConflict:
		return fleet.Exists
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fleet.Unavailable
	}
	return fleet.External
}
