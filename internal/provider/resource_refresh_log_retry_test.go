package provider

import (
	"context"
	"fmt"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// The log is removed and installed all the time, as it is once where its schema is
// replaced in the apply that also changes views, while these are created, changed,
// replaced, renamed and dropped.
func TestWritesWhileTheLogIsReplaced(t *testing.T) {
	db := viewDatabase(t)
	role, url := retryLogin(t, db)
	db.Exec(t, "ALTER ROLE "+role+" SET deadlock_timeout = '20ms'")
	s := configured(t, url)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	replaced := 0
	go func() {
		for ctx.Err() == nil {
			log, err := planChange(t, s, "matview_refresh_log", applied{}, map[string]any{"deletion_protection": false})()
			if err == nil {
				_, err = planChange(t, s, "matview_refresh_log", log, nil)()
			}
			if err != nil {
				ended <- err
				return
			}
			replaced++
		}
		ended <- nil
	}()
	config := func(n int, fillfactor int) map[string]any {
		return map[string]any{
			"name": fmt.Sprintf("job_progress_%d", n/3), "definition": fmt.Sprintf("SELECT id, %d AS n FROM jobs", n/2),
			"storage_parameters": map[string]tftypes.Value{"fillfactor": tftypes.NewValue(tftypes.String, fmt.Sprint(fillfactor))},
		}
	}
	var err error
	for round := 0; round < 8 && err == nil; round++ {
		var view applied
		for n := 0; n < 6 && err == nil; n++ {
			view, err = planChange(t, s, "matview_view", view, config(n, 50+n))()
		}
		if err == nil {
			_, err = planChange(t, s, "matview_view", view, nil)()
		}
	}
	stop()
	if logErr := <-ended; logErr != nil {
		t.Errorf("the log: %v", logErr)
	}
	if err != nil {
		t.Errorf("a view: %v", err)
	}
	if replaced == 0 {
		t.Error("the log was not replaced once")
	}
	t.Logf("the log was replaced %d times", replaced)
}
