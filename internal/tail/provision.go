package tail

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// Fleet is the devices of a server, to be listed, made and provisioned.
type Fleet struct {
	api *api
	out io.Writer
	err io.Writer
}

// issuerTime is how long what asks an identity provider may take.
const issuerTime = time.Minute

// OpenFleet returns the devices of a server. What is asked for goes to out, and what
// is said of it to err. Errors: fleet.Invalid for an address that is none.
func OpenFleet(server, token string, out, err io.Writer) (*Fleet, error) {
	a, bad := newAPI(server, token, nil, defaultPace)
	if bad != nil {
		return nil, bad
	}
	return &Fleet{a, out, err}, nil
}

// Close gives up the connections that nobody uses.
func (f *Fleet) Close() { f.api.close() }

// listed is a device as List prints it.
type listed struct {
	device
	ModelID  int64    `json:"device_model_id"`
	Active   bool     `json:"active"`
	Tags     []string `json:"tags"`
	Rotation string   `json:"rotation_state"`
	Revoked  bool     `json:"revoked"`
}

// List prints the devices, or those of one model, as a table or as one JSON object
// a line.
func (f *Fleet) List(ctx context.Context, model string, asJSON bool) error {
	models, err := f.api.models(ctx)
	if err != nil {
		return outcome(ctx, err)
	}
	query, codes := url.Values{}, map[int64]string{}
	for _, m := range models {
		codes[m.ID] = m.Code
	}
	if model != "" {
		id, err := findModel(models, model)
		if err != nil {
			return err
		}
		query.Set("model_id", strconv.FormatInt(id, 10))
	}
	var answer struct {
		Devices []json.RawMessage `json:"devices"`
	}
	if err := f.api.get(ctx, "api/devices", query, f.api.pace.call, &answer); err != nil {
		return outcome(ctx, err)
	}
	table := tabwriter.NewWriter(f.out, 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(table, "KEY\tMODEL\tNAME\tENTITY ID\tROTATION\tSTATE\tTAGS")
	}
	for _, raw := range answer.Devices {
		if asJSON {
			var line bytes.Buffer
			if err := json.Compact(&line, raw); err != nil {
				return f.api.stranger(err)
			}
			if _, err := fmt.Fprintln(f.out, escapeJSON(line.String())); err != nil {
				return outcome(ctx, err)
			}
			continue
		}
		var d listed
		if err := json.Unmarshal(raw, &d); err != nil {
			return f.api.stranger(err)
		}
		state := "active"
		switch {
		case d.Revoked:
			state = "revoked"
		case !d.Active:
			state = "inactive"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", escape(d.Key), escape(codes[d.ModelID]), orDash(d.Name), orDash(d.EntityID), escape(d.Rotation), state,
			escape(strings.Join(d.Tags, " ")))
	}
	return outcome(ctx, table.Flush())
}

func orDash(s *string) string {
	if s == nil {
		return "-"
	}
	return escape(*s)
}

// Export writes the devices as CSV.
func (f *Fleet) Export(ctx context.Context) error {
	resp, err := f.api.do(ctx, http.MethodGet, f.api.base.JoinPath("api/devices/export"), nil, func(h http.Header) { h.Set("Accept", "text/csv") })
	if err != nil {
		return outcome(ctx, err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(f.out, resp.Body)
	if err != nil && ctx.Err() == nil {
		return fleet.E(fleet.Unavailable, err, "The export broke off: what was written is not whole")
	}
	return outcome(ctx, err)
}

// ImportCounts says how many lines there are of each kind.
type ImportCounts struct {
	Lines, OK, Created, Exists, Errors, Warnings int
}

// Import has devices made of the lines of a CSV file, or only looked at, and
// prints what is wrong with which line. progress, if it is not nil, is told how many
// of all lines are done. The error is of an import that did not come to the end of the
// file; the counts say how far it came.
func (f *Fleet) Import(ctx context.Context, file []byte, dry bool, progress func(done, total int)) (ImportCounts, error) {
	var counts ImportCounts
	target := f.api.base.JoinPath("api/devices/import")
	target.RawQuery = url.Values{"dry_run": {strconv.FormatBool(dry)}}.Encode()
	resp, err := f.api.do(ctx, http.MethodPost, target, bytes.NewReader(file), func(h http.Header) {
		h.Set("Content-Type", "text/csv; charset=utf-8")
		h.Set("Accept", "application/x-ndjson")
	})
	if err != nil {
		return counts, outcome(ctx, err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	total := -1
	for lines.Scan() {
		var said struct {
			Total    *int          `json:"total"`
			Counts   *ImportCounts `json:"counts"`
			Stopped  *string       `json:"stopped"`
			Line     int           `json:"line"`
			Status   string        `json:"status"`
			Errors   []string      `json:"errors"`
			Warnings []string      `json:"warnings"`
		}
		if err := json.Unmarshal(lines.Bytes(), &said); err != nil {
			return counts, f.api.stranger(err)
		}
		switch {
		case said.Total != nil:
			total = *said.Total
		case said.Stopped != nil:
			return *cmp.Or(said.Counts, &counts), fleet.E(fleet.Unavailable, nil, "The import was stopped: %s", escape(*said.Stopped))
		case said.Counts != nil:
			return *said.Counts, nil
		default:
			counts.Lines++
			switch said.Status {
			case string(registry.ImportOK):
				counts.OK++
			case string(registry.ImportCreated):
				counts.Created++
			case string(registry.ImportExists):
				counts.Exists++
			default:
				counts.Errors++
			}
			if progress != nil {
				progress(counts.Lines, total)
			}
			for _, e := range said.Errors {
				fmt.Fprintf(f.err, "line %d: %s\n", said.Line, escape(e))
			}
			for _, w := range said.Warnings {
				fmt.Fprintf(f.err, "line %d: warning: %s\n", said.Line, escape(w))
			}
		}
	}
	if ctx.Err() != nil {
		return counts, nil
	}
	return counts, fleet.E(fleet.Unavailable, lines.Err(), "The connection to %s was lost. Import the file again: what is there already is left as it is", f.api.base.Redacted())
}

// find returns the device that is meant by a key, an entity id or a name.
func (f *Fleet) find(ctx context.Context, name string) (device, error) {
	devices, err := f.api.devices(ctx, 0)
	if err != nil {
		return device{}, err
	}
	return find(devices, name)
}

// target is the address of something that a device has.
func (f *Fleet) target(d device, parts ...string) *url.URL {
	return f.api.base.JoinPath(append([]string{"api/devices", strconv.FormatInt(d.ID, 10)}, parts...)...)
}

// Package writes what a device is provisioned with: as JSON, as an NVS partition of
// that many bytes, or as a QR code for a terminal.
func (f *Fleet) Package(ctx context.Context, name, format string, partition int) error {
	d, err := f.find(ctx, name)
	if err != nil {
		return outcome(ctx, err)
	}
	if format == registry.FormatNVS {
		var said struct {
			Data []byte `json:"data"`
		}
		target := f.target(d, "provisioning")
		target.RawQuery = url.Values{"partition_size": {strconv.Itoa(partition)}}.Encode()
		if err := f.api.call(ctx, http.MethodGet, target, issuerTime, nil, &said); err != nil {
			return outcome(ctx, err)
		}
		_, err := f.out.Write(said.Data)
		return outcome(ctx, err)
	}
	var said registry.Package
	if err := f.api.call(ctx, http.MethodGet, f.target(d, "credentials"), issuerTime, nil, &said); err != nil {
		return outcome(ctx, err)
	}
	if format == registry.FormatJSON {
		_, err = f.out.Write(append(said.JSON(), '\n'))
		return outcome(ctx, err)
	}
	code, err := said.QR()
	if err != nil {
		return err
	}
	_, err = io.WriteString(f.out, code.Terminal())
	return outcome(ctx, err)
}

// Link makes a link to what a device is provisioned with, which can be used once, and
// prints it.
func (f *Fleet) Link(ctx context.Context, name, format string, partition int, lifetime time.Duration) error {
	d, err := f.find(ctx, name)
	if err != nil {
		return outcome(ctx, err)
	}
	ask := map[string]any{"format": format, "expires_in_seconds": int64(lifetime / time.Second)}
	if format == registry.FormatNVS {
		ask["partition_size"] = partition
	}
	var said struct {
		URL       string `json:"url"`
		ExpiresAt string `json:"expires_at"`
	}
	if err := f.api.call(ctx, http.MethodPost, f.target(d, "provisioning-links"), f.api.pace.call, ask, &said); err != nil {
		return outcome(ctx, err)
	}
	fmt.Fprintf(f.err, "Good once, until %s:\n", escape(said.ExpiresAt))
	_, err = fmt.Fprintln(f.out, escape(said.URL))
	return outcome(ctx, err)
}

// Create makes a device and prints its key.
func (f *Fleet) Create(ctx context.Context, model, config string) error {
	models, err := f.api.models(ctx)
	if err != nil {
		return outcome(ctx, err)
	}
	id, err := findModel(models, model)
	if err != nil {
		return err
	}
	var said struct {
		Key      string   `json:"key"`
		Warnings []string `json:"warnings"`
	}
	if err := f.api.call(ctx, http.MethodPost, f.api.base.JoinPath("api/devices"), issuerTime, map[string]any{"device_model_id": id, "config": config}, &said); err != nil {
		return outcome(ctx, err)
	}
	for _, w := range said.Warnings {
		fmt.Fprintln(f.err, "warning:", escape(w))
	}
	_, err = fmt.Fprintln(f.out, escape(said.Key))
	return outcome(ctx, err)
}

// Delete removes a device, if sure, who is told which one is meant, says so.
func (f *Fleet) Delete(ctx context.Context, name string, sure func(device string) bool) error {
	d, err := f.find(ctx, name)
	if err != nil {
		return outcome(ctx, err)
	}
	if !sure(d.String()) {
		return errors.New("nothing was deleted")
	}
	if err := f.api.call(ctx, http.MethodDelete, f.target(d), issuerTime, nil, nil); err != nil {
		return outcome(ctx, err)
	}
	_, err = fmt.Fprintf(f.out, "%s is deleted\n", escape(d.Key))
	return outcome(ctx, err)
}

// Revoke withdraws the credential of a device.
func (f *Fleet) Revoke(ctx context.Context, name string) error {
	var said struct {
		Sessions *int    `json:"sessions_closed"`
		Error    *string `json:"client_error"`
	}
	d, err := f.ask(ctx, name, "revoke", nil, &said)
	if err != nil {
		return outcome(ctx, err)
	}
	text := d.Key + " is revoked"
	if said.Sessions != nil {
		text += fmt.Sprintf("; %d MQTT sessions were closed", *said.Sessions)
	}
	return f.revoked(ctx, text, said.Error)
}

// Restore makes the credential of a device good again. With fresh it gets another
// secret instead, and every one that it had is destroyed: it has to be provisioned
// anew.
func (f *Fleet) Restore(ctx context.Context, name string, fresh bool) error {
	var said struct {
		Error *string `json:"client_error"`
	}
	var body any
	if fresh {
		body = map[string]bool{"new_secret": true}
	}
	d, err := f.ask(ctx, name, "restore", body, &said)
	if err != nil {
		return outcome(ctx, err)
	}
	return f.revoked(ctx, d.Key+" is restored", said.Error)
}

func (f *Fleet) ask(ctx context.Context, name, what string, body, said any) (device, error) {
	d, err := f.find(ctx, name)
	if err == nil {
		err = f.api.call(ctx, http.MethodPost, f.target(d, what), issuerTime, body, said)
	}
	return d, err
}

// revoked prints what was done, and what the identity provider said against it.
func (f *Fleet) revoked(ctx context.Context, text string, problem *string) error {
	if problem != nil {
		text += "; the identity provider has not done its part and is asked again: " + *problem
	}
	_, err := fmt.Fprintln(f.out, escape(text))
	return outcome(ctx, err)
}
