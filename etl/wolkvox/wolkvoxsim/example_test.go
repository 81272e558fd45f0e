package wolkvoxsim_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"meterhouse/etl/wolkvox/wolkvoxsim"
)

func Example() {
	at := time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)
	sim := wolkvoxsim.New(wolkvoxsim.Config{Seed: 1, Now: func() time.Time { return at }})
	server := httptest.NewServer(sim)
	defer server.Close()

	req, _ := http.NewRequest(http.MethodGet, server.URL+"/api/v2/billing.php?api=ivr_minutes", nil)
	req.Header.Set("wolkvox-token", sim.Token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s\n", body)
	// Output:
	// {"code":200,"error":null,"msg":"Information found for the current month","data":[{"operation":"andina_demo","description":"Minutos IVR","items":"4446.55","date":"2026-05-15 07:00:00"}]}
}
