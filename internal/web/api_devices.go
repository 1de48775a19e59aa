package web

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// deviceSummary is a device in a list.
type deviceSummary struct {
	ID              int64               `json:"id"`
	Key             string              `json:"key"`
	DeviceModelID   int64               `json:"device_model_id"`
	Active          bool                `json:"active"`
	DeviceName      *string             `json:"device_name"`
	DeviceEntityID  *string             `json:"device_entity_id"`
	EnableOTA       *bool               `json:"enable_ota"`
	Tags            []string            `json:"tags"`
	RotationState   fleet.RotationState `json:"rotation_state"`
	SecretCreatedAt *string             `json:"secret_created_at"`
	LastCoredumpAt  *string             `json:"last_coredump_at"` // always null: there are no core dumps yet
	Revoked         bool                `json:"revoked"`
}

// deviceDetail is a device by itself.
type deviceDetail struct {
	ID                      int64               `json:"id"`
	Key                     string              `json:"key"`
	DeviceModelID           int64               `json:"device_model_id"`
	DeviceModel             deviceModel         `json:"device_model"`
	Active                  bool                `json:"active"`
	Config                  *string             `json:"config"` // null for who may not see it
	DeviceName              *string             `json:"device_name"`
	DeviceEntityID          *string             `json:"device_entity_id"`
	EnableOTA               *bool               `json:"enable_ota"`
	Tags                    []string            `json:"tags"`
	RotationState           fleet.RotationState `json:"rotation_state"`
	ClientID                string              `json:"client_id"`
	SecretCreatedAt         *string             `json:"secret_created_at"`
	LastRotationAttemptAt   *string             `json:"last_rotation_attempt_at"`
	LastRotationCompletedAt *string             `json:"last_rotation_completed_at"`
	CreatedAt               string              `json:"created_at"`
	UpdatedAt               string              `json:"updated_at"`
	Revoked                 bool                `json:"revoked"`
	Warnings                []string            `json:"warnings"`
}

type deviceModel struct {
	ID              int64   `json:"id"`
	Code            string  `json:"code"`
	Name            string  `json:"name"`
	FirmwareVersion *string `json:"firmware_version"`
}

// detailOfDevice returns a device, with its config or without: a config may hold
// secrets, under names that only the firmware knows, and is for those who may
// see these.
func (s *Server) detailOfDevice(sc scope, d fleet.Device) deviceDetail {
	var config *string
	if sc.who.Has(access.RoleEditor) {
		config = &d.Config
	}
	return deviceDetail{
		ID:                      d.ID,
		Key:                     d.Key,
		DeviceModelID:           d.Model.ID,
		DeviceModel:             deviceModel{d.Model.ID, d.Model.Code, d.Model.Name, d.Model.FirmwareVersion},
		Active:                  d.Active,
		Config:                  config,
		DeviceName:              d.Name,
		DeviceEntityID:          d.EntityID,
		EnableOTA:               d.EnableOTA,
		Tags:                    tagList(d.Tags),
		RotationState:           d.Rotation,
		ClientID:                d.ClientID(),
		SecretCreatedAt:         timestampOrNull(d.SecretCreatedAt),
		LastRotationAttemptAt:   timestampOrNull(d.LastRotationAttemptAt),
		LastRotationCompletedAt: timestampOrNull(d.LastRotationCompletedAt),
		CreatedAt:               timestamp(d.CreatedAt),
		UpdatedAt:               timestamp(d.UpdatedAt),
		Revoked:                 d.RevokedAt != nil,
		Warnings:                s.registry.Warnings(d.ID, sc.sees),
	}
}

func tagList(t fleet.Tags) []string { return slices.AppendSeq([]string{}, t.All()) }

func (s *Server) listDevices(w http.ResponseWriter, r *http.Request) error {
	var filter registry.DeviceFilter
	query := r.URL.Query()
	if id, err := strconv.ParseInt(strings.TrimSpace(query.Get("model_id")), 10, 64); err == nil {
		filter.ModelID = &id
	}
	if state := fleet.RotationState(query.Get("rotation_state")); state != "" {
		filter.Rotation = &state
	}
	sc := s.scope(r)
	devices, err := s.registry.Devices(r.Context(), filter)
	if err != nil {
		return err
	}
	list := make([]deviceSummary, 0, len(devices))
	for _, d := range devices {
		if !sc.sees(d.Ref()) {
			continue
		}
		list = append(list, deviceSummary{
			ID:              d.ID,
			Key:             d.Key,
			DeviceModelID:   d.Model.ID,
			Active:          d.Active,
			DeviceName:      d.Name,
			DeviceEntityID:  d.EntityID,
			EnableOTA:       d.EnableOTA,
			Tags:            tagList(d.Tags),
			RotationState:   d.Rotation,
			SecretCreatedAt: timestampOrNull(d.SecretCreatedAt),
			Revoked:         d.RevokedAt != nil,
		})
	}
	s.write(w, r, http.StatusOK, struct {
		Devices []deviceSummary `json:"devices"`
		Count   int             `json:"count"`
	}{list, len(list)})
	return nil
}

func (s *Server) createDevice(w http.ResponseWriter, r *http.Request) error {
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	model := f.integer("device_model_id")
	config := f.text("config", rule{check: validJSON("config")})
	if err := f.err(); err != nil {
		return err
	}
	sc := s.scope(r)
	if err := sc.seesModel(r.Context(), s.registry, model); err != nil {
		return err
	}
	d, err := s.registry.CreateDevice(sc.changing(r.Context()), model, config)
	if err != nil {
		return err
	}
	audited(r.Context()).about("device", d.ID, d.Key)
	s.write(w, r, http.StatusCreated, s.detailOfDevice(sc, d))
	return nil
}

func (s *Server) getDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	sc := s.scope(r)
	d, err := s.registry.Device(r.Context(), id)
	if err != nil {
		return err
	}
	if !sc.sees(d.Ref()) {
		return fleet.ErrNotFound("Device", id)
	}
	detail := s.detailOfDevice(sc, d)
	e := audited(r.Context())
	e.about("device", d.ID, d.Key)
	e.silent = detail.Config == nil
	s.write(w, r, http.StatusOK, detail)
	return nil
}

func (s *Server) updateDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	config := f.text("config", rule{check: validJSON("config")})
	active := f.boolean("active")
	if err := f.err(); err != nil {
		return err
	}
	sc := s.scope(r)
	if _, err := sc.device(id); err != nil {
		return err
	}
	d, err := s.registry.UpdateDevice(sc.changing(r.Context()), id, config, active)
	if err != nil {
		return err
	}
	if s.changed != nil {
		s.changed(d.ClientID())
	}
	s.write(w, r, http.StatusOK, s.detailOfDevice(sc, d))
	return nil
}

func (s *Server) deleteDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	sc := s.scope(r)
	if _, err := sc.device(id); err != nil {
		return err
	}
	if err := s.registry.DeleteDevice(sc.changing(r.Context()), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
