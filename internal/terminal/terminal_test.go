package terminal

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func newServer(t *testing.T, timeout time.Duration) *Server {
	t.Helper()
	s, err := Listen(Options{Listen: "127.0.0.1:0", Timeout: timeout, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// dial connects as GitLab does.
func dial(t *testing.T, url, certificate, authorization string, protocols ...string) (*websocket.Conn, int) {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(certificate)) {
		t.Fatal("no certificate")
	}
	conn, resp, err := websocket.Dial(t.Context(), strings.Replace(url, "https", "wss", 1)+"/exec", &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
		HTTPHeader:   http.Header{"Authorization": {authorization}},
		Subprotocols: protocols,
	})
	if err != nil {
		if resp == nil {
			t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	return conn, resp.StatusCode
}

// echo is a shell that says everything twice, until "exit".
func echo(_ context.Context, in io.Reader, out io.Writer) error {
	for s := bufio.NewScanner(in); s.Scan(); {
		if s.Text() == "exit" {
			return nil
		}
		if _, err := io.WriteString(out, s.Text()+s.Text()+"\n"); err != nil {
			return err
		}
	}
	return errors.New("nobody there")
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	s := newServer(t, time.Minute)
	d := s.Open()
	go func() {
		time.Sleep(50 * time.Millisecond)
		d.Attach(echo)
	}()
	if _, status := dial(t, d.URL+"x", d.Certificate, d.Authorization, protocol); status != http.StatusNotFound {
		t.Errorf("another job's: %d", status)
	}
	for _, wrong := range []string{"", "x", d.Authorization + "x"} {
		if _, status := dial(t, d.URL, d.Certificate, wrong, protocol); status != http.StatusUnauthorized {
			t.Errorf("authorization %q: %d", wrong, status)
		}
	}
	conn, _ := dial(t, d.URL, d.Certificate, d.Authorization, protocol) // before there is a shell
	if conn == nil {
		t.Fatal("not let in")
	}
	if err := conn.Write(t.Context(), websocket.MessageBinary, []byte("ab\n")); err != nil {
		t.Fatal(err)
	}
	if kind, text, err := conn.Read(t.Context()); kind != websocket.MessageBinary || string(text) != "abab\n" || err != nil {
		t.Errorf("%v %q %v", kind, text, err)
	}
	if _, status := dial(t, d.URL, d.Certificate, d.Authorization, protocol); status != http.StatusLocked {
		t.Errorf("a second one: %d", status)
	}
	held, told := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		defer close(held)
		d.Hold(t.Context(), func(timeout time.Duration) { told <- timeout })
	}()
	select {
	case timeout := <-told:
		if timeout != time.Minute {
			t.Errorf("told %s", timeout)
		}
	case <-held:
		t.Error("the job did not wait, nor was told")
	}
	select {
	case <-held:
		t.Error("the job did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	if err := conn.Write(t.Context(), websocket.MessageBinary, []byte("exit\n")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("after exit: %v", err)
	}
	<-held
	d.Hold(t.Context(), func(time.Duration) { t.Error("nobody is inside") })

	// One who just goes away leaves the place free.
	conn, _ = dial(t, d.URL, d.Certificate, d.Authorization, protocol)
	_ = conn.CloseNow()
	for late := time.After(2 * time.Minute); ; {
		if conn, _ = dial(t, d.URL, d.Certificate, d.Authorization, protocol); conn != nil {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-late:
			t.Fatal("the place is not free")
		}
	}
	// The job's end ends it.
	d.Close()
	if _, _, err := conn.Read(t.Context()); err == nil {
		t.Error("the terminal goes on")
	}
	if _, status := dial(t, d.URL, d.Certificate, d.Authorization, protocol); status != http.StatusNotFound {
		t.Errorf("after the job: %d", status)
	}
}

// TestHoldEnds: who stays too long does not keep a job for ever; and who speaks something else is not let in.
func TestHoldEnds(t *testing.T) {
	t.Parallel()
	s := newServer(t, 50*time.Millisecond)
	d := s.Open()
	d.Attach(echo)
	other, _ := dial(t, d.URL, d.Certificate, d.Authorization, "base64.terminal.gitlab.com")
	if _, _, err := other.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("another protocol: %v", err)
	}
	for {
		conn, _ := dial(t, d.URL, d.Certificate, d.Authorization, protocol)
		if conn != nil {
			defer conn.CloseNow() //nolint:errcheck // the server is gone by then
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	d.Hold(t.Context(), func(time.Duration) {})
	d.Close()
}

// TestCertificateOfAnyClock: it holds even if the clock is set back or forth while Slipway runs.
func TestCertificateOfAnyClock(t *testing.T) {
	t.Parallel()
	_, text, err := selfSigned("slipway.test")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	for _, years := range []int{-20, 0, 9} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: "slipway.test", CurrentTime: time.Now().AddDate(years, 0, 0)}); err != nil {
			t.Errorf("in %d years: %v", years, err)
		}
	}
}
