package jsonread_test

import (
	"fmt"
	"strings"

	"meterhouse/etl/internal/jsonread"
)

func Example() {
	r := jsonread.New(strings.NewReader(`{"name":"Extreme","committed_tib":100,"Name":"hidden"}`))
	err := r.Object(func(name string) error {
		value, err := r.Scalar()
		if err == nil {
			fmt.Printf("%s: %s %s\n", r.Path(), value.Kind, value.Text)
		}
		return err
	})
	fmt.Println(err)
	// Output:
	// /name: string Extreme
	// /committed_tib: number 100
	// json_duplicate_key: byte 44 at "/Name": a member name is repeated: vendor broke its contract
}
