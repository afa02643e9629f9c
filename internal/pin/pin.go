// Package pin holds a folder or a file below a root against symlink swaps: it is opened without leaving the root and mounted at a place that only the caller can write to.
package pin
