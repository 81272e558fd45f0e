package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// uncommented finds a key with its default behind a #.
var uncommented = regexp.MustCompile(`(?m)^( *)#([a-z_]+:)`)

func TestInitText(t *testing.T) {
	t.Parallel()
	o := invoke(t, nil, "", "--now", testNow, "init", "-")
	if o.code != exitDone || o.stderr != "" {
		t.Fatalf("exit code %d, stderr %s", o.code, o.stderr)
	}
	golden(t, "config_init.yaml", o.stdout)
	for _, line := range strings.Split(o.stdout, "\n") {
		if len([]rune(line)) > 100 {
			t.Errorf("line of %d characters: %s", len([]rune(line)), line)
		}
	}
	for only, other := range map[string]string{"keystone": "wolkvox", "wolkvox": "keystone"} {
		text := invoke(t, nil, "", "init", "--only", only, "-").stdout
		if strings.Contains(strings.ToLower(text), "\n"+other+":") || strings.Contains(text, strings.ToUpper(other)+"_") {
			t.Errorf("--only %s speaks of %s:\n%s", only, other, text)
		}
	}
	// The head names the variables that the text reads, and no other.
	head, body, _ := strings.Cut(o.stdout, "\ndatabase:")
	for _, v := range sampleVariables {
		if !strings.Contains(head, "#   "+v.name+" ") || !strings.Contains(body, "${"+v.name+"}\n") {
			t.Errorf("%s is not both named and read", v.name)
		}
	}
	if n := len(regexp.MustCompile(`(?m)^[^#]*: \$\{`).FindAllString(body, -1)); n != len(sampleVariables) {
		t.Errorf("%d variables are read, want %d", n, len(sampleVariables))
	}
}

// What stands behind a # is the default: taking the # away changes nothing.
func TestInitShowsDefaults(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"DATABASE_URL": "postgres://me@db.example/meterhouse", "METERHOUSE_SECRETS_KEY": testKey, "KEYSTONE_REFRESH_TOKEN": goodEnv["TOKEN"],
		"WOLKVOX_SERVER": "0039", "WOLKVOX_TOKEN": "wv-0123456789",
	}
	text := invoke(t, nil, "", "init", "-").stdout
	comment := regexp.MustCompile(`  # .*`)
	shown := configShow(t, text, env)
	uncovered := configShow(t, uncommented.ReplaceAllString(text, "$1$2"), env)
	if shown.code != exitDone || uncovered.code != exitDone {
		t.Fatalf("exit codes %d and %d: %s%s", shown.code, uncovered.code, shown.stderr, uncovered.stderr)
	}
	if comment.ReplaceAllString(shown.stdout, "") != comment.ReplaceAllString(uncovered.stdout, "") {
		t.Errorf("defaults:\n%s\nwith the # taken away:\n%s", shown.stdout, uncovered.stdout)
	}
	for line := range strings.Lines(uncovered.stdout) {
		if strings.Contains(line, "# default") {
			t.Errorf("init does not show %s", line)
		}
	}
}

func TestInitFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	named, flagged, byEnv := filepath.Join(dir, "named.yaml"), filepath.Join(dir, "flagged.yaml"), filepath.Join(dir, "env.yaml")
	for want, o := range map[string]outcome{
		named:   invoke(t, map[string]string{"METERHOUSE_CONFIG": byEnv}, "", "init", named),
		flagged: invoke(t, nil, "", "--config", flagged, "init"),
		byEnv:   invoke(t, map[string]string{"METERHOUSE_CONFIG": byEnv}, "", "init"),
	} {
		if o.code != exitDone || o.stderr != "" {
			t.Errorf("exit code %d: %s", o.code, o.stderr)
		}
		wantContains(t, "stdout", o.stdout, "wrote "+want+"\n", "  METERHOUSE_SECRETS_KEY  made once with: openssl rand -base64 32\n", "\n  meterhouse check\n")
		info, err := os.Stat(want)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", want, info, err)
		}
	}
	before, err := os.ReadFile(named)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"init", named}, "named.yaml exists and is not overwritten: want another FILE, or - to print"},
		{[]string{"init", "--only", "wolkvox", named}, "exists and is not overwritten"},
		{[]string{"init", dir}, "exists and is not overwritten"},
		{[]string{"init", filepath.Join(dir, "none", "m.yaml")}, "no such file or directory: want a folder that exists"},
		{[]string{"init", "a", "b"}, "init: 2 arguments: want at most one, the file to write"},
		{[]string{"init", "--only", "keyston", "-"}, `--only "keyston" (did you mean "keystone"?): want keystone or wolkvox`},
	} {
		o := invoke(t, nil, "", c.args...)
		if o.code != exitUsage || o.stdout != "" {
			t.Errorf("%v: exit code %d, stdout %s", c.args, o.code, o.stdout)
		}
		wantContains(t, "stderr", o.stderr, c.want)
	}
	if after, err := os.ReadFile(named); err != nil || string(after) != string(before) {
		t.Errorf("the file was touched: %v", err)
	}
	link := filepath.Join(dir, "link.yaml")
	if err := os.Symlink(filepath.Join(dir, "target"), link); err != nil {
		t.Fatal(err)
	}
	if o := invoke(t, nil, "", "init", link); o.code != exitUsage {
		t.Errorf("a link is followed: exit code %d", o.code)
	}
}
