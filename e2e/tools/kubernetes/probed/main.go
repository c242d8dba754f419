// A server to be probed and forwarded to: HTTP on port 8080, gRPC's health service on port 9090, and on port 7070 one that
// only accepts. It is healthy until a file /tmp/unhealthy is there: while it is, HTTP and gRPC say so and port 7070 is closed.
package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc"
	health "google.golang.org/grpc/health/grpc_health_v1"
)

type server struct {
	health.UnimplementedHealthServer
}

func healthy() bool {
	_, err := os.Stat("/tmp/unhealthy")
	return os.IsNotExist(err)
}

func (server) Check(context.Context, *health.HealthCheckRequest) (*health.HealthCheckResponse, error) {
	if healthy() {
		return &health.HealthCheckResponse{Status: health.HealthCheckResponse_SERVING}, nil
	}
	return &health.HealthCheckResponse{Status: health.HealthCheckResponse_NOT_SERVING}, nil
}

// acceptWhileHealthy keeps port 7070 open when healthy and closed when not.
func acceptWhileHealthy() {
	var listener net.Listener
	for ; ; time.Sleep(50 * time.Millisecond) {
		switch {
		case healthy() && listener == nil:
			opened, err := net.Listen("tcp", ":7070")
			if err != nil {
				log.Fatal(err)
			}
			listener = opened
			go func() {
				for {
					connection, err := opened.Accept()
					if err != nil {
						return
					}
					connection.Close()
				}
			}()
		case !healthy() && listener != nil:
			listener.Close()
			listener = nil
		}
	}
}

func main() {
	go acceptWhileHealthy()
	listener, err := net.Listen("tcp", ":9090")
	if err != nil {
		log.Fatal(err)
	}
	grpcServer := grpc.NewServer()
	health.RegisterHealthServer(grpcServer, server{})
	go func() { log.Fatal(grpcServer.Serve(listener)) }()
	log.Fatal(http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !healthy() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("probed\n"))
	})))
}
