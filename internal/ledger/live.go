package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Lease says that a job's process lives, for as long as it is not ended: the kernel ends it with the process.
type Lease struct{ file *os.File }

// Live takes the lease of a job, before it borrows names. Jobs are named by lower-case letters and digits.
func (l *Ledger) Live(job string) (*Lease, error) {
	f, err := os.OpenFile(l.leaseFile(job), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("take a lease of the ledger: %w", err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("take a lease of the ledger: %w", err)
	}
	return &Lease{f}, nil
}

// End ends the lease. What the job borrowed and did not give back is removed by the next one that looks.
func (l *Lease) End() error { return errors.Join(os.Remove(l.file.Name()), l.file.Close()) }

func (l *Ledger) leaseFile(job string) string { return filepath.Join(l.dir, "locks", "job-"+job) }

// lives reports whether somebody has the lease of a job.
func (l *Ledger) lives(job string) bool {
	f, err := os.OpenFile(l.leaseFile(job), os.O_RDWR, 0)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) // what cannot be read may live
	}
	defer f.Close()
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return true
	}
	_ = os.Remove(f.Name()) // it is only in the way
	return false
}

// borrower is the job that a temporary name is for.
func borrower(name string) string {
	repo := repository(name)
	return repo[strings.LastIndex(repo, "/")+1:]
}

// takeBack removes the temporary names of jobs that are gone.
func (l *Ledger) takeBack(ctx context.Context, engine Engine) error {
	entries, err := l.Entries()
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if e.Shared { // it ends here as for one who used it, if nobody does
			f, err := l.shareFile(e.Name)
			if err == nil {
				err = (&Shared{l, e.Name, f}).Release(ctx, engine)
			}
			if err != nil {
				return err
			}
			continue
		}
		if !e.Temporary || l.lives(borrower(e.Name)) {
			continue
		}
		if err := engine.Untag(ctx, e.Name); err != nil {
			return err
		}
		names = append(names, e.Name)
	}
	if len(names) == 0 {
		return nil
	}
	return l.Forget(names...)
}
