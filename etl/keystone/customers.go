package keystone

import (
	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/jsonread"
)

// customersRecord reads one element of the list of customers, which holds a list itself.
func (p *pass) customersRecord() error {
	path := p.r.Path
	refused, err := p.refused(jsonread.Object, "type_mismatch")
	if err != nil {
		return err
	}
	if refused != nil {
		return p.bookParent(*refused)
	}
	found := false
	err = p.r.Object(func(name string) error {
		// The documented name has a capital C, as the only one of the whole API.
		if name != "Customers" && name != "customers" {
			return p.unknown(inRecord, name)
		}
		found = true
		refused, err := p.refused(jsonread.Array, "value_missing")
		if err != nil {
			return err
		}
		if refused != nil {
			return p.bookParent(*refused)
		}
		p.rows++
		return p.r.Array(func(int) error { return p.listedCustomer() })
	})
	if err == nil && !found {
		err = p.bookParent(etl.Reject{Path: path() + "/Customers", Reason: "value_missing"})
	}
	return err
}

// bookParent books a record that cannot be read at all.
func (p *pass) bookParent(reject etl.Reject) error {
	p.report.Records++
	t := rejected(nil, reject)
	return p.book(&t)
}

func (p *pass) listedCustomer() error {
	p.listed.customers++
	p.report.Records++
	refused, err := p.refused(jsonread.Object, "type_mismatch")
	if err != nil {
		return err
	}
	if refused != nil {
		t := rejected(nil, *refused)
		return p.book(&t)
	}
	var own tally
	var c etl.Customer
	reject := etl.Reject{Reason: "value_missing"}
	named := false
	err = p.r.Object(func(name string) error {
		switch name {
		case "customer_id":
			v, err := p.r.Scalar()
			if err != nil {
				return err
			}
			var warnings []string
			c.ID, warnings, reject.Reason = accept.KeyText(v, true)
			own.warnAll(warnings, p.r.Path)
			if reject.Reason != "" {
				reject.Excerpt = excerptOf(v)
			}
			return nil
		case "customer_name":
			named = true
			v, err := p.r.Scalar()
			if err != nil {
				return err
			}
			var warnings []string
			c.Name, warnings = accept.DisplayText(v)
			own.warnAll(warnings, p.r.Path)
			return nil
		}
		return p.unknown(inListedCustomer, name)
	})
	if err != nil {
		return err
	}
	path := p.r.Path()
	if !named {
		own.warn("null_optional", func() string { return path + "/customer_name" })
	}
	if reject.Reason != "" {
		reject.Path = path + "/customer_id"
		t := rejected(own.warnings, reject)
		return p.book(&t)
	}
	own.rows, own.received = 1, 1
	if p.known[c.ID] {
		// Named before: nothing new, and the first name stands.
		own.ignored = 1
		p.listed.repeated++
		own.warn("duplicate_row", func() string { return path })
		return p.book(&own)
	}
	p.known[c.ID] = true
	if err := p.book(&own); err != nil || p.silent() {
		return err
	}
	return p.sink.Customer(c)
}
