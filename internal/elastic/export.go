package elastic

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"signalbox/internal/fleet"
)

// Progress is how far an export has come.
type Progress struct {
	Done  int64
	Total int64 // documents of the query when the export was started or resumed
}

// Resume is a file that says how far an export has come, so that the next
// process goes on there.
type Resume struct {
	path string
	mark mark
}

// mark is the content of the file.
type mark struct {
	Version int    `json:"version"`
	Query   string `json:"query"` // a digest of what is exported, from where
	Next    Place  `json:"next"`
	Done    int64  `json:"done"`
}

const markVersion = 1

// OpenResume opens the file, which need not exist. Its error is fleet.Invalid
// if that is no such file.
func OpenResume(path string) (*Resume, error) {
	r := &Resume{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fleet.E(fleet.Invalid, err, "The file cannot be read")
	}
	if err := json.Unmarshal(text, &r.mark); err != nil || r.mark.Version != markVersion {
		return nil, fleet.E(fleet.Invalid, err, "%s does not say how far an import has come", path)
	}
	return r, nil
}

// save replaces the file as a whole, or not at all.
func (r *Resume) save() error {
	text, err := json.Marshal(r.mark)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(r.path), filepath.Base(r.path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), r.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Export reads every document of the query, oldest first, and gives emit one
// page after another, with how far it is when emit has had it. What emit has
// taken is noted in resume, which may be nil, and not given again by an export
// that is resumed; the page during which the process died is. It ends with the
// last document that is there, and stops with the error of emit, unchanged.
// Documents that are added to the past during the export may be missed.
func (c *Client) Export(ctx context.Context, q SearchQuery, resume *Resume, emit func(Page, Progress) error) error {
	q.Descending, q.After, q.Count = false, nil, false
	if q.Size == 0 {
		q.Size = 1000
	}
	named := q
	named.Size = 0 // may change
	text, err := json.Marshal([]any{c.base.Host, c.base.Path, c.indexPattern, named})
	if err != nil {
		return err
	}
	digest := sha256.Sum256(text)
	query := hex.EncodeToString(digest[:8])
	var progress Progress
	if resume != nil {
		if resume.mark.Query != "" && resume.mark.Query != query {
			return fleet.E(fleet.Invalid, nil, "%s is about another import", resume.path)
		}
		q.After, progress.Done = resume.mark.Next, resume.mark.Done
	}
	for q.Count = true; ; q.Count = false {
		page, err := c.Search(ctx, q)
		if err != nil {
			return err
		}
		if q.Count {
			progress.Total = page.Total
		}
		if len(page.Hits) > 0 {
			progress.Done += int64(len(page.Hits))
			if err := emit(page, progress); err != nil {
				return err
			}
		}
		q.After = page.Next
		if resume != nil && len(page.Next) > 0 {
			resume.mark = mark{markVersion, query, page.Next, progress.Done}
			if err := resume.save(); err != nil {
				return fmt.Errorf("noting how far the import is: %w", err)
			}
		}
		if !page.More {
			return nil
		}
	}
}
