package keystone

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meterhouse/etl"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden transforms testdata/<dataset>/<case>/payload.json (or .bin, for what is not JSON) and
// compares with want.json, or with want.err when the whole answer is refused. The clock and the
// question are those of the rule cases.
func TestGolden(t *testing.T) {
	payloads, err := filepath.Glob("testdata/*/*/payload.*")
	if err != nil || len(payloads) == 0 {
		t.Fatalf("no payloads: %v", err)
	}
	for _, payload := range payloads {
		dir := filepath.Dir(payload)
		dataset, name := filepath.Base(filepath.Dir(dir)), filepath.Base(dir)
		if dataset == "fuzz" {
			continue
		}
		t.Run(dataset+"/"+name, func(t *testing.T) {
			body, err := os.ReadFile(payload)
			if err != nil {
				t.Fatal(err)
			}
			var r recorder
			report, err := transform(answerOf("keystone."+dataset, string(body)), &r)
			var got []byte
			file := filepath.Join(dir, "want.json")
			if err != nil {
				file, got = filepath.Join(dir, "want.err"), []byte(err.Error()+"\n")
			} else {
				var b bytes.Buffer
				e := json.NewEncoder(&b)
				e.SetEscapeHTML(false)
				e.SetIndent("", "  ")
				if err := e.Encode(goldenOf(&r, report)); err != nil {
					t.Fatal(err)
				}
				got = b.Bytes()
			}
			if *update {
				for _, other := range []string{"want.json", "want.err"} {
					_ = os.Remove(filepath.Join(dir, other))
				}
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v, got:\n%s", err, got)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
			}
		})
	}
}

// golden is what came of an answer, as a person reviews it.
type golden struct {
	Facts    []any        `json:"facts"`
	Rejects  []etl.Reject `json:"rejects,omitempty"`
	Report   etl.Report   `json:"report"`
	Restarts int          `json:"restarts,omitempty"`
}

type goldenSubscription struct {
	Number      string
	AccountName *string
	Start, End  *time.Time
	StartText   *string
	EndText     *string
	Partial     bool `json:",omitempty"`
	Levels      []goldenLevel
}

type goldenLevel struct {
	Level       string
	Figures     []string
	PartialDays []string `json:",omitempty"`
	AllPartial  bool     `json:",omitempty"`
}

func goldenOf(r *recorder, report etl.Report) golden {
	g := golden{Facts: []any{}, Rejects: r.Rejects, Report: report, Restarts: r.Restarts}
	for _, c := range r.Customers {
		g.Facts = append(g.Facts, c)
	}
	of := func(s etl.Subscription, partial bool, levels []goldenLevel) {
		g.Facts = append(g.Facts, goldenSubscription{s.Number, s.AccountName, s.Start, s.End, s.StartText, s.EndText, partial, levels})
	}
	for _, v := range r.Terms_ {
		var levels []goldenLevel
		for _, l := range v.Levels {
			levels = append(levels, goldenLevel{Level: l.Level, Figures: []string{"committed_tib " + l.CommittedTiB.String()}})
		}
		of(v.Subscription, v.Partial, levels)
	}
	null := func(d *etl.Decimal) etl.NullDecimal {
		if d == nil {
			return etl.NullDecimal{}
		}
		return etl.NullDecimal{Decimal: *d, Known: true}
	}
	for _, v := range r.Current {
		var levels []goldenLevel
		for _, l := range v.Levels {
			s := etl.Sample{At: l.ReadAt.UnixMicro(), CommittedTiB: l.CommittedTiB, ConsumedTiB: l.ConsumedTiB, BurstTiB: null(l.BurstTiB), AccruedTiB: null(l.AccruedTiB)}
			levels = append(levels, goldenLevel{Level: l.Level, Figures: []string{describe(&s)}})
		}
		of(v.Subscription, v.Partial, levels)
	}
	for _, v := range r.Histories {
		var levels []goldenLevel
		for _, l := range v.Levels {
			gl := goldenLevel{Level: l.Level, Figures: []string{}, AllPartial: l.AllPartial}
			for _, s := range l.Samples {
				gl.Figures = append(gl.Figures, describe(&s)+", invoiced "+[...]string{"null", "false", "true"}[s.Invoiced])
			}
			for d := range l.PartialDays {
				gl.PartialDays = append(gl.PartialDays, d.String())
			}
			slices.Sort(gl.PartialDays)
			levels = append(levels, gl)
		}
		of(v.Subscription, v.Partial, levels)
	}
	return g
}

// Each golden folder is named for a habit or a fault: lower case, words joined by underscores.
func TestGoldenNames(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if strings.HasPrefix(dir, filepath.Join("testdata", "fuzz")) {
			continue
		}
		if name := filepath.Base(dir); strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			t.Errorf("%s: want lower case and underscores", dir)
		}
	}
}
