// Package dockerfile reads a Dockerfile once, checks it and rewrites it, so that the Engine gets a checked copy. It knows nothing of the Engine or of jobs: what names mean is asked of its caller.
package dockerfile
