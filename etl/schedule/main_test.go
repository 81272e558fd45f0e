package schedule_test

import (
	"testing"

	"meterhouse/etl/warehouse/warehousetest"
)

func TestMain(m *testing.M) { warehousetest.Main(m) }
