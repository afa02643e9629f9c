package session

import (
	"hash/crc32"
	"os"

	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/slipway-ci/slipway/internal/layercache"
)

// passingFiles takes in what a client sends of a folder while it passes. Names come first, and number the files; of files that
// it has already the Engine does not ask for the contents.
type passingFiles struct {
	files *layercache.Collector // nil = nothing is taken in
	stats []*fstypes.Stat
	sums  map[uint32]uint32 // of the files that are on their way
}

// castagnoli makes the sums that layercache keeps of files.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxPassing bounds the files whose contents are waited for.
const maxPassing = 50_000

func (f *passingFiles) take(p *fstypes.Packet) {
	if f.files == nil {
		return
	}
	switch p.Type {
	case fstypes.PACKET_STAT:
		if p.Stat == nil {
			return
		}
		if len(f.stats) >= maxPassing { // only a client that tells of a file twice comes here
			*f = passingFiles{}
			return
		}
		f.stats = append(f.stats, &fstypes.Stat{Path: p.Stat.Path, Mode: p.Stat.Mode, Size: p.Stat.Size, ModTime: p.Stat.ModTime, Linkname: p.Stat.Linkname})
		f.add(p.Stat, 0, false)
	case fstypes.PACKET_DATA:
		if int(p.ID) >= len(f.stats) {
			return
		}
		if len(p.Data) > 0 {
			if f.sums == nil {
				f.sums = map[uint32]uint32{}
			}
			f.sums[p.ID] = crc32.Update(f.sums[p.ID], castagnoli, p.Data)
			return
		}
		sum := f.sums[p.ID]
		delete(f.sums, p.ID)
		f.add(f.stats[p.ID], sum, true)
	}
}

func (f *passingFiles) add(s *fstypes.Stat, sum uint32, summed bool) {
	file := layercache.File{Mode: s.Mode, Size: s.Size, Time: s.ModTime, Link: s.Linkname, Sum: sum, Summed: summed}
	if !os.FileMode(s.Mode).IsRegular() || s.Size == 0 { // it has no contents
		file.Size, file.Summed = 0, true
	}
	if !f.files.Add(s.Path, file) {
		*f = passingFiles{} // nothing will be told of them
	}
}
