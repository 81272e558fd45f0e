package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	for _, shell := range shells {
		o := invoke(t, nil, "", "completion", shell)
		if o.code != exitDone || o.stderr != "" || !strings.Contains(o.stdout, "meterhouse") || !strings.Contains(o.stdout, "__complete") {
			t.Errorf("%s: exit code %d, stderr %s, %d bytes", shell, o.code, o.stderr, len(o.stdout))
		}
	}
	o := invoke(t, nil, "", "completion", "fsh")
	if want := "meterhouse: completion: unknown shell \"fsh\" (did you mean \"zsh\"?): want bash, zsh, fish or powershell\n"; o.code != exitUsage || o.stderr != want {
		t.Errorf("exit code %d, stderr %s, want %s", o.code, o.stderr, want)
	}
	wantContains(t, "no shell", invoke(t, nil, "", "completion").stderr, "completion: 0 arguments: want one, bash, zsh, fish or powershell")
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "m.yaml", good+"nonsense: true\n") // and no variable is set
	for _, c := range []struct{ line, want string }{
		{"run |", "keystone.customers keystone.subscriptions keystone.current keystone.history wolkvox.billing"},
		{"run keystone.history keystone.current |", "keystone.customers keystone.subscriptions wolkvox.billing"},
		{"backfill |", "keystone.history"},
		{"backfill keystone.history |", ""},
		{"replay |", "keystone.customers keystone.subscriptions keystone.current keystone.history wolkvox.billing"},
		{"report |", strings.Join(undescribed(reportNames()), " ")},
		{"report missing_days |", ""},
		{"report missing_days --param |", "from_day= until_day="},
		{"report --param |", ""},
		{"token set |", ""},
		{"token set acme |", ""},
		{"--config " + file + " token set |", "acme"},
		{"completion |", "bash zsh fish powershell"},
		{"status --format |", "table csv json markdown"},
		{"check --format |", "table csv json markdown"},
		{"statement --format |", "table csv json markdown xlsx"},
		{"statement --out |", "FILES"},
		{"--log-format |", "text json"},
		{"run --log-level |", "debug info warn error"},
		{"init --only |", "keystone wolkvox"},
		{"config |", "password schema show"},
		{"migrate down --to |", ""},
		{"simulate |", ""},
		{"levels import |", "FILES"},
		{"init |", "FILES"},
		{"--config |", "FILES"},
		{"demo --dir |", "FILES"},
	} {
		t.Run(c.line, func(t *testing.T) {
			t.Parallel()
			// The last word is what stands before the cursor.
			words := strings.Split(strings.TrimSuffix(c.line, "|"), " ")
			o := invoke(t, nil, "", append([]string{"__complete"}, words...)...)
			if o.code != exitDone {
				t.Fatalf("exit code %d: %s", o.code, o.stderr)
			}
			lines := strings.Split(strings.TrimSuffix(o.stdout, "\n"), "\n")
			got := undescribed(lines[:len(lines)-1])
			if lines[len(lines)-1] == ":0" { // the shell's own completion
				got = append(got, "FILES")
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// undescribed are completions without what they mean.
func undescribed(lines []string) (values []string) {
	for _, line := range lines {
		value, _, _ := strings.Cut(line, "\t")
		values = append(values, value)
	}
	return values
}
