// Package cloudwatchtest is a fake Amazon CloudWatch. It speaks the protocol of the AWS
// SDK (Smithy RPC v2 CBOR), accepts PutMetricData within the documented limits,
// rejects what CloudWatch rejects, and can throttle, fail and hang.
package cloudwatchtest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
)

// path is the path of PutMetricData in the SDK's requests.
const path = "/service/GraniteServiceVersion20100801/operation/PutMetricData"

// Datum is an accepted datum.
type Datum struct {
	Namespace  string
	Metric     string
	Unit       string
	At         time.Time
	Dimensions map[string]string
	Values     []float64
	Counts     []float64 // of the values; 1 if the datum had a single Value
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

// Service is an [http.Handler]. Its zero value accepts data.
type Service struct {
	// Now is the service's clock; nil means time.Now.
	Now func() time.Time

	mu    sync.Mutex
	mood  Mood
	taken []Datum
	calls []Call
}

// Call is a request, accepted or not.
type Call struct {
	Datums     int
	Bytes      int // as sent
	Compressed bool
	Refused    string // the code of the error; "" if the request was accepted
}

// Set changes the mood.
func (s *Service) Set(m Mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mood = m
}

// Taken returns all accepted data so far, in order.
func (s *Service) Taken() []Datum {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

// Calls returns all requests so far, in order.
func (s *Service) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Reset discards all data and calls.
func (s *Service) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.calls = nil, nil
}

// failure is an error in the service's answer.
type failure struct {
	status        int
	code, message string
}

func (f *failure) Error() string { return f.code + ": " + f.message }

func invalid(format string, args ...any) error {
	return &failure{http.StatusBadRequest, "InvalidParameterValueException", fmt.Sprintf(format, args...)}
}

func malformed(err error) error {
	return &failure{http.StatusBadRequest, "SerializationException", err.Error()}
}

func tooLarge(message string) error {
	return &failure{http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", message}
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
	answer := cbor.Map{}
	var f *failure
	if errors.As(err, &f) {
		call.Refused = f.code
		w.WriteHeader(f.status)
		answer = cbor.Map{"__type": cbor.String("com.amazonaws.cloudwatch#" + f.code), "message": cbor.String(f.message)}
	}
	_, _ = w.Write(cbor.Encode(answer))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	s.taken = append(s.taken, data...)
}

// maxSize limits a request, as sent and as decompressed.
const maxSize = 1 << 20

func (s *Service) answer(mood Mood, r *http.Request, call *Call) ([]Datum, error) {
	switch {
	case r.Method != http.MethodPost || r.URL.Path != path:
		return nil, &failure{http.StatusNotFound, "UnknownOperationException", r.Method + " " + r.URL.Path}
	case r.Header.Get("smithy-protocol") != "rpc-v2-cbor" || r.Header.Get("Content-Type") != "application/cbor":
		return nil, malformed(errors.New("not rpc-v2-cbor"))
	case r.Header.Get("Authorization") == "":
		return nil, &failure{http.StatusForbidden, "MissingAuthenticationToken", "the request is not signed"}
	}
	body, err := io.ReadAll(r.Body)
	call.Bytes = len(body)
	switch {
	case err != nil:
		return nil, malformed(err)
	case len(body) > maxSize:
		return nil, tooLarge("more than 1 MB")
	case mood == Throttling:
		return nil, &failure{http.StatusBadRequest, "ThrottlingException", "Rate exceeded"}
	case mood == Failing:
		return nil, &failure{http.StatusServiceUnavailable, "InternalServiceFault", "the fake service fails"}
	}
	if call.Compressed {
		if body, err = decompress(body); err != nil {
			return nil, err
		}
	}
	value, err := cbor.Decode(body)
	if err != nil {
		return nil, malformed(err)
	}
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	return read(value, now, call)
}

func decompress(body []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, malformed(err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxSize+1))
	if err != nil {
		return nil, malformed(err)
	}
	if len(plain) > maxSize {
		return nil, tooLarge("more than 1 MB after decompression")
	}
	return plain, nil
}
