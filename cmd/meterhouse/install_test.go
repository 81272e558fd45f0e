package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/version"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/schedule"
	"meterhouse/etl/warehouse/warehousetest"
)

const (
	repository    = "../../"
	exampleConfig = "docs/install/meterhouse.yaml"
)

func readRepository(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(repository + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// program is one start of meterhouse as an installation describes it.
type program struct {
	where   string // for messages
	args    []string
	env     map[string]string
	config  string   // file of ours that stands for the one of METERHOUSE_CONFIG
	secrets []string // files that it is handed
	isDemo  bool     // it brings its own database
}

// parse checks a command line without running it.
func parse(args []string) (*app, *cobra.Command, error) {
	a := &app{env: map[string]string{}, logFormat: "text", stderr: io.Discard, progress: newProgress(io.Discard)}
	cmd, rest, err := a.rootCommand().Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err == nil && cmd.HasSubCommands() {
		err = fmt.Errorf("%s is no command by itself", cmd.CommandPath())
	}
	return a, cmd, errors.Join(err, a.start())
}

// check says what would go wrong at the start: unknown variables, a command line or configuration
// that is refused, secrets that nobody hands over or nobody reads.
func (p program) check(t *testing.T) {
	t.Helper()
	if _, _, err := parse(p.args); err != nil {
		t.Errorf("%s: %q: %v", p.where, p.args, err)
	}
	text := ""
	if p.config != "" {
		text = readRepository(t, p.config)
	}
	if (p.config == "") != (p.env["METERHOUSE_CONFIG"] == "") {
		t.Errorf("%s: METERHOUSE_CONFIG is %q, the mounted configuration %q", p.where, p.env["METERHOUSE_CONFIG"], p.config)
	}
	env := map[string]string{}
	unread := slices.Clone(p.secrets)
	for name, value := range p.env {
		plain, isFile := strings.CutSuffix(name, "_FILE")
		if strings.HasPrefix(name, environmentPrefix) {
			if !slices.Contains(environmentNames(), name) {
				t.Errorf("%s: %s is no variable of ours", p.where, name)
			}
		} else if !strings.Contains(text, "${"+plain+"}") {
			t.Errorf("%s: %s is not in the configuration", p.where, name)
		}
		switch {
		case isFile:
			if !slices.Contains(p.secrets, value) {
				t.Errorf("%s: %s: %s is not among the secrets %q", p.where, name, value, p.secrets)
			}
			unread = slices.DeleteFunc(unread, func(s string) bool { return s == value })
			value = writeFile(t, "secret", madeUp(name))
		case name == "METERHOUSE_CONFIG":
			value = repository + p.config
		case holdsSecret(name, value):
			t.Errorf("%s: %s holds a secret: want a file", p.where, name)
		}
		env[name] = value
	}
	if len(unread) > 0 {
		t.Errorf("%s: nobody reads the secrets %q", p.where, unread)
	}
	var stderr bytes.Buffer
	a := &app{env: env, logFormat: "text", stderr: &stderr, progress: newProgress(&stderr)}
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	needs := need{database: !p.isDemo, vendors: p.config != "", bi: slices.Equal(p.args, []string{"bi", "provision"})}
	if _, err := a.loadConfig(needs); err != nil || stderr.Len() > 0 {
		t.Errorf("%s: the configuration is refused: %v\n%s", p.where, err, stderr.String())
	}
}

// madeUp is a good content for the file of a variable.
func madeUp(variable string) string {
	switch {
	case strings.Contains(variable, "DATABASE"):
		return "postgres://meterhouse:made-up@db.example/meterhouse\n"
	case strings.Contains(variable, "KEY_FILE"):
		return testKey + "\n"
	case strings.Contains(variable, "HASH_FILE"):
		return madeUpHash + "\n"
	}
	return "made-up-" + strings.ToLower(variable) + "\n"
}

// madeUpHash is the bcrypt hash of "made-up password".
const madeUpHash = "$2a$12$IcnEHC0IvC9gRPbT79ofGeKOEzVk2uOh9uT3A70VfKf/08.wfIV1m"

func holdsSecret(variable, value string) bool {
	if u, err := url.Parse(value); err == nil && u.User != nil {
		_, has := u.User.Password()
		return has
	}
	return regexp.MustCompile(`PASSWORD|SECRET|TOKEN|KEY`).MatchString(variable)
}

type composeFile struct {
	Name     string                    `yaml:"name"`
	Services map[string]composeService `yaml:"services"`
	Configs  map[string]composeSource  `yaml:"configs"`
	Secrets  map[string]composeSource  `yaml:"secrets"`
	Volumes  map[string]any            `yaml:"volumes"`
}

type composeSource struct {
	File string `yaml:"file"`
}

type composeService struct {
	Image       string            `yaml:"image"`
	Entrypoint  []string          `yaml:"entrypoint"`
	Ports       []string          `yaml:"ports"`
	Build       any               `yaml:"build"`
	User        string            `yaml:"user"`
	ReadOnly    bool              `yaml:"read_only"`
	CapDrop     []string          `yaml:"cap_drop"`
	SecurityOpt []string          `yaml:"security_opt"`
	Profiles    []string          `yaml:"profiles"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Secrets     []string          `yaml:"secrets"`
	Configs     []struct {
		Source string `yaml:"source"`
		Target string `yaml:"target"`
	} `yaml:"configs"`
	Volumes     []string `yaml:"volumes"`
	Tmpfs       []string `yaml:"tmpfs"`
	Networks    []string `yaml:"networks"`
	NetworkMode string   `yaml:"network_mode"`
	Restart     string   `yaml:"restart"`
	StopGrace   string   `yaml:"stop_grace_period"`
	Logging     struct {
		Driver string `yaml:"driver"`
	} `yaml:"logging"`
	HealthCheck struct {
		Test    []string `yaml:"test"`
		Timeout string   `yaml:"timeout"`
	} `yaml:"healthcheck"`
	DependsOn map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
}

// stays tells that a service runs until it is stopped.
func (s composeService) stays() bool {
	return s.Build == nil || slices.Contains(s.Command, "--serve") || slices.Contains(s.Command, "serve")
}

func (s composeService) isDemo() bool { return slices.Equal(s.Profiles, []string{"demo"}) }

// isServe tells that a command line is the service, not a question to it.
func isServe(args []string) bool {
	_, cmd, err := parse(args)
	return err == nil && cmd.Name() == "serve" && !cmd.Flags().Changed("probe")
}

// isProbe tells that a command line asks the service for a state.
func isProbe(args []string, state string) bool {
	_, cmd, err := parse(args)
	return err == nil && cmd.Name() == "serve" && cmd.Flags().Changed("probe") && cmd.Flag("probe").Value.String() == state
}

// serveStops is how long a service is given to end: what its queue takes, and a moment for the rest.
const serveStops = schedule.StopsWithin + 10*time.Second

func atLeast(t *testing.T, what, text string, least time.Duration) {
	t.Helper()
	if d, err := time.ParseDuration(text); err != nil || d < least {
		t.Errorf("%s: %q: want at least %s", what, text, least)
	}
}

// pinned is a reference to an image by its version in full, to the patch.
var pinned = regexp.MustCompile(`^[a-z0-9./-]+:v?(\d+\.)+\d+(-[a-z0-9.]+)?$`)

const composeOfAll, composeOfFakes = "docker-compose.yml", "docs/install/docker-compose.fake-vendors.yml"

func readCompose(t *testing.T, name string) (compose composeFile) {
	t.Helper()
	text := readRepository(t, name)
	if err := yaml.Unmarshal([]byte(text), &compose); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "${") {
		t.Error(name + " takes values from the environment, where others can read them: want files")
	}
	return compose
}

func TestCompose(t *testing.T) {
	t.Parallel()
	compose := readCompose(t, composeOfAll)
	handed := map[string]bool{}
	serves := 0
	for name, s := range compose.Services {
		if s.Build == nil && !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %q: want a version in full", name, s.Image)
		}
		if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(s.User) {
			t.Errorf("%s: user %q: want numbers, not root's", name, s.User)
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s: want read_only, cap_drop [ALL] and no-new-privileges", name)
		}
		if s.Logging.Driver != "local" {
			t.Errorf("%s: log driver %q: want one that rotates, local", name, s.Logging.Driver)
		}
		if (s.stays() && !s.isDemo()) != (s.Restart == "unless-stopped") {
			t.Errorf("%s: restart %q, profiles %q: want what stays, but for the demo, started again", name, s.Restart, s.Profiles)
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to other machines", name, port)
			}
		}
		if s.stays() != (len(s.HealthCheck.Test) > 0) {
			t.Errorf("%s: has a health check: %v, stays up: %v", name, len(s.HealthCheck.Test) > 0, s.stays())
		}
		for other, need := range s.DependsOn {
			want := "service_completed_successfully"
			if compose.Services[other].stays() {
				want = "service_healthy"
			}
			if _, exists := compose.Services[other]; !exists || need.Condition != want {
				t.Errorf("%s: depends on %s as %s, want %s", name, other, need.Condition, want)
			}
		}
		var secrets []string
		for _, secret := range s.Secrets {
			handed[secret] = true
			secrets = append(secrets, "/run/secrets/"+secret)
			if compose.Secrets[secret].File != "./secrets/"+secret {
				t.Errorf("%s: secret %s is from %q, want ./secrets/%s", name, secret, compose.Secrets[secret].File, secret)
			}
		}
		if s.Build == nil {
			for variable, value := range s.Environment {
				if file := strings.HasSuffix(variable, "_FILE"); file && !slices.Contains(secrets, value) || !file && holdsSecret(variable, value) {
					t.Errorf("%s: %s=%s: want the file of a secret that it is handed", name, variable, value)
				}
			}
			continue
		}
		config := ""
		for _, c := range s.Configs {
			if config = path.Clean(compose.Configs[c.Source].File); config == "meterhouse.yaml" {
				config = exampleConfig // the user's own begins as a copy of it
			}
			if c.Target != s.Environment["METERHOUSE_CONFIG"] {
				t.Errorf("%s: %s is mounted at %s, METERHOUSE_CONFIG is %s", name, config, c.Target, s.Environment["METERHOUSE_CONFIG"])
			}
		}
		program{"service " + name, s.Command, s.Environment, config, secrets, s.isDemo()}.check(t)
		if test := s.HealthCheck.Test; len(test) > 0 {
			if !slices.Equal(test[:2], []string{"CMD", "/meterhouse"}) {
				t.Errorf("%s: health check %q: want our own command, there is no other in the image", name, test)
			}
			program{"health of " + name, test[2:], s.Environment, config, secrets, s.isDemo()}.check(t)
		}
		if !isServe(s.Command) {
			continue
		}
		serves++
		if len(s.Profiles) > 0 || !isProbe(s.HealthCheck.Test[2:], probeReady) {
			t.Errorf("%s: profiles %q, health check %q: want none, and --probe", name, s.Profiles, s.HealthCheck.Test)
		}
		atLeast(t, name+": stop_grace_period", s.StopGrace, serveStops)
		atLeast(t, name+": healthcheck: timeout", s.HealthCheck.Timeout, probeTimeout+time.Second)
		volume, _, _ := strings.Cut(strings.Join(s.Volumes, " "), ":")
		if _, named := compose.Volumes[volume]; !named || s.Environment["METERHOUSE_STATE_DIR"] != imageState || !slices.Equal(s.Volumes, []string{volume + ":" + imageState}) {
			t.Errorf("%s: volumes %q, METERHOUSE_STATE_DIR %q: want a named volume at %s, which the image prepares", name, s.Volumes, s.Environment["METERHOUSE_STATE_DIR"], imageState)
		}
		if !strings.Contains(readRepository(t, "Dockerfile"), "\nUSER "+s.User+"\n") {
			t.Errorf("%s: user %s: want the image's, whose folder %s is", name, s.User, imageState)
		}
	}
	if serves != 1 {
		t.Errorf("%d services serve, want one", serves)
	}
	for name := range compose.Secrets {
		if !handed[name] {
			t.Errorf("secret %s is handed to nobody", name)
		}
	}
}

// TestComposeProfiles holds what belongs together: Metabase, which reaches its own database and ours, and
// Prometheus, which logs in and has the rules that are shipped.
func TestComposeProfiles(t *testing.T) {
	t.Parallel()
	compose := readCompose(t, composeOfAll)
	for profile, want := range map[string][]string{
		"": {"meterhouse", "migrate", "postgres"}, "bi": {"bi-provision", "metabase", "metabase-postgres"}, "prometheus": {"prometheus"},
		"demo": {"demo"},
	} {
		var got []string
		for name, s := range compose.Services {
			if strings.Join(s.Profiles, " ") == profile {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("profile %q (-want +got):\n%s", profile, diff)
		}
	}

	bi, theirs := compose.Services["metabase"], compose.Services["metabase-postgres"]
	if bi.Environment["MB_DB_TYPE"] != "postgres" || bi.Environment["MB_DB_HOST"] != "metabase-postgres" || bi.Environment["MB_DB_USER"] != theirs.Environment["POSTGRES_USER"] ||
		bi.Environment["MB_DB_PASS_FILE"] != theirs.Environment["POSTGRES_PASSWORD_FILE"] || !slices.Equal(theirs.Networks, []string{"metabase"}) || !slices.Contains(bi.Networks, "metabase") {
		t.Errorf("Metabase %v, its database %v: want one of its own that only it reaches", bi.Environment, theirs.Environment)
	}
	if got := strings.Join(bi.Entrypoint, " "); !strings.Contains(got, "$$(cat /run/secrets/metabase_encryption_key)") || !slices.Contains(bi.Secrets, "metabase_encryption_key") {
		t.Errorf("entrypoint %q: want the key from its secret", got)
	}
	for _, secret := range []string{"database_url", "secrets_key", "postgres_password"} {
		if slices.Contains(bi.Secrets, secret) {
			t.Errorf("Metabase is handed %s", secret)
		}
	}
	if got := compose.Services["bi-provision"].Environment["METERHOUSE_BI_URL"]; got != "http://metabase:3000" || !slices.Contains(bi.Ports, "127.0.0.1:3000:3000") {
		t.Errorf("bi-provision asks %s, Metabase listens at %v", got, bi.Ports)
	}

	monitor := compose.Services["prometheus"]
	mounted := map[string]string{}
	for _, c := range monitor.Configs {
		mounted[c.Target] = path.Clean(compose.Configs[c.Source].File)
	}
	var file string
	for _, arg := range monitor.Command {
		if name, is := strings.CutPrefix(arg, "--config.file="); is {
			file = name
		}
	}
	var scrape struct {
		Rules  []string `yaml:"rule_files"`
		Scrape []struct {
			Auth struct {
				User string `yaml:"username"`
				File string `yaml:"password_file"`
			} `yaml:"basic_auth"`
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.UnmarshalWithOptions([]byte(readRepository(t, mounted[file])), &scrape); err != nil {
		t.Fatal(err)
	}
	if len(scrape.Rules) != 1 || mounted[scrape.Rules[0]] != "docs/install/prometheus-alerts.yaml" {
		t.Errorf("rules %q of %v: want the ones that are shipped", scrape.Rules, mounted)
	}
	secret := strings.TrimPrefix(scrape.Scrape[0].Auth.File, "/run/secrets/")
	if hash := "prometheus_hash"; !slices.Contains(monitor.Secrets, secret) || !slices.Contains(compose.Services["meterhouse"].Secrets, hash) {
		t.Errorf("Prometheus logs in with %s: want a secret of it, and its hash one of meterhouse", scrape.Scrape[0].Auth.File)
	}
	// What the example has behind a # is what Prometheus needs.
	text := strings.ReplaceAll(readRepository(t, exampleConfig), "# prometheus:", "prometheus:")
	serve := compose.Services["meterhouse"]
	a := &app{env: map[string]string{"METERHOUSE_DATABASE_URL": "postgres://h/d", "METERHOUSE_CONSOLE_LISTEN": serve.Environment["METERHOUSE_CONSOLE_LISTEN"], "PROMETHEUS_HASH": madeUpHash, "CONSOLE_ADMIN_HASH": madeUpHash, "KEYSTONE_REFRESH_TOKEN": "made-up-keystone-token", "WOLKVOX_TOKEN": "made-up-wolkvox-token", "METERHOUSE_SECRETS_KEY": testKey},
		logFormat: "text", stderr: io.Discard, progress: newProgress(io.Discard), configFile: writeFile(t, "meterhouse.yaml", text)}
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	cfg, err := a.loadConfig(need{database: true})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(cfg.Console.Listen, ":")
	if !slices.Equal(serve.Ports, []string{"127.0.0.1:" + port + ":" + port}) || strings.HasPrefix(cfg.Console.Listen, "127.") {
		t.Errorf("the console listens at %s, Compose shows %q: want all of the container's, and this machine's loopback only", cfg.Console.Listen, serve.Ports)
	}
	if cfg.Console.Users[scrape.Scrape[0].Auth.User].Password.text() != madeUpHash || scrape.Scrape[0].Static[0].Targets[0] != "meterhouse:"+port {
		t.Errorf("console %+v, Prometheus asks as %s at %v", cfg.Console, scrape.Scrape[0].Auth.User, scrape.Scrape[0].Static)
	}
}

// TestComposeDemo holds what keeps made-up figures away from real ones, and that one command shows them.
func TestComposeDemo(t *testing.T) {
	t.Parallel()
	compose := readCompose(t, composeOfAll)
	s := compose.Services["demo"]
	if !slices.Equal(s.Networks, []string{"demo"}) || len(s.Secrets)+len(s.Configs)+len(s.Volumes)+len(s.Environment)+len(s.DependsOn) > 0 {
		t.Errorf("the demo %+v: want its own network, and nothing of the others", s)
	}
	for name, other := range compose.Services {
		if _, needs := other.DependsOn["demo"]; needs || name != "demo" && slices.Contains(other.Networks, "demo") {
			t.Errorf("%s meets the demo", name)
		}
	}
	if !slices.Contains(s.Tmpfs, "/var/lib/postgresql/data") {
		t.Errorf("tmpfs %q: want the volume of the image of Postgres among them, or each demo leaves one behind", s.Tmpfs)
	}
	a, cmd, err := parse(s.Command)
	if err != nil {
		t.Fatal(err)
	}
	listen := cmd.Flag("listen").Value.String()
	_, port, _ := strings.Cut(listen, ":")
	if cmd.Name() != "demo" || !a.fixed || cmd.Flag("serve").Value.String() != "true" || listen != "0.0.0.0:"+port || len(s.Ports) != 1 || "http://"+s.Ports[0] != cmd.Flag("url").Value.String()+":"+port {
		t.Errorf("command %q, ports %q: want a console that can be reached, and a clock that stands still", s.Command, s.Ports)
	}
	if serve := compose.Services["meterhouse"]; slices.Equal(serve.Ports, s.Ports) {
		t.Errorf("both consoles are at %q", s.Ports)
	}
	if !isProbe(s.HealthCheck.Test[2:], probeReady) {
		t.Errorf("health check %q: want --probe", s.HealthCheck.Test)
	}
	dockerfile := readRepository(t, "Dockerfile")
	image := "\nFROM " + compose.Services["postgres"].Image + " AS demo\n"
	if build, _ := s.Build.(map[string]any); build["target"] != "demo" || !strings.Contains(dockerfile, image) || !strings.Contains(dockerfile, "\nUSER "+s.User+"\n") {
		t.Errorf("build %v: want the stage demo of the Dockerfile, which has the Postgres of the others and the user %s", s.Build, s.User)
	}
}

// TestComposeRehearsal holds that fake vendors are a project of their own, whose figures meet no real ones, and that
// its configuration uses what they hand out.
func TestComposeRehearsal(t *testing.T) {
	t.Parallel()
	compose, all := readCompose(t, composeOfFakes), readCompose(t, composeOfAll)
	if compose.Name == "" || compose.Name == all.Name {
		t.Errorf("the project is %q: want another name than %q, or both have the same volumes", compose.Name, all.Name)
	}
	s := compose.Services["fake-vendors"]
	if len(compose.Services) != 1 || len(compose.Secrets)+len(compose.Volumes)+len(s.Secrets)+len(s.Volumes) > 0 {
		t.Errorf("%+v: want the fake vendors on top of the others, with nothing of theirs", compose)
	}
	serve := all.Services["meterhouse"]
	if s.Image != serve.Image || s.User != serve.User || !s.ReadOnly || !slices.Equal(s.CapDrop, serve.CapDrop) || !slices.Equal(s.SecurityOpt, serve.SecurityOpt) || s.Logging != serve.Logging {
		t.Errorf("%+v: want the image, the user and the limits of %+v", s, serve)
	}
	_, cmd, err := parse(s.Command)
	if err != nil || cmd.Name() != "simulate" || s.NetworkMode != "service:meterhouse" {
		t.Fatalf("%q in the network %s: want simulate on the machine of meterhouse: %v", s.Command, s.NetworkMode, err)
	}
	file := path.Clean(compose.Configs["meterhouse"].File)
	env, secrets := maps.Clone(serve.Environment), []string{}
	for _, secret := range serve.Secrets {
		if !strings.Contains(secret, "token") { // of the real vendors
			secrets = append(secrets, "/run/secrets/"+secret)
		}
	}
	maps.DeleteFunc(env, func(name, _ string) bool { return strings.HasSuffix(name, "_TOKEN_FILE") })
	program{"rehearsal", serve.Command, env, file, secrets, false}.check(t)
	sims := newSims(time.Now, 1, 1)
	for _, want := range []string{"base_url: http://" + cmd.Flag("listen").Value.String() + "\n", "refresh_token: " + sims.keystone.RefreshToken() + "\n", "token: " + sims.wolkvox.Token() + "\n"} {
		if !strings.Contains(readRepository(t, file), want) {
			t.Errorf("%s does not say %s", file, want)
		}
	}
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	text := readRepository(t, "Dockerfile")
	builder := ""
	for _, from := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(text, -1) {
		if from[1] != "scratch" && !pinned.MatchString(from[1]) {
			t.Errorf("FROM %s: want a version in full", from[1])
		}
		if tag, isGo := strings.CutPrefix(from[1], "golang:"); isGo {
			builder, _, _ = strings.Cut(tag, "-")
		}
	}
	wanted := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(readRepository(t, "go.mod"))[1]
	if version.Compare("go"+builder, "go"+wanted) < 0 {
		t.Errorf("built with Go %q, go.mod wants %s", builder, wanted)
	}
	_, last, _ := strings.Cut(text, "\nFROM scratch\n")
	user := regexp.MustCompile(`(?m)^USER ([1-9]\d*):([1-9]\d*)$`).FindStringSubmatch(last)
	if user == nil {
		t.Fatal("the image runs as root")
	}
	// COPY takes over the owner of what is below the folder that it copies, not of that itself.
	folder := fmt.Sprintf("install -d -m 700 -o %s -g %s /image%s\n", user[1], user[2], imageState)
	if !strings.Contains(text, folder) || !strings.Contains(last, "COPY --from=build /image /\n") {
		t.Errorf("want %q and COPY --from=build /image /: a new volume takes its owner from there", folder)
	}
}

// imageState is the folder of the image that a volume for state_dir takes its owner and mode from.
const imageState = "/var/lib/meterhouse"

// TestDockerContext holds that .dockerignore keeps what the build needs and nothing else of value.
func TestDockerContext(t *testing.T) {
	t.Parallel()
	ignored := dockerIgnore(readRepository(t, ".dockerignore"))
	for _, name := range []string{
		"secrets/database_url", "meterhouse.yaml", ".env", ".git/config", "docs/install/meterhouse.yaml",
		"cmd/meterhouse/install_test.go", "etl/keystone/testdata/history/documented_sample/payload.json",
	} {
		if !ignored(name) {
			t.Errorf("%s goes into the build", name)
		}
	}
	root, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		`{{if .Module}}{{if .Module.Main}}{{$dir := .Dir}}{{range .GoFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{range .EmbedFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{end}}{{end}}`,
		"./cmd/meterhouse")
	list.Dir, list.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	files := append(strings.Fields(string(out)), root+"/go.mod", root+"/go.sum")
	if len(files) < 50 {
		t.Fatalf("%d files make the binary, want more", len(files))
	}
	for _, file := range files {
		if name, err := filepath.Rel(root, file); err != nil || ignored(filepath.ToSlash(name)) {
			t.Errorf("%s does not go into the build (%v)", name, err)
		}
	}
}

// dockerIgnore tells what a .dockerignore keeps out of the build: of the patterns that match a path
// or a folder above it, the last decides. Two stars stand for any folders, none included.
func dockerIgnore(text string) func(name string) bool {
	return func(name string) (ignored bool) {
		for _, pattern := range strings.Fields(regexp.MustCompile(`(?m)^#.*`).ReplaceAllString(text, "")) {
			pattern, exception := strings.CutPrefix(pattern, "!")
			pattern, anywhere := strings.CutPrefix(pattern, "**/")
			parts := strings.Split(name, "/")
			for i := range parts {
				candidate := strings.Join(parts[:i+1], "/")
				if anywhere {
					candidate = parts[i]
				}
				if matched, err := path.Match(pattern, candidate); err == nil && matched {
					ignored = !exception
				}
			}
		}
		return ignored
	}
}

type kubeContainer struct {
	Name  string   `yaml:"name"`
	Image string   `yaml:"image"`
	Args  []string `yaml:"args"`
	Env   []struct {
		Name  string `yaml:"name"`
		Value string `yaml:"value"`
	} `yaml:"env"`
	VolumeMounts []struct {
		Name      string `yaml:"name"`
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct {
			Drop []string `yaml:"drop"`
		} `yaml:"capabilities"`
	} `yaml:"securityContext"`
	Startup   *kubeProbe `yaml:"startupProbe"`
	Readiness *kubeProbe `yaml:"readinessProbe"`
	Liveness  *kubeProbe `yaml:"livenessProbe"`
}

type kubeProbe struct {
	Exec struct {
		Command []string `yaml:"command"`
	} `yaml:"exec"`
	Period   int `yaml:"periodSeconds"`
	Timeout  int `yaml:"timeoutSeconds"`
	Failures int `yaml:"failureThreshold"`
}

type kubeManifest struct {
	Kind string            `yaml:"kind"`
	Data map[string]string `yaml:"data"` // of the ConfigMap
	Spec struct {
		Replicas int `yaml:"replicas"`
		Selector struct {
			Labels map[string]string `yaml:"matchLabels"`
		} `yaml:"selector"`
		Strategy struct {
			Type    string `yaml:"type"`
			Rolling struct {
				Surge       *int `yaml:"maxSurge"`
				Unavailable *int `yaml:"maxUnavailable"`
			} `yaml:"rollingUpdate"`
		} `yaml:"strategy"`
		Template struct {
			Metadata struct {
				Labels map[string]string `yaml:"labels"`
			} `yaml:"metadata"`
			Spec kubePod `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

type kubePod struct {
	Grace        int   `yaml:"terminationGracePeriodSeconds"`
	AccountToken *bool `yaml:"automountServiceAccountToken"`
	ServiceLinks *bool `yaml:"enableServiceLinks"`
	Security     struct {
		NonRoot bool `yaml:"runAsNonRoot"`
		User    int  `yaml:"runAsUser"`
		FSGroup int  `yaml:"fsGroup"`
	} `yaml:"securityContext"`
	Init       []kubeContainer `yaml:"initContainers"`
	Containers []kubeContainer `yaml:"containers"`
	Volumes    []struct {
		Name      string `yaml:"name"`
		ConfigMap *struct {
			Name string `yaml:"name"`
		} `yaml:"configMap"`
		Secret *struct {
			Name string `yaml:"secretName"`
			Mode int    `yaml:"defaultMode"`
		} `yaml:"secret"`
		EmptyDir *struct {
			SizeLimit string `yaml:"sizeLimit"`
		} `yaml:"emptyDir"`
	} `yaml:"volumes"`
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	manifests := map[string]kubeManifest{}
	decoder := yaml.NewDecoder(strings.NewReader(readRepository(t, "docs/install/kubernetes.yaml")))
	for {
		var m kubeManifest
		if err := decoder.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		manifests[m.Kind] = m
	}
	if diff := cmp.Diff(readRepository(t, exampleConfig), manifests["ConfigMap"].Data["meterhouse.yaml"]); diff != "" {
		t.Errorf("the ConfigMap is not %s (-want +got):\n%s", exampleConfig, diff)
	}
	deployment := manifests["Deployment"].Spec
	if deployment.Replicas < 2 {
		t.Errorf("%d replicas, want one more than it takes", deployment.Replicas)
	}
	if labels := deployment.Selector.Labels; len(labels) == 0 || !maps.Equal(labels, deployment.Template.Metadata.Labels) {
		t.Errorf("the Deployment selects %v, its pods are %v", labels, deployment.Template.Metadata.Labels)
	}
	if s := deployment.Strategy; s.Type != "" && s.Type != "RollingUpdate" || s.Rolling.Surge == nil || *s.Rolling.Surge == 0 || s.Rolling.Unavailable == nil || *s.Rolling.Unavailable != 0 {
		t.Errorf("strategy %+v: want an update that never has fewer at work", s)
	}
	pod := deployment.Template.Spec
	if grace := time.Duration(pod.Grace) * time.Second; grace < serveStops {
		t.Errorf("the pod is killed after %s, want at least %s", grace, serveStops)
	}
	if pod.AccountToken == nil || *pod.AccountToken {
		t.Error("the pod gets a token for the cluster that it does not need")
	}
	if !pod.Security.NonRoot || pod.Security.User == 0 || pod.Security.FSGroup != pod.Security.User || pod.ServiceLinks == nil || *pod.ServiceLinks {
		t.Errorf("pod: %+v: want a user other than root, its group for the secrets, and no service links", pod.Security)
	}
	kinds := map[string]string{}
	for _, v := range pod.Volumes {
		switch {
		case v.ConfigMap != nil:
			kinds[v.Name] = "config"
		case v.Secret != nil && v.Secret.Mode == 0o400:
			kinds[v.Name] = "secret"
		case v.EmptyDir != nil && v.EmptyDir.SizeLimit != "":
			kinds[v.Name] = "scratch"
		default:
			t.Errorf("volume %s: want a ConfigMap, a secret with mode 0400, or an emptyDir with a limit", v.Name)
		}
	}
	if len(pod.Init) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("%d init containers and %d containers, want one of each", len(pod.Init), len(pod.Containers))
	}
	for _, c := range append(pod.Init, pod.Containers...) {
		s := c.SecurityContext
		if !s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
			t.Errorf("container %s: want a read-only root, no escalation and no capabilities", c.Name)
		}
		if !pinned.MatchString(c.Image) {
			t.Errorf("container %s: image %q: want a version in full", c.Name, c.Image)
		}
		p := program{where: "container " + c.Name, args: c.Args, env: map[string]string{}}
		for _, variable := range c.Env {
			p.env[variable.Name] = variable.Value
		}
		for _, mount := range c.VolumeMounts {
			switch kind := kinds[mount.Name]; {
			case kind == "config" && path.Dir(p.env["METERHOUSE_CONFIG"]) == mount.MountPath && mount.ReadOnly:
				p.config = exampleConfig
			case kind == "secret" && strings.HasPrefix(mount.MountPath, mountedSecrets) && mount.ReadOnly:
				for _, file := range p.env { // any key of the Secret is a file there
					if path.Dir(file) == mount.MountPath {
						p.secrets = append(p.secrets, file)
					}
				}
			case kind == "scratch" && mount.MountPath == "/tmp":
			default:
				t.Errorf("container %s: mount %+v of %q: want the configuration where METERHOUSE_CONFIG looks, secrets below %s, read-only, and /tmp", c.Name, mount, kind, mountedSecrets)
			}
		}
		p.check(t)
		if strings.Contains(strings.Join(c.Args, " "), "migrate") {
			continue
		}
		if !isServe(c.Args) {
			t.Errorf("container %s: %q: want serve", c.Name, c.Args)
		}
		// A database that is away must not start the process again: only a probe for work asks for it.
		for state, probes := range map[string][]*kubeProbe{probeReady: {c.Readiness}, probeLive: {c.Startup, c.Liveness}} {
			for _, probe := range probes {
				if probe == nil || len(probe.Exec.Command) == 0 {
					t.Errorf("container %s: a probe is missing, or asks otherwise than by our own command", c.Name)
					continue
				}
				program, args := probe.Exec.Command[0], probe.Exec.Command[1:]
				if program != "/meterhouse" || !isProbe(args, state) {
					t.Errorf("container %s: probe %q: want /meterhouse serve --probe=%s", c.Name, probe.Exec.Command, state)
				}
				if time.Duration(probe.Timeout)*time.Second <= probeTimeout || probe.Period < probe.Timeout || probe.Failures < 2 {
					t.Errorf("container %s: probe %+v: want a time-out over %s, a longer period, more than one failure", c.Name, *probe, probeTimeout)
				}
			}
		}
	}
}

func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	unit := map[string][]string{}
	text := readRepository(t, "docs/install/meterhouse.service")
	for line := range strings.Lines(text) {
		key, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if found && !strings.HasPrefix(key, "#") {
			unit[key] = append(unit[key], value)
		}
	}
	const credentials = "/run/credentials/meterhouse.service/"
	env := map[string]string{}
	for _, assignment := range unit["Environment"] {
		name, value, _ := strings.Cut(assignment, "=")
		env[name] = strings.NewReplacer("%d/", credentials, "%S/", "/var/lib/").Replace(value)
	}
	var secrets []string
	for _, credential := range unit["LoadCredential"] {
		name, file, _ := strings.Cut(credential, ":")
		secrets = append(secrets, credentials+name)
		if file != "/etc/meterhouse/secrets/"+name {
			t.Errorf("credential %s is from %q", name, file)
		}
	}
	commands := append(unit["ExecStartPre"], unit["ExecStart"]...)
	for _, command := range commands {
		args := strings.Fields(command)
		if args[0] != "/usr/local/bin/meterhouse" {
			t.Errorf("%s: want /usr/local/bin/meterhouse", command)
		}
		program{"unit: " + command, args[1:], env, exampleConfig, secrets, false}.check(t)
	}
	if diff := cmp.Diff([]string{"migrate up", "serve"}, []string{strings.Join(strings.Fields(commands[0])[1:], " "), strings.Join(strings.Fields(commands[1])[1:], " ")}); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	for key, want := range map[string]string{
		"Type": "exec", "Restart": "on-failure", "StartLimitIntervalSec": "0", "TimeoutStartSec": "infinity",
		"RestartPreventExitStatus": fmt.Sprint(exitUsage), "WantedBy": "multi-user.target",
		"StateDirectory": path.Base(env["METERHOUSE_STATE_DIR"]), "StateDirectoryMode": "0700", "DynamicUser": "yes",
	} {
		if got := strings.Join(unit[key], " "); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	if env["METERHOUSE_STATE_DIR"] != "/var/lib/meterhouse" {
		t.Errorf("METERHOUSE_STATE_DIR is %q, want the StateDirectory", env["METERHOUSE_STATE_DIR"])
	}
	atLeast(t, "TimeoutStopSec", strings.Join(unit["TimeoutStopSec"], " ")+"s", serveStops)
	if status := unit["SuccessExitStatus"]; len(status) > 0 {
		t.Errorf("exit codes that are no failure: %q, want none but 0", status)
	}
	t.Run("verify", func(t *testing.T) {
		analyze, err := exec.LookPath("systemd-analyze")
		if err != nil {
			warehousetest.Lacking(t, "SYSTEMD", "no systemd-analyze here to read the unit")
		}
		exe, err := os.Executable() // it wants the program to exist
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "meterhouse.service")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/usr/local/bin/meterhouse", exe)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput()
		if err != nil || strings.Contains(string(out), file) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestSecretsOfContainers holds what each platform hands over with its defaults.
func TestSecretsOfContainers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		mode os.FileMode
		open bool
	}{
		{"/run/secrets/database_url", 0o444, false},                        // Swarm
		{"/run/secrets/database_url", 0o664, false},                        // Compose, from a host with umask 002
		{"/run/secrets/meterhouse/database_url", 0o644, false},             // Kubernetes
		{"/etc/meterhouse/database_url", 0o440, false},                     // Kubernetes with fsGroup
		{"/run/credentials/meterhouse.service/database_url", 0o440, false}, // systemd
		{"/run/credentials/meterhouse.service/database_url", 0o400, false}, // systemd
		{"/etc/meterhouse/database_url", 0o444, true},                      // a machine with other users
		{"/run/secrets/../../etc/meterhouse/database_url", 0o444, true},    // the same
		{"/run/secretsfromnowhere/database_url", 0o444, true},              // the same
		{"/etc/meterhouse/database_url", 0o620, true}, {"database_url", 0o601, true},
	} {
		if got := isOpen(c.name, c.mode); got != c.open {
			t.Errorf("%s with mode %04o: open %v, want %v", c.name, c.mode, got, c.open)
		}
	}
}

// TestInstallGuide holds that the command lines of the guide are good ones.
func TestInstallGuide(t *testing.T) {
	t.Parallel()
	var found []string
	for i, block := range strings.Split(readRepository(t, "docs/install/README.md"), "```") {
		if language, lines, _ := strings.Cut(block, "\n"); i%2 == 1 && language != "sql" {
			for line := range strings.Lines(lines) {
				line, _, _ = strings.Cut(line, " #")
				if m := regexp.MustCompile(`(?:^|[ /])meterhouse(?:-as-configured)? ([a-z][a-z -]*)$`).FindStringSubmatch(strings.TrimSpace(line)); m != nil {
					found = append(found, m[1])
				}
			}
		}
	}
	for _, line := range found {
		if _, _, err := parse(strings.Fields(line)); err != nil {
			t.Errorf("meterhouse %s: %v", line, err)
		}
	}
	if len(found) < 4 {
		t.Errorf("command lines found: %q, want more", found)
	}
}

// TestPlainOwner loads as roles without any right but to create in their database: a whole month of
// both vendors, equal to the oracle, and a second time without a change.
func TestPlainOwner(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T) string{
		"owner": func(t *testing.T) string {
			_, owner := warehousetest.Owned(t)
			return owner
		},
		"guest": func(t *testing.T) string {
			return warehousetest.Role(t, warehousetest.Empty(t), "grant create on database DATABASE to ROLE", "grant create on schema public to ROLE")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			role := prepare(t)
			o := invoke(t, map[string]string{"METERHOUSE_DATABASE_URL": role}, "", "migrate", "up")
			if o.code != exitDone {
				t.Fatalf("migrate up: exit code %d\n%s", o.code, o.stderr)
			}
			d := newDemo(t, role, time.Date(2026, 6, 2, 12, 0, 0, 0, time.UTC), 32)
			for _, wantNews := range []bool{true, false} {
				results, err := d.load(t.Context(), d.session, d.sims)
				if err == nil {
					err = verdict(results, nil, d.app.told)
				}
				if err == nil {
					err = d.check(t.Context(), d.session, d.sims)
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, d.stderr.String())
				}
				inserted := 0
				for _, r := range results {
					inserted += r.out.Inserted
				}
				if (inserted > 0) != wantNews {
					t.Errorf("inserted %d, want some: %v", inserted, wantNews)
				}
			}
		})
	}
}

// asProgram makes this test binary be meterhouse: see TestMain.
const asProgram = "TEST_AS_METERHOUSE"

// TestProcessesStartTogether starts processes at once on an empty database, as replicas do: each
// migrates and then loads. One of them loads a scope, the others say busy; the refresh token, good
// for one use, is spent once.
func TestProcessesStartTogether(t *testing.T) {
	t.Parallel()
	const figures = `select count(*) || ' days, ' || md5(string_agg(concat_ws(' ', customer_id, subscription_number, service_level, level_ordinal,
			usage_date, sample_count, committed_tib, consumed_avg_tib, consumed_max_tib), e'\n' order by customer_id, subscription_number, service_level, level_ordinal, usage_date))
		from mart.daily_consumption`
	alone := newWorld(t)
	alone.must(exitDone, "run")
	want := alone.value(figures)
	for round := range 3 {
		w := newWorld(t)
		w.database = warehousetest.Empty(t)
		w.configure("")
		environ := append(os.Environ(), asProgram+"=1", "KEYSTONE_TOKEN="+w.env["KEYSTONE_TOKEN"])
		start := func(args ...string) outcome {
			var stdout, stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"--config", w.file, "--now", testNow}, args...)...)
			cmd.Env, cmd.Stdout, cmd.Stderr = environ, &stdout, &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Error(err)
			}
			return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
		}
		var group sync.WaitGroup
		for process := range 3 {
			group.Go(func() {
				if o := start("migrate", "up"); o.code != exitDone {
					t.Errorf("round %d, process %d: migrate up: exit code %d\n%s", round, process, o.code, o.stderr)
				}
				if o := start("run"); o.code != exitDone && o.code != exitBusy {
					t.Errorf("round %d, process %d: run: exit code %d\n%s%s", round, process, o.code, o.stdout, o.stderr)
				}
			})
		}
		group.Wait()
		if o := start("run"); o.code != exitDone {
			t.Errorf("round %d: run afterwards: exit code %d\n%s", round, o.code, o.stderr)
		}
		exchanges := 0
		for _, r := range w.keystone.Requests() {
			if r.Credential == keystonesim.Refresh || r.Credential == keystonesim.Spent {
				exchanges++
			}
		}
		if exchanges != 1 {
			t.Errorf("round %d: the refresh token was used %d times, want once", round, exchanges)
		}
		if got := w.value(`select count(*)::text from ops.run where status <> 'ok'`); got != "0" {
			t.Errorf("round %d: %s runs did not end well", round, got)
		}
		if got := w.value(figures); got != want {
			t.Errorf("round %d: loaded %s, one process alone %s", round, got, want)
		}
	}
}

// TestDemoBeyondThisMachine asks the console of a demo in a container: whoever reaches it has to log in, at the
// address that the first line says.
func TestDemoBeyondThisMachine(t *testing.T) {
	t.Parallel()
	d := newDemo(t, warehousetest.New(t), time.Date(2026, 6, 2, 12, 0, 0, 0, time.UTC), 1)
	for _, c := range []struct{ url, says string }{
		{"", `^console: http://127\.0\.0\.1:(\d+)/ \(user (\w+), password (\w{12,})\)\n$`},
		{"http://127.0.0.1:8081", `^console: http://127\.0\.0\.1:(8081)/ \(user (\w+), password (\w{12,})\)\n$`},
		{"https://demo.example/", `^console: https://(demo\.example)/ \(user (\w+), password (\w{12,})\)\n$`},
	} {
		var out bytes.Buffer
		d.app.stdout, d.listen, d.demo.url = &out, "0.0.0.0:0", c.url
		ctx, stop := context.WithCancel(t.Context())
		wait, err := d.serve(ctx, d.session)
		if err != nil {
			t.Fatal(err)
		}
		words := regexp.MustCompile(c.says).FindStringSubmatch(out.String())
		if words == nil {
			t.Errorf("--url %q: says %q, want %s", c.url, out.String(), c.says)
		} else if c.url == "" {
			ask := func(path, password string) int {
				t.Helper()
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+words[1]+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if password != "" {
					req.SetBasicAuth(words[2], password)
				}
				res, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				return res.StatusCode
			}
			got := []int{ask("/", ""), ask("/metrics", ""), ask("/metrics", "wrong password"), ask("/metrics", words[3]), ask("/readyz", "")}
			if want := []int{http.StatusSeeOther, http.StatusUnauthorized, http.StatusUnauthorized, http.StatusOK, http.StatusOK}; !slices.Equal(got, want) {
				t.Errorf("without a login /, /metrics; with a wrong one, the right one; /readyz: got %v, want %v", got, want)
			}
		}
		stop()
		if err := wait(); err != nil {
			t.Error(err)
		}
	}
	for _, args := range [][]string{
		{"demo", "--listen", "127.0.0.1:8080"}, {"demo", "--url", "http://127.0.0.1:8081"},
		{"demo", "--serve", "--url", "127.0.0.1:8081"}, {"demo", "--serve", "--url", "ftp://demo.example"}, {"demo", "--serve", "--url", "http:///"},
	} {
		if o := invoke(t, nil, "", args...); o.code != exitUsage {
			t.Errorf("%q: exit code %d, want %d", args, o.code, exitUsage)
		}
	}
}
