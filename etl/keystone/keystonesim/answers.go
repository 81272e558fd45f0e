package keystonesim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// A page writes one JSON answer. Figures are appended into the buffer's own
// space, so a sample costs no allocation.
type page struct {
	*bufio.Writer
	sim *Sim
	c   *call
}

func (s *Sim) page(w http.ResponseWriter, c *call) page {
	w.Header().Set("Content-Type", "application/json")
	return page{bufio.NewWriterSize(w, 64<<10), s, c}
}

// text writes its parts as they are.
func (p page) text(parts ...string) {
	for _, part := range parts {
		_, _ = p.WriteString(part) // bufio keeps the first error; a client that left needs no answer
	}
}

func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(b)
}

// open begins an envelope with n records, counted as a number or as text.
func (p page) open(envelope string, n int, asText bool) {
	count := strconv.Itoa(n)
	if asText {
		count = quote(count)
	}
	p.text(`{"`, envelope, `":{"returned_records":`, count, `,"records":[`)
}

// tail writes the members every envelope has after its records. The ids are
// those of the request at this instant, so the same question gets the same.
func (p page) tail() {
	h := mixText(mix(p.sim.cfg.Seed, uint64(p.c.now.UnixNano())), p.c.URL.RequestURI())
	id := fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", uint32(h), uint16(h>>32), h>>48&0xfff, h>>52&0xfff, mix(h, 1)>>16)
	p.text(`,"request_id":"`, id, `","response_time":"0.`, fmt.Sprintf("%03d", h%900+100), `"`)
}

func (s *Sim) writeCustomers(w http.ResponseWriter, c *call) {
	// The vendor's envelope has lists inside a list; nothing says what a record
	// is. Here: the first two customers share one, and the first comes again.
	var records [][]customer
	switch all := s.customers; {
	case c.empty:
	case s.cfg.Clean || len(all) < 3:
		records = [][]customer{all}
	default:
		records = append(records, all[:2])
		for one := range slices.Chunk(all[2:], 1) {
			records = append(records, one)
		}
		records = append(records, all[:1])
	}

	p := s.page(w, c)
	p.open("results", len(records), false)
	for i, record := range records {
		p.text(comma(i), `{"Customers":[`)
		for j, one := range record {
			p.text(comma(j), `{"customer_id":`, quote(one.id), `,"customer_name":`, quote(one.name), `}`)
		}
		p.text(`]}`)
	}
	p.text(`]`)
	p.tail()
	p.text(`}}`)
	_ = p.Flush()
}

// dates are the two spellings of a contract's dates.
type dates struct{ start, end string }

var (
	withMillis    = dates{"T00:00:00.254Z", "T23:59:59.255Z"}
	withoutMillis = dates{"T00:00:00Z", "T23:59:59Z"}
)

func (p page) subscription(sub subscription, d dates) {
	end := sub.end
	if _, err := time.Parse(time.DateOnly, end); err == nil {
		end += d.end
	}
	p.text(`{"subscription":{"account_name":`, quote(sub.account), `,"number":`, quote(sub.number),
		`,"start_date":"`, sub.start, d.start, `","end_date":`, quote(end), `},"service_levels":[`)
}

func (s *Sim) writeSubscriptions(w http.ResponseWriter, c *call, of customer) {
	if c.empty {
		of.subscriptions = nil
	}
	p, spelling := s.page(w, c), withMillis
	if s.cfg.Clean {
		spelling = withoutMillis
	} else {
		p.text(`[`)
	}
	p.open("results", len(of.subscriptions), false)
	for i, sub := range of.subscriptions {
		p.text(comma(i))
		p.subscription(sub, spelling)
		for j, se := range s.ordered(c, of, sub) {
			p.text(comma(j), `{"name":`, quote(se.name), `,"committed_tib":`)
			_, _ = p.Write(amount{micro: se.committedAt(c.now)}.Append(p.AvailableBuffer()))
			p.text(`}`)
		}
		p.text(`]}`)
	}
	p.text(`]`)
	p.tail()
	p.text(`}}`)
	if !s.cfg.Clean {
		p.text(`]`)
	}
	_ = p.Flush()
}

func (s *Sim) writeCurrent(w http.ResponseWriter, c *call, of customer) {
	if c.empty {
		of.subscriptions = nil
	}
	p, envelope, mark := s.page(w, c), "result", `"`
	if s.cfg.Clean {
		envelope, mark = "results", ""
	}
	month := time.Date(c.now.Year(), c.now.Month(), 1, 0, 0, 0, 0, time.UTC)
	p.open(envelope, len(of.subscriptions), !s.cfg.Clean)
	for i, sub := range of.subscriptions {
		p.text(comma(i))
		p.subscription(sub, withoutMillis)
		n := 0
		for _, se := range s.ordered(c, of, sub) {
			last, accrued, ok := s.latest(&se, month, c.now)
			if !ok {
				continue // nothing was collected yet
			}
			p.text(comma(n), `{"name":`, quote(se.name), `,"committed_tib":`, mark)
			n++
			b := last.committed.Append(p.AvailableBuffer())
			b = append(append(append(b, mark...), `,"consumed_tib":`...), mark...)
			b = last.consumed.Append(b)
			b = append(append(b, mark...), `,"consumed_timestamp_utc":"`...)
			b = time.Unix(last.unix, 0).UTC().AppendFormat(b, time.RFC3339)
			b = append(append(b, `","burst_tib":`...), mark...)
			b = last.burst.Append(b)
			b = append(append(append(b, mark...), `,"accrued_burst_tib":`...), mark...)
			b = appendDecimal(b, accrued, 1_000_000_000)
			_, _ = p.Write(append(append(b, mark...), '}'))
		}
		p.text(`]}`)
	}
	p.text(`]`)
	p.tail()
	p.text(`}}`)
	_ = p.Flush()
}

// latest is the newest reading and what accrued in its month, whatever
// spelling history has for it. It looks back over the longest gap.
func (s *Sim) latest(se *series, month, now time.Time) (last sample, accrued int64, ok bool) {
	for p := range s.samples(se, month.Add(-7*daily), now, now) {
		switch {
		case s.cfg.Running:
			accrued = p.accrued
		case p.unix >= month.Unix():
			accrued += p.accrued
		}
		last, ok = p, true
	}
	if last.unix < month.Unix() {
		accrued = 0
	}
	return last, accrued, ok
}

func (s *Sim) writeHistory(w http.ResponseWriter, c *call, of customer, from, to time.Time) {
	type record struct {
		subscription
		levels []series
	}
	var records []record
	for _, sub := range of.subscriptions {
		levels := slices.DeleteFunc(s.ordered(c, of, sub), func(se series) bool {
			for range s.samples(&se, from, to, c.now) {
				return false
			}
			return true
		})
		if len(levels) > 0 && !c.empty {
			records = append(records, record{sub, levels})
		}
	}

	p := s.page(w, c)
	p.open("results", len(records), false)
	for i, r := range records {
		p.text(comma(i))
		p.subscription(r.subscription, withoutMillis)
		for j, se := range r.levels {
			p.text(comma(j), `{"name":`, quote(se.name), `,"historical_consumption":[`)
			p.samples(&se, from, to)
			p.text(`]}`)
		}
		p.text(`]}`)
	}
	p.text(`],"request_parameters":{"from_date_utc":"`, from.Format(time.DateOnly), `","to_date_utc":"`, to.Format(time.DateOnly),
		`","customer_id":`, quote(of.id), `}`)
	p.tail()
	p.text(`,"customer":{"name":`, quote(of.name), `,"id":`, quote(of.id), `}}}`)
	_ = p.Flush()
}

// samples is the hot loop: a month of five-minute samples is 9 000 rounds.
func (p page) samples(se *series, from, to time.Time) {
	first := true
	for v := range p.sim.samples(se, from, to, p.c.now) {
		if first && p.c.Context().Err() != nil {
			return
		}
		b := p.AvailableBuffer()
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, `{"committed_tib":`...)
		b = v.committed.Append(b)
		b = append(b, `,"consumed_tib":`...)
		b = v.consumed.Append(b)
		b = append(b, `,"timestamp_utc":"`...)
		b = time.Unix(v.unix, 0).UTC().AppendFormat(b, time.RFC3339)
		b = append(b, `","burst_tib":`...)
		b = v.burst.Append(b)
		b = append(b, `,"accrued_burst_tib":`...)
		b = appendDecimal(b, v.accrued, 1_000_000_000)
		b = append(b, `,"is_invoiced":`...)
		b = strconv.AppendBool(b, v.invoiced)
		if _, err := p.Write(append(b, '}')); err != nil {
			return
		}
	}
}

// ordered lists the series of one subscription in the order of this answer.
func (s *Sim) ordered(c *call, of customer, sub subscription) []series {
	all := s.seriesOf(of, sub)
	if s.cfg.Shuffle {
		h := mixText(mixText(mix(s.cfg.Seed, uint64(c.now.Truncate(daily).Unix())), c.URL.Path), sub.number)
		for i := len(all) - 1; i > 0; i-- {
			h = mix(h, uint64(i))
			j := int(h % uint64(i+1))
			all[i], all[j] = all[j], all[i]
		}
	}
	return all
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}
