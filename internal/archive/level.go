package archive

import (
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Level is how hard an archive's content is compressed: fastest, fast, default, slow or slowest; all else is default.
//
// GitLab: ARTIFACT_COMPRESSION_LEVEL and CACHE_COMPRESSION_LEVEL.
type Level string

func (l Level) flate() int {
	switch l {
	case "fastest":
		return flate.BestSpeed
	case "fast":
		return 3
	case "slow":
		return 7
	case "slowest":
		return flate.BestCompression
	}
	return flate.DefaultCompression
}

func (l Level) zstd() zstd.EncoderLevel {
	switch l {
	case "slow":
		return zstd.SpeedBetterCompression
	case "slowest":
		return zstd.SpeedBestCompression
	}
	return zstd.SpeedFastest
}
