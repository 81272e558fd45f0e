package warehousetest

import (
	"fmt"
	"os"
	"testing"
)

// Lacking ends a test for want of a program that not every machine has, such as PSQL: it is skipped, which stderr tells
// too, or fails where METERHOUSE_TEST_REQUIRE_ with the name is set, whatever its value.
func Lacking(t testing.TB, name, reason string) {
	t.Helper()
	if variable := "METERHOUSE_TEST_REQUIRE_" + name; os.Getenv(variable) != "" {
		t.Fatalf("%s, and %s is set", reason, variable)
	}
	fmt.Fprintf(os.Stderr, "\nSKIPPED %s: %s\n\n", t.Name(), reason)
	t.Skip(reason)
}
