package matview

import (
	"testing"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// A view without properties leaves nothing to execute, even if the session has ended.
func TestExecuteNothingOnBrokenConnection(t *testing.T) {
	conn := postgrestest.New(t).Connect(t)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if i, err := executeAll(t.Context(), tx, nil); i != 0 || err != nil {
		t.Errorf("with nothing to do: %d, %v", i, err)
	}
	if i, err := executeAll(t.Context(), tx, []string{"SELECT 1"}); i != 0 || err == nil {
		t.Errorf("on a closed connection: %d, %v", i, err)
	}
}
