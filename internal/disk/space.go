package disk

import (
	"fmt"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// leastInodes is the part of a disk's inodes that stays free, one in so many: without them it is full, whatever room it has.
const leastInodes = 20

// Space is a disk at one moment.
type Space struct {
	Device             uint64 // tells disks apart
	Free, Size         uint64 // bytes; Free is what is left for a user who is not root
	FreeInodes, Inodes uint64 // Inodes is 0 where the file system makes them as it needs them
}

// Look looks at the disk that a folder is on.
func Look(dir string) (Space, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return Space{}, fmt.Errorf("look at %s: %w", dir, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return Space{}, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	return Space{
		Device: st.Dev, Free: fs.Bavail * uint64(fs.Bsize), Size: fs.Blocks * uint64(fs.Bsize),
		FreeInodes: fs.Ffree, Inodes: fs.Files,
	}, nil
}

// lacks says how many bytes are to be removed so that a disk has what shall stay free; 0 = it has.
func (s Space) lacks(minFree uint64) int64 {
	lack := s.lacksRoom(minFree)
	if want := s.Inodes / leastInodes; s.FreeInodes < want {
		// Nobody can tell how many inodes something has: so the files of the disk are taken to be of one size.
		perInode := (s.Size - min(s.Free, s.Size)) / (s.Inodes - s.FreeInodes)
		lack = max(lack, int64((want-s.FreeInodes)*max(perInode, 1)))
	}
	return lack
}

// lacksRoom is lacks, but for inodes.
func (s Space) lacksRoom(minFree uint64) int64 { return int64(max(minFree, s.Free) - s.Free) }

// describe says what a disk lacks.
func (s Space) describe(minFree uint64) string {
	if s.Free < minFree {
		return fmt.Sprintf("%s are free, and %s shall stay free (min_free)", size(int64(s.Free)), size(int64(minFree)))
	}
	return fmt.Sprintf("%d of %d inodes are free, and %d shall stay free", s.FreeInodes, s.Inodes, s.Inodes/leastInodes)
}

func size(n int64) string { return units.BytesSize(float64(n)) }
