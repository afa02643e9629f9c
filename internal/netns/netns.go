// Package netns listens and dials in the network namespace of a process.
package netns
