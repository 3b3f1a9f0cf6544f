// Package cloudwatchtest stands in for Amazon CloudWatch: it speaks the protocol
// of the AWS SDK (Smithy RPC v2 CBOR), takes PutMetricData within the documented
// limits, refuses what CloudWatch refuses, and can throttle, fail and hang.
package cloudwatchtest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
)

// path is where the SDK sends PutMetricData.
const path = "/service/GraniteServiceVersion20100801/operation/PutMetricData"

// Datum is one that was taken.
type Datum struct {
	Namespace  string
	Metric     string
	Unit       string
	At         time.Time
	Dimensions map[string]string
	Values     []float64
	Counts     []float64 // of the values; 1 each where the call had a single Value
}

// Mood is how the service answers.
type Mood int

// Moods.
const (
	Taking Mood = iota
	Throttling
	Failing
	Hanging // until the client goes away
)

// Service is an [http.Handler]; its zero value takes what comes.
type Service struct {
	// Now is the service's clock; nil is time.Now.
	Now func() time.Time

	mu    sync.Mutex
	mood  Mood
	taken []Datum
	calls []Call
}

// Call is one request, taken or not.
type Call struct {
	Datums     int
	Bytes      int // as sent
	Compressed bool
	Refused    string // the code of the error; "" if it was taken
}

// Set changes the mood.
func (s *Service) Set(m Mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mood = m
}

// Taken are all data so far, in order.
func (s *Service) Taken() []Datum {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Datum(nil), s.taken...)
}

// Calls are all requests so far, in order.
func (s *Service) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Reset forgets what was taken and called.
func (s *Service) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.calls = nil, nil
}

// problem is an error as the service answers it.
type problem struct {
	status        int
	code, message string
}

func (p *problem) Error() string { return p.code + ": " + p.message }

func invalid(format string, args ...any) error {
	return &problem{http.StatusBadRequest, "InvalidParameterValueException", fmt.Sprintf(format, args...)}
}

// ServeHTTP implements [http.Handler].
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	mood := s.mood
	s.mu.Unlock()
	if mood == Hanging {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		return
	}
	call := Call{Compressed: r.Header.Get("Content-Encoding") == "gzip"}
	data, err := s.answer(mood, r, &call)
	w.Header().Set("smithy-protocol", "rpc-v2-cbor")
	w.Header().Set("Content-Type", "application/cbor")
	var p *problem
	if errors.As(err, &p) {
		call.Refused = p.code
		w.WriteHeader(p.status)
		_, _ = w.Write(cbor.Encode(cbor.Map{"__type": cbor.String("com.amazonaws.cloudwatch#" + p.code), "message": cbor.String(p.message)}))
	} else {
		_, _ = w.Write(cbor.Encode(cbor.Map{}))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	s.taken = append(s.taken, data...)
}

// maxRequest is 1 MB, as sent; maxPlain is our own bound on what it inflates to.
const (
	maxRequest = 1 << 20
	maxPlain   = 1 << 20
)

func (s *Service) answer(mood Mood, r *http.Request, call *Call) ([]Datum, error) {
	switch {
	case r.Method != http.MethodPost || r.URL.Path != path:
		return nil, &problem{http.StatusNotFound, "UnknownOperationException", r.Method + " " + r.URL.Path}
	case r.Header.Get("smithy-protocol") != "rpc-v2-cbor" || r.Header.Get("Content-Type") != "application/cbor":
		return nil, &problem{http.StatusBadRequest, "SerializationException", "not rpc-v2-cbor"}
	case r.Header.Get("Authorization") == "":
		return nil, &problem{http.StatusForbidden, "MissingAuthenticationToken", "the request is not signed"}
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, &problem{http.StatusBadRequest, "SerializationException", err.Error()}
	}
	call.Bytes = len(body)
	if len(body) > maxRequest {
		return nil, &problem{http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "more than 1 MB"}
	}
	switch mood {
	case Throttling:
		return nil, &problem{http.StatusBadRequest, "ThrottlingException", "Rate exceeded"}
	case Failing:
		return nil, &problem{http.StatusServiceUnavailable, "InternalServiceFault", "the stand-in fails"}
	}
	if call.Compressed {
		if body, err = inflate(body); err != nil {
			return nil, err
		}
	}
	value, err := cbor.Decode(body)
	if err != nil {
		return nil, &problem{http.StatusBadRequest, "SerializationException", err.Error()}
	}
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return read(value, now(), call)
}

func inflate(body []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, &problem{http.StatusBadRequest, "SerializationException", err.Error()}
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxPlain+1))
	if err != nil {
		return nil, &problem{http.StatusBadRequest, "SerializationException", err.Error()}
	}
	if len(plain) > maxPlain {
		return nil, &problem{http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "more than 1 MB when inflated"}
	}
	return plain, nil
}
