// Command streams opens one URL of CRI's Exec, Attach or PortForward as Kubernetes' own clients do, with client-go's
// executors, or frame by frame with the SPDY library below them. Its streams and its exit code are the session's.
//
//	streams command spdy|websocket URL [-i] [-t] [-sizes 80x24,100x30]
//	streams forward spdy|websocket URL PORT     prints the local port; forwards until its input ends
//	streams frames URL                          pings, half-closes and refusals in the exec of a cat
//
// -ca FILE before all of them names the authority that signed the server's certificate.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/httpstream"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func main() {
	// Standard error is the session's. client-go writes there, too, where input was still on its way at the end of a
	// command that did not want it.
	utilruntime.ErrorHandlers = nil
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "streams:", err)
	}
	os.Exit(code)
}

// config says whom to trust.
var config = &rest.Config{}

func run(args []string) (int, error) {
	if len(args) >= 2 && args[0] == "-ca" {
		config.CAFile, args = args[1], args[2:]
	}
	if len(args) >= 3 && args[0] == "command" {
		return command(args[1], args[2], args[3:])
	}
	if len(args) == 4 && args[0] == "forward" {
		return failed(forward(args[1], args[2], args[3]))
	}
	if len(args) == 2 && args[0] == "frames" {
		return failed(frames(args[1]))
	}
	return 64, errors.New("unknown arguments")
}

func failed(err error) (int, error) {
	if err != nil {
		return 255, err
	}
	return 0, nil
}

// sizes is a terminal whose size changes as told.
type sizes []remotecommand.TerminalSize

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(*s) == 0 {
		return nil
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return &next
}

func command(transport, address string, flags []string) (int, error) {
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Stderr: os.Stderr}
	for i := 0; i < len(flags); i++ {
		switch flags[i] {
		case "-i":
			options.Stdin = os.Stdin
		case "-t":
			options.Tty, options.Stderr = true, nil
		case "-sizes":
			i++
			var queue sizes
			for _, text := range strings.Split(flags[i], ",") {
				var size remotecommand.TerminalSize
				if _, err := fmt.Sscanf(text, "%dx%d", &size.Width, &size.Height); err != nil {
					return 64, err
				}
				queue = append(queue, size)
			}
			options.TerminalSizeQueue = &queue
		}
	}
	target, err := url.Parse(address)
	if err != nil {
		return 64, err
	}
	var executor remotecommand.Executor
	if transport == "spdy" {
		executor, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	} else {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, address)
	}
	if err != nil {
		return 255, err
	}
	err = executor.StreamWithContext(context.Background(), options)
	var exit exec.CodeExitError
	if errors.As(err, &exit) {
		return exit.Code, nil
	}
	return failed(err)
}

func dialer(transport string, target *url.URL) (httpstream.Dialer, error) {
	if transport == "websocket" {
		return portforward.NewSPDYOverWebsocketDialer(target, config)
	}
	round, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: round}, http.MethodPost, target), nil
}

func forward(transport, address, port string) error {
	target, err := url.Parse(address)
	if err != nil {
		return err
	}
	dial, err := dialer(transport, target)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dial, []string{"0:" + port}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	go func() {
		<-ready
		ports, err := forwarder.GetPorts()
		if err != nil {
			fmt.Fprintln(os.Stderr, "streams:", err)
			return
		}
		fmt.Println(ports[0].Local)
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	return forwarder.ForwardPorts()
}
