package publish_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/freshness"
)

// gateway records the paths of its requests. The end-to-end tests use a real one.
func gateway(t *testing.T, answer func(r *http.Request) int) (url string, paths func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
		w.WriteHeader(answer(r))
	}))
	t.Cleanup(server.Close)
	return server.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

// push pushes the views at the end of a run.
func push(t *testing.T, url string, views ...string) error {
	t.Helper()
	p, err := publish.NewPushgateway(url, "job")
	if err != nil {
		t.Fatal(err)
	}
	u := publish.Update{At: time.Now(), Final: true}
	for _, view := range views {
		u.Views = append(u.Views, freshness.View{Name: view})
	}
	_, err = p.Send(t.Context(), p.Points(u))
	return err
}

func TestPushWithPassword(t *testing.T) {
	url, _ := gateway(t, func(r *http.Request) int {
		if user, password, _ := r.BasicAuth(); user == "user" && password == "s%cret" {
			return http.StatusOK
		}
		return http.StatusUnauthorized
	})
	if err := push(t, strings.Replace(url, "://", "://user:s%25cret@", 1), "a", "b", "c"); err != nil {
		t.Error(err)
	}
	err := push(t, strings.Replace(url, "://", "://user:wr0ng@", 1), "a", "b", "c")
	if err == nil || !strings.Contains(err.Error(), "3 of 3 views are not pushed: unexpected status code 401") || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// TestPushRefused: a view that the gateway refuses is the only one that is missing.
func TestPushRefused(t *testing.T) {
	url, paths := gateway(t, func(r *http.Request) int {
		if strings.HasSuffix(r.URL.Path, "/b") {
			return http.StatusBadRequest
		}
		return http.StatusOK
	})
	err := push(t, url, "a", "b", "c")
	if err == nil || !strings.Contains(err.Error(), "1 of 3 views are not pushed: unexpected status code 400") {
		t.Error(err)
	}
	if got := strings.Join(paths(), " "); got != "/metrics/job/job/view/a /metrics/job/job/view/b /metrics/job/job/view/c /metrics/job/job" {
		t.Error(got)
	}
}

// TestPushToNobody: a gateway that does not answer gives one error, not one a view.
func TestPushToNobody(t *testing.T) {
	err := push(t, "user:s3cret@127.0.0.1:1", "a", "b", "c")
	if err == nil || !strings.Contains(err.Error(), "3 of 3 views are not pushed") || strings.Contains(err.Error(), "s3cret") || strings.Count(err.Error(), "refused") != 1 {
		t.Error(err)
	}
}

func TestPushToNoURL(t *testing.T) {
	for _, url := range []string{"ftp://host", "http://", "http://user:s3cret%@host", "http://user:s3cret#@host:9091", "http://user:s3cret/@host"} {
		if _, err := publish.NewPushgateway(url, "job"); err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "--push.gateway-url") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := publish.NewPushgateway("http://host", ""); err == nil || !strings.Contains(err.Error(), "--push.job") {
		t.Error(err)
	}
}
