package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// listener is an address that a process serves HTTP at.
type listener struct {
	name      string // for the log
	address   string
	cert, key string // files, for TLS; "": without
	handler   http.Handler
	grace     time.Duration // for answers that are under way at the end

	// readTimeout bounds the reading of a whole request. 0: the handlers bound
	// it, where they read.
	readTimeout time.Duration
	// allOptions says that OPTIONS * is for the handler, too, and not for the library.
	allOptions bool
}

// served is a listener that is open.
type served struct {
	l      listener
	log    *slog.Logger
	open   net.Listener
	server *http.Server
	accept func() error
}

// listen opens a listener. It must be closed, whether it has been run or not.
func listen(log *slog.Logger, l listener) (*served, error) {
	open, err := net.Listen("tcp", l.address)
	if err != nil {
		return nil, fmt.Errorf("%s listener: %w", l.name, err)
	}
	s := &served{l: l, log: log, open: open, server: &http.Server{
		Handler:           l.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       l.readTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),

		DisableGeneralOptionsHandler: l.allOptions,
	}}
	s.accept = func() error { return s.server.Serve(open) }
	if l.cert != "" {
		pair, err := tls.LoadX509KeyPair(l.cert, l.key)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("TLS_CERT and TLS_KEY: %w", err), open.Close())
		}
		s.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		s.accept = func() error { return s.server.ServeTLS(open, "", "") }
	}
	log.Info(l.name+" listens", "address", open.Addr().String(), "tls", l.cert != "")
	return s, nil
}

func (s *served) close() error {
	_ = s.open.Close() // the server knows of it only when it has run, and closed it then
	return s.server.Close()
}

// run serves until ctx ends, and then what has been asked already.
func (s *served) run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.accept() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.l.grace)
	defer cancel()
	if err := s.server.Shutdown(grace); err != nil {
		s.log.Warn("requests were cut off by the shutdown", "listener", s.l.name, "err", err)
		_ = s.server.Close() // its error is of closing what is gone
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
