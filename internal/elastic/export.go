package elastic

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"signalbox/internal/fleet"
)

// Mark says how far an export has come. Its JSON is for the caller to keep, so
// that another process goes on there.
type Mark struct {
	Query string `json:"query"` // names what is exported, from where
	Next  Place  `json:"next"`
	Done  int64  `json:"done"`  // documents
	Total int64  `json:"total"` // of the query, when the export was started or resumed
}

// Export names what the query exports, and from where.
func (c *Client) Export(q SearchQuery) (*Export, error) {
	q.Descending, q.After, q.Count = false, nil, false
	if q.Size == 0 {
		q.Size = 1000
	}
	named := q
	named.Size = 0 // may change
	origin := []any{c.base.Host, c.base.Path, c.indexPattern, c.entityField}
	x := &Export{client: c, query: q}
	var err error
	if x.Origin, err = digest(origin); err != nil {
		return nil, err
	}
	x.Name, err = digest(append(origin, named))
	return x, err
}

// digest names what parts say.
func digest(parts []any) (string, error) {
	text, err := json.Marshal(parts)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), err
}

// Export is the reading of every document of a query, oldest first.
type Export struct {
	Name   string // equal for equal queries to one server
	Origin string // equal for all queries to the same indices of one server
	client *Client
	query  SearchQuery
}

// Run gives emit one page after another, with the mark behind it. It begins at
// the mark given, which is the zero Mark or one of this export's; with a Place it
// is after all that emit had before that. It ends with the last document that is
// there, and stops with the error of emit, unchanged. Documents that are added to
// the past during the export may be missed.
func (x *Export) Run(ctx context.Context, from Mark, emit func(Page, Mark) error) error {
	if from.Query != "" && from.Query != x.Name {
		return fleet.E(fleet.Invalid, nil, "The mark is of another export")
	}
	q := x.query
	at := from
	at.Query = x.Name
	for q.Count = true; ; q.Count = false {
		q.After = at.Next
		page, err := x.client.Search(ctx, q)
		if err != nil {
			return err
		}
		if q.Count {
			at.Total = page.Total
		}
		at.Next, at.Done = page.Next, at.Done+int64(len(page.Hits))
		if len(page.Hits) > 0 {
			if err := emit(page, at); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
	}
}
