package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/slipway-ci/slipway/internal/job"
)

// recordName is the record's file in the job's spool folder.
const recordName = "record.json"

// Record is what is kept on disk, readable for the owner only, while a job runs: enough to end the job when the
// runner was killed.
type Record struct {
	URL            string            `json:"url"`          // of the server
	RunnerToken    string            `json:"runner_token"` // its short form
	JobID          int64             `json:"job_id"`
	Token          job.Secret        `json:"token"`           // the job's
	FailureReasons []job.Reason      `json:"failure_reasons"` // what the server knows
	Labels         map[string]string `json:"labels,omitempty"`

	// Open and the upload fill in the rest.

	Timestamps bool   `json:"timestamps"`
	Debug      bool   `json:"debug"`
	Sent       int64  `json:"sent"`     // bytes that the server has
	Size       int64  `json:"size"`     // bytes of the log at that time, and
	Checksum   string `json:"checksum"` // their checksum
	// Final is how the job ended, once that stands in the log and only its delivery is missing.
	Final *Final `json:"final,omitempty"`
}

// Final is the end of a job as the server is told.
type Final struct {
	State    job.State  `json:"state"`
	Reason   job.Reason `json:"reason,omitempty"`
	ExitCode int        `json:"exit_code,omitempty"`
}

// save replaces the record of dir. It is not synced to the disk: the record is for a killed runner, not for a power cut.
func (r *Record) save(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write job record: %w", err)
	}
	path := filepath.Join(dir, recordName)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("write job record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write job record: %w", err)
	}
	return nil
}

// Left is a job that a runner began and did not end.
type Left struct {
	Dir    string
	Record Record
}

// ReadLeft reads the record of one spool folder. It is gone (fs.ErrNotExist) when the server knows how the job ended.
func ReadLeft(dir string) (Left, error) {
	left := Left{Dir: dir}
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err == nil {
		err = json.Unmarshal(data, &left.Record)
	}
	return left, err
}

// Interrupted lists the jobs whose spool folders lie in root, which no running process may use. Folders without a
// record, from before a job's start or after its end, are removed. The error tells of folders that cannot be read,
// the others are listed all the same.
func Interrupted(root string) ([]Left, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list interrupted jobs: %w", err)
	}
	var lefts []Left
	var errs []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		left, err := ReadLeft(filepath.Join(root, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			err = removeEmpty(left.Dir)
		} else if err == nil {
			lefts = append(lefts, left)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read interrupted job %s: %w", left.Dir, err))
		}
	}
	return lefts, errors.Join(errs...)
}

// removeEmpty removes a spool folder without a record. It takes only the files that this package makes: the folder
// may be somebody's.
func removeEmpty(dir string) error {
	for _, name := range []string{spoolName, recordName + ".new"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}
