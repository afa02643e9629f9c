// Package ledger is the record, on disk, of whose the images of an Engine are.
package ledger

// Ledger is an open record.
type Ledger struct{}
