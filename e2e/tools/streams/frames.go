package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/moby/spdystream"
	"k8s.io/client-go/rest"
)

// A header block longer than a frame's piece, and a name in capitals.
var longHeader = string(bytes.Repeat([]byte("x"), 20000))

// frames talks to the exec of a `cat` with the SPDY library alone, and does what client-go never does.
func frames(address string) error {
	target, err := url.Parse(address)
	if err != nil {
		return err
	}
	socket, err := dial(target)
	if err != nil {
		return err
	}
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"+
		"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", target.RequestURI())
	if _, err := io.WriteString(socket, request); err != nil {
		return err
	}
	reader := bufio.NewReaderSize(socket, 1)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("not switched: %s", response.Status)
	}
	connection, err := spdystream.NewConnection(buffered{socket, reader}, false)
	if err != nil {
		return err
	}
	go connection.Serve(spdystream.NoOpStreamHandler)
	defer connection.Close()
	if _, err := connection.Ping(); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	open := func(kind string, more http.Header) (*spdystream.Stream, error) {
		headers := http.Header{"Streamtype": {kind}}
		for name, values := range more {
			headers[name] = values
		}
		stream, err := connection.CreateStream(headers, nil, false)
		if err != nil {
			return nil, err
		}
		return stream, stream.Wait()
	}
	failure, err := open("error", nil)
	if err != nil {
		return fmt.Errorf("error stream: %w", err)
	}
	if err := failure.Close(); err != nil { // it is only read
		return err
	}
	stdin, err := open("stdin", http.Header{"X-Long": {longHeader}})
	if err != nil {
		return fmt.Errorf("stdin stream: %w", err)
	}
	if _, err := open("nonsense", nil); err == nil {
		return fmt.Errorf("a stream of no known kind was accepted")
	}
	stdout, err := open("stdout", nil)
	if err != nil {
		return fmt.Errorf("stdout stream: %w", err)
	}
	if _, err := open("stderr", nil); err != nil {
		return fmt.Errorf("stderr stream: %w", err)
	}
	// Written in one go: the library cuts it into frames; then our half ends.
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
	go func() {
		stdin.Write(content)
		stdin.Close()
	}()
	if _, err := connection.Ping(); err != nil {
		return fmt.Errorf("ping during the session: %w", err)
	}
	back, err := io.ReadAll(stdout)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, content) {
		return fmt.Errorf("%d bytes came back of %d", len(back), len(content))
	}
	status, err := io.ReadAll(failure)
	if err != nil {
		return err
	}
	if !bytes.Contains(status, []byte(`"Success"`)) {
		return fmt.Errorf("status %q", status)
	}
	return nil
}

func dial(target *url.URL) (net.Conn, error) {
	if target.Scheme != "https" {
		return net.Dial("tcp", target.Host)
	}
	trust, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	return tls.Dial("tcp", target.Host, trust)
}

// buffered is a connection of which a response was read.
type buffered struct {
	net.Conn
	reader *bufio.Reader
}

func (b buffered) Read(into []byte) (int, error) { return b.reader.Read(into) }
