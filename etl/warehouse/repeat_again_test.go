package warehouse

import (
	"slices"
	"testing"

	"meterhouse/etl"
)

// What an answer ended, such as an absence, may come back at the same instant of a fixed clock: the answer that
// ended it is read again. Flags of samples that a later answer turned are not told by their counts alone.
func TestRepeatedAnswerOverReturningState(t *testing.T) {
	t.Parallel()
	flagged := func(flags ...etl.NullBool) []etl.LevelHistory {
		samples := []etl.Sample{sample(may14, "1"), sample("2026-05-14T06:00:00Z", "1"), sample(noon, "1")}
		for i := range flags {
			samples[i].Invoiced = flags[i]
		}
		return []etl.LevelHistory{extreme(samples...)}
	}
	whole := []etl.LevelHistory{extreme(sample(may14, "112.5"), sample(noon, "113"))}
	for name, c := range map[string]struct {
		says    []string // the answers one after the other, by name
		answers map[string][]etl.LevelHistory
	}{
		"an absence that comes back": {[]string{"all", "all", "none", "all", "none", "all"}, map[string][]etl.LevelHistory{
			"all": whole, "none": {extreme()},
		}},
		"a shrink that comes back": {[]string{"all", "all", "less", "all", "less", "all"}, map[string][]etl.LevelHistory{
			"all": whole, "less": {extreme(sample(may14, "112.5"))},
		}},
		"flags that change places": {[]string{"tff", "?ff", "?ff", "ttf", "+1h", "ftf", "?ff"}, map[string][]etl.LevelHistory{
			"tff": flagged(etl.True, etl.False, etl.False), "ttf": flagged(etl.True, etl.True, etl.False),
			"ftf": flagged(etl.False, etl.True, etl.False), "?ff": flagged(etl.Unknown, etl.False, etl.False),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.now = at("2026-05-15T12:00:00Z")
			for _, say := range c.says {
				if say == "+1h" {
					h.now = at("2026-05-15T13:00:00Z")
					continue
				}
				s := &speech{window: oneDay, sub: subscription1(), levels: c.answers[say]}
				for customer, content := range map[string][]byte{"all": nil, "some": s.content()} {
					h.content = content
					if _, _, err := h.listen(customer, s); err != nil {
						t.Fatal(err)
					}
				}
			}
			const flags = `select s.sampled_at, s.is_invoiced from dw.fact_consumption_sample as s join dw.dim_customer as c using (customer_key)
				where c.customer_id = $1 order by 1`
			if want, got := h.visible("all"), h.visible("some"); want != got {
				t.Errorf("read:\n%s\nnot all of it read:\n%s", want, got)
			}
			if want, got := h.rows(flags, "all"), h.rows(flags, "some"); !slices.Equal(want, got) {
				t.Errorf("flags\nread %v\nnot all of it read %v", want, got)
			}
		})
	}
}
