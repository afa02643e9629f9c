package demo

import (
	"debug/elf"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// libraries lists what a program needs beside itself to start: its loader and the shared libraries that this finds.
// A static program needs nothing.
func libraries(program string) ([]string, error) {
	loader, err := loaderOf(program)
	if err != nil || loader == "" {
		return nil, err
	}
	// The loader itself says what it would load, which follows every rule of this machine: cache, RPATH, hwcaps.
	listing, err := exec.Command(loader, "--list", program).Output()
	if err != nil {
		return nil, fmt.Errorf("list the libraries of %s: %w", program, err)
	}
	libs := []string{loader}
	for line := range strings.Lines(string(listing)) {
		lib, err := parseListed(line)
		if err != nil {
			return nil, fmt.Errorf("list the libraries of %s: %w", program, err)
		}
		if lib != "" && lib != loader {
			libs = append(libs, lib)
		}
	}
	return libs, nil
}

// loaderOf reads the program interpreter out of the ELF headers, "" for a static program.
func loaderOf(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("%s is not a program that an image can carry: %w", program, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		text, err := io.ReadAll(p.Open())
		if err != nil {
			return "", fmt.Errorf("read the loader's name in %s: %w", program, err)
		}
		return strings.TrimRight(string(text), "\x00"), nil
	}
	return "", nil
}

// parseListed reads a line of the loader's listing: "libc.so.6 => /lib/libc.so.6 (0x7f…)", "/lib64/ld.so (0x7f…)",
// or what the kernel provides and no file holds ("linux-vdso.so.1 (0x7f…)").
func parseListed(line string) (string, error) {
	line = strings.TrimSpace(line)
	if name, missing := strings.CutSuffix(line, "=> not found"); missing {
		return "", fmt.Errorf("library %s is not on this machine", strings.TrimSpace(name))
	}
	if _, after, ok := strings.Cut(line, "=> "); ok {
		line = after
	}
	file, _, _ := strings.Cut(line, " (0x")
	if !strings.HasPrefix(file, "/") {
		return "", nil
	}
	return file, nil
}
