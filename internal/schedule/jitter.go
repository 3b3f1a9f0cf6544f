package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"time"
)

// jitterOffset is in [0, jitter), the same for a view on every machine and in
// every release, and spread evenly over views with similar names.
//
// It is a whole number of microseconds, the resolution of timestamptz: a run's
// time comes back from the table unchanged, else it would be found due again.
func jitterOffset(viewName string, jitter time.Duration) time.Duration {
	sum := sha256.Sum256([]byte(viewName))
	offset, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:]), uint64(jitter.Microseconds()))
	return time.Duration(offset) * time.Microsecond
}
