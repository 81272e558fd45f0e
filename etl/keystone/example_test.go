package keystone_test

import (
	"fmt"
	"time"

	"meterhouse/etl/keystone"
)

// A token can be passed around and logged by accident without harm.
func ExampleToken() {
	t, err := keystone.NewToken("not-a-real-token-0123456789")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%v %s %+v\n", t, t, struct{ Secret keystone.Token }{t})
	// Output: [redacted] [redacted] {Secret:[redacted]}
}

func ExampleNew() {
	_, err := keystone.New(keystone.Config{
		Account: "acme",
		BaseURL: "http://api.activeiq.netapp.com", // not https
		Tokens:  nil,                              // the warehouse, in real life
		Pace:    time.Second,
	})
	fmt.Println(err)
	// Output: keystone acme: no token store
}
