package web

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

var modelCode = regexp.MustCompile(`^[a-z0-9_]+$`)

// modelSummary is a device model in a list.
type modelSummary struct {
	ID              int64   `json:"id"`
	Code            string  `json:"code"`
	Name            string  `json:"name"`
	FirmwareVersion *string `json:"firmware_version"`
	HasConfigSchema bool    `json:"has_config_schema"`
	DeviceCount     int     `json:"device_count"`
}

// modelDetail is a device model by itself.
type modelDetail struct {
	modelSummary
	ConfigSchema *string `json:"config_schema"`
	CreatedAt    string  `json:"created_at"`
	UpdatedAt    string  `json:"updated_at"`
}

func summaryOfModel(m fleet.Model) modelSummary {
	return modelSummary{
		ID:              m.ID,
		Code:            m.Code,
		Name:            m.Name,
		FirmwareVersion: m.FirmwareVersion,
		HasConfigSchema: m.ConfigSchema != nil,
		DeviceCount:     m.DeviceCount,
	}
}

func detailOfModel(m fleet.Model) modelDetail {
	return modelDetail{
		modelSummary: summaryOfModel(m),
		ConfigSchema: m.ConfigSchema,
		CreatedAt:    timestamp(m.CreatedAt),
		UpdatedAt:    timestamp(m.UpdatedAt),
	}
}

func (s *Server) listModels(w http.ResponseWriter, r *http.Request) error {
	models, err := s.registry.Models(r.Context())
	if err != nil {
		return err
	}
	models = s.scope(r).models(models)
	list := make([]modelSummary, 0, len(models))
	for _, m := range models {
		list = append(list, summaryOfModel(m))
	}
	s.write(w, r, http.StatusOK, struct {
		Models []modelSummary `json:"device_models"`
		Count  int            `json:"count"`
	}{list, len(list)})
	return nil
}

func (s *Server) createModel(w http.ResponseWriter, r *http.Request) error {
	if err := s.scope(r).needWhole(); err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	n := registry.NewModel{
		Code:         f.text("code", rule{least: 1, most: 50, pattern: modelCode}),
		Name:         f.text("name", rule{least: 1, most: 255}),
		ConfigSchema: f.textOrNull("config_schema", rule{check: blankOrJSON("config_schema")}),
	}
	if err := f.err(); err != nil {
		return err
	}
	m, err := s.registry.CreateModel(r.Context(), n)
	if err != nil {
		return err
	}
	audited(r.Context()).about("model", m.ID, m.Code)
	s.write(w, r, http.StatusCreated, detailOfModel(m))
	return nil
}

func (s *Server) getModel(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	m, err := s.registry.Model(r.Context(), id)
	if err != nil {
		return err
	}
	seen := s.scope(r).models([]fleet.Model{m})
	if len(seen) == 0 {
		return fleet.ErrNotFound("DeviceModel", id)
	}
	s.write(w, r, http.StatusOK, detailOfModel(seen[0]))
	return nil
}

// updateModel changes what is given. An empty config_schema removes the schema,
// which null cannot say: it means unchanged.
func (s *Server) updateModel(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := s.scope(r).mayChangeModel(r.Context(), s.registry, id); err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	change := registry.ModelChange{
		Name:         f.textOrNull("name", rule{least: 1, most: 255}),
		ConfigSchema: f.textOrNull("config_schema", rule{check: blankOrJSON("config_schema")}),
	}
	if err := f.err(); err != nil {
		return err
	}
	m, err := s.registry.UpdateModel(r.Context(), id, change)
	if err != nil {
		return err
	}
	audited(r.Context()).label = m.Code
	s.write(w, r, http.StatusOK, detailOfModel(m))
	return nil
}

func (s *Server) deleteModel(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := s.scope(r).mayChangeModel(r.Context(), s.registry, id); err != nil {
		return err
	}
	if err := s.registry.DeleteModel(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// configProblem is one thing that is wrong with a config.
type configProblem struct {
	Path    string `json:"path"`
	Message string `json:"message"`
}

// validateConfig says whether a config could be saved for a device of the model,
// and all that is wrong with it. A config that is wrong is no error here.
func (s *Server) validateConfig(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	config := f.text("config", rule{})
	if err := f.err(); err != nil {
		return err
	}
	if err := s.scope(r).seesModel(r.Context(), s.registry, id); err != nil {
		return err
	}
	found, err := s.registry.CheckConfig(r.Context(), id, config)
	if err != nil {
		return err
	}
	list := make([]configProblem, len(found))
	for i, p := range found {
		list[i] = configProblem(p)
	}
	s.write(w, r, http.StatusOK, struct {
		Valid  bool            `json:"valid"`
		Errors []configProblem `json:"errors"`
	}{len(list) == 0, list})
	return nil
}

// validJSON checks that the text of a field is JSON.
func validJSON(field string) func(string) error {
	return func(text string) error {
		if err := registry.CheckJSON(text); err != nil {
			return fmt.Errorf("%s must be valid JSON: %w", field, err)
		}
		return nil
	}
}

func blankOrJSON(field string) func(string) error {
	return func(text string) error {
		if strings.TrimSpace(text) == "" {
			return nil
		}
		return validJSON(field)(text)
	}
}
