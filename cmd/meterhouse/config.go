package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"meterhouse/etl/console"
	"meterhouse/etl/schedule"
)

// config is everything that is configured, in the order of the documentation. A yaml tag is the
// key in the file; the dotted path of keys names a value everywhere else. Defaults are in
// newConfig and in setDefaults of the list entries. A doc tag is the one place that says what a
// key means, in which unit and within which limits: init and the JSON Schema print it.
type config struct {
	Database   databaseConfig   `yaml:"database" doc:"Where the warehouse is."`
	StateDir   string           `yaml:"state_dir" doc:"An existing folder that lasts, for the answers to token exchanges (in tokens, mode 0700): so that no crash, failover or restore forgets one that has come. Processes on several machines share it. Empty: none."`
	SecretsKey secret           `yaml:"secrets_key" doc:"Encrypts the tokens that the database keeps: 32 bytes in base64. Keep a copy: without it every Keystone account needs a new login."`
	FormerKey  secret           `yaml:"former_secrets_key" doc:"While secrets_key is being changed: the one before, so that what it sealed still opens. Then call token rekey, and take this out when it says so."`
	Parallel   int              `yaml:"parallel" doc:"How many customers and accounts are loaded at once, 0 to 256. 0: as many as there are cores."`
	HTTP       httpConfig       `yaml:"http" doc:"How the vendors are called."`
	Keystone   []keystoneConfig `yaml:"keystone" doc:"One entry per NetApp Keystone login. No such login: delete this block."`
	Wolkvox    []wolkvoxConfig  `yaml:"wolkvox" doc:"One entry per wolkvox operation. No such operation: delete this block."`
	Console    consoleConfig    `yaml:"console" doc:"The web console."`
	Alerts     alertsConfig     `yaml:"alerts" doc:"Who is told when somebody must act."`
	Retention  retentionConfig  `yaml:"retention" doc:"How long the bulky part is kept. What is reported from is kept for ever."`
	BI         biConfig         `yaml:"bi" doc:"The Metabase that bi provision keeps; nothing else reads this."`

	hasFile bool                // a file was read
	sources map[string]source   // path → where its value is from; no entry: a default
	unset   map[string][]string // path → variables in its value that are not set
	unread  map[string]bool     // paths whose value was reported as unreadable
}

type databaseConfig struct {
	URL       dsn `yaml:"url" doc:"postgres://user:password@host/database, Postgres 15 to 18; or local: a private Postgres that is started when it is needed."`
	DirectURL dsn `yaml:"direct_url" doc:"When url leads through a pooler: the server itself, for what a pooler cannot do, such as migrations. Empty: url."`
}

type httpConfig struct {
	Proxy   dsn    `yaml:"proxy" doc:"http://host:port, https://host:port or socks5://host:port, with user:password@ where it takes one. Empty: none."`
	CAFile  string `yaml:"ca_file" doc:"PEM file with certificates to trust besides the system's, such as those of a proxy that inspects TLS."`
	Timeout span   `yaml:"timeout" doc:"For one request with its answer, 1s to 1h."`
	MaxBody size   `yaml:"max_body" doc:"Greatest answer, unpacked, 1KiB to 16GiB."`
}

type keystoneConfig struct {
	Account      string          `yaml:"account" required:"true" doc:"Your own name for this login: letters, digits, dots, dashes and underscores. Tables show it: do not change it later."`
	BaseURL      string          `yaml:"base_url" doc:"The vendor's API."`
	RefreshToken secret          `yaml:"refresh_token" doc:"Starts the token chain, once; afterwards the chain lives in the database and this is not read. From the Digital Advisor portal: API Services, Generate Tokens."`
	Customers    []string        `yaml:"customers" doc:"Customer ids to load. Empty: every customer that the login sees."`
	Schedules    schedulesConfig `yaml:"schedules" doc:"When each dataset is due: minute, hour, day of month, month, day of week in UTC, or behind CRON_TZ=Area/City. Together: one access token serves all."`
	History      historyConfig   `yaml:"history" required:"true" doc:"Daily consumption."`

	pace time.Duration // between requests; not a key: only our own fakes are asked faster
}

type schedulesConfig struct {
	Customers     schedule.Spec `yaml:"customers" doc:"The customers of the login."`
	History       schedule.Spec `yaml:"history" doc:"Daily consumption."`
	Subscriptions schedule.Spec `yaml:"subscriptions" doc:"Terms and commitments."`
	Current       schedule.Spec `yaml:"current" doc:"Readings of the present. A missed one cannot be asked for later."`
}

type historyConfig struct {
	Start  date `yaml:"start" required:"true" doc:"First day to load, YYYY-MM-DD. An earlier day fills itself in."`
	Reread span `yaml:"reread" doc:"The newest days are asked for again in every run, because the vendor restates figures. Whole days, 0d to 3660d."`
	Settle span `yaml:"settle" doc:"How long the vendor's newest figures are left alone, at most 30d."`
}

type wolkvoxConfig struct {
	Account   string        `yaml:"account" required:"true" doc:"Your own name for this operation: letters, digits, dots, dashes and underscores. Tables show it: do not change it later."`
	Server    string        `yaml:"server" doc:"Number of the server in quotes, \"0039\" for wv0039.wolkvox.com."`
	BaseURL   string        `yaml:"base_url" doc:"Replaces https://wv<server>.wolkvox.com."`
	Token     secret        `yaml:"token" doc:"The wolkvox-token of the operation. One token, one entry."`
	Operation string        `yaml:"operation" doc:"Name of the operation that answers must carry. Empty: the first good reading pins it."`
	Timezone  string        `yaml:"timezone" doc:"Zone of the operation, in which its days and months end, by name."`
	Products  []string      `yaml:"products" doc:"Reports to read, by the vendor's name, such as ivr_minutes. Empty: all 27."`
	Schedule  schedule.Spec `yaml:"schedule" doc:"When it is read, as above. The vendor tells only the running month: what is not read is lost. The last readings of each month are added: 23:05, 23:25, 23:45 and 00:10 in timezone."`

	spacing time.Duration    // between two readings of a product; not a key: only our own fakes are asked sooner
	clock   func() time.Time // of the ledger of calls; nil: the database's. Only the demo lives by another
}

type consoleConfig struct {
	Listen string                `yaml:"listen" doc:"host:port. Off this machine only with users. Empty: no console, no figures."`
	URL    string                `yaml:"url" doc:"https://host that people type, when something that speaks TLS stands in front and sets X-Forwarded-For, only with users: cookies then go over TLS only. Empty: none stands there."`
	Users  map[string]userConfig `yaml:"users" doc:"Who may log in, such as ann: ${ANN_HASH}, a viewer, or ann: {password: ${ANN_HASH}, role: operator}. What stands for a password is its hash: meterhouse config password prints it."`
}

// userConfig may be written as its password alone.
type userConfig struct {
	Password secret `yaml:"password" alone:"true" required:"true" doc:"bcrypt hash of the password, as meterhouse config password prints it."`
	Role     string `yaml:"role" doc:"viewer (looks), operator (also loads, settles quarantine, sees what vendors sent) or closer (also closes months)."`
}

func (u *userConfig) setDefaults() { u.Role = console.Viewer.String() }

type alertsConfig struct {
	Webhook   secret `yaml:"webhook" doc:"https URL that is sent each alert; most services put a key into it."`
	Command   string `yaml:"command" doc:"Program that is run for each alert, with arguments parted at blanks; no shell."`
	Heartbeat secret `yaml:"heartbeat" doc:"https URL that is asked every 5 minutes while loading goes on: a service that calls when it stays away."`
}

type retentionConfig struct {
	Payload span `yaml:"payload" doc:"Answers of the vendors as sent. 0d: for ever. What a figure refers to stays in any case."`
	Samples span `yaml:"samples" doc:"Samples within the day, at least history.reread plus 62d. 0d: for ever. Daily figures stay."`
}

type biConfig struct {
	URL         string `yaml:"url" doc:"Where Metabase is. Plain http only on a network of your own."`
	Email       string `yaml:"email" doc:"Login of an administrator there, who is made when Metabase is fresh."`
	Password    secret `yaml:"password" doc:"The administrator's."`
	APIKey      secret `yaml:"api_key" doc:"Of the group Administrators, in place of email and password. A fresh Metabase has none."`
	DatabaseURL dsn    `yaml:"database_url" doc:"How Metabase reaches the warehouse, postgres://login:password@host/database. The login is made when it is not there, and only reads."`
}

func newConfig() *config {
	c := &config{sources: map[string]source{}, unset: map[string][]string{}, unread: map[string]bool{}}
	c.HTTP.Timeout = span(time.Minute)
	c.HTTP.MaxBody = 256 << 20
	c.Console.Listen = "127.0.0.1:8080"
	c.BI.URL = "http://127.0.0.1:3000"
	return c
}

// keystonePace is the least time between two requests to Keystone; 0 is the client's own. Tests,
// which ask fakes, shorten it.
var keystonePace time.Duration

func (k *keystoneConfig) setDefaults() {
	k.pace = keystonePace
	k.BaseURL = "https://api.activeiq.netapp.com"
	k.Schedules = schedulesConfig{
		Customers:     schedule.Must("37 2 * * *"),
		History:       schedule.Must("37 2 * * *"),
		Subscriptions: schedule.Must("37 2,8,14,20 * * *"),
		Current:       schedule.Must("37 2,8,14,20 * * *"),
	}
	k.History.Reread = span(125 * day)
	k.History.Settle = span(2 * time.Hour)
}

// wolkvoxSpacing is the least time between two readings of one wolkvox product; 0 is the client's own.
// Tests, which ask fakes, have none.
var wolkvoxSpacing time.Duration

// wolkvoxClock is the clock of the pace; nil is the database's. Tests in which days pass put another.
var wolkvoxClock func() time.Time

func (w *wolkvoxConfig) setDefaults() {
	w.spacing, w.clock = wolkvoxSpacing, wolkvoxClock
	w.Schedule = schedule.Must("*/30 * * * *")
	w.Timezone = "America/Bogota"
}

// need says what a command cannot do without. What is configured is checked for form in any case.
type need struct {
	database bool
	vendors  bool // accounts with everything it takes to call them
	bi       bool // a Metabase, and a login there
}

// configFileName is looked for in the working directory when no file is named.
const configFileName = "meterhouse.yaml"

// loadConfig reads the file, then the environment, and reports every problem at once, in the order
// of the file, as a usage error. The config is returned beside an error as far as it could be read,
// for config show.
func (a *app) loadConfig(n need) (*config, error) {
	c, used, problems, err := a.readConfig()
	if err != nil { // what follows from it is no news
		return c, usagef("config: %w: want a YAML file, such as `meterhouse init` writes", err)
	}
	a.warnOfVariables(used)
	problems = append(problems, c.validate(n, a.now())...)
	if len(problems) > 0 {
		slices.SortStableFunc(problems, inOrderOfFile)
		return c, &exitError{exitUsage, fmt.Errorf("config: %w", errors.Join(problems...))}
	}
	return c, nil
}

// readConfig reads the file and the environment without a judgement of the whole. used are the
// variables that may be meant for us; err means that the file could not be read at all.
func (a *app) readConfig() (c *config, used []string, problems []error, err error) {
	c, used = newConfig(), environmentNames()
	name, named := a.configName()
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !named {
		err = nil
	} else if err == nil {
		c.hasFile = true
		problems, err = c.readYAML(name, text, func(variable string) string {
			used = append(used, variable)
			return a.getenv(variable)
		})
	}
	if err != nil {
		return c, used, nil, err
	}
	for _, wrong := range c.readEnvironment(a.getenv) {
		// The file may name the very variable, as the one of init does.
		if !slices.ContainsFunc(problems, func(told error) bool { return strings.HasSuffix(told.Error(), ": "+wrong.Error()) }) {
			problems = append(problems, wrong)
		}
	}
	return c, used, problems, nil
}

// configName is the file to read; named tells that somebody wants just that one.
func (a *app) configName() (name string, named bool) {
	if name := or(a.configFile, a.getenv("METERHOUSE_CONFIG")); name != "" {
		return name, true
	}
	return configFileName, false
}

// warnOfVariables names variables that look like ours and that nobody reads.
func (a *app) warnOfVariables(used []string) {
	for _, name := range slices.Sorted(maps.Keys(a.env)) {
		if strings.HasPrefix(name, environmentPrefix) && !slices.Contains(used, name) {
			a.log.Warn("unknown variable " + name + nearest(name, environmentNames()) + " is not used")
		}
	}
}

// source is where a value is from; the zero value is a default.
type source struct {
	file         string
	line, column int
	variables    []string // ${NAME} in the file's text, or the METERHOUSE_… variable that wins over it
}

// String is for people who look where to change a value.
func (s source) String() string {
	switch {
	case s.file == "" && len(s.variables) == 0:
		return "default"
	case s.file == "":
		return "env " + s.variables[0]
	case len(s.variables) == 0:
		return fmt.Sprintf("%s:%d", s.file, s.line)
	}
	return fmt.Sprintf("%s:%d, env %s", s.file, s.line, strings.Join(s.variables, ", "))
}

// place is what a message about the value starts with, in the form that editors jump to.
func (s source) place() string {
	switch {
	case s.file != "":
		return fmt.Sprintf("%s:%d:%d: ", s.file, s.line, s.column)
	case len(s.variables) > 0:
		return s.variables[0] + ": "
	}
	return ""
}

// nearestSource is where the value at path is from or, where nobody gave one, what it would be part of.
func (c *config) nearestSource(path string) source {
	for path != "" {
		if s, ok := c.sources[path]; ok {
			return s
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return source{}
}

// problem is what is wrong with the configuration, and where.
type problem struct {
	at  source
	err error
}

func (p problem) Error() string { return p.at.place() + p.err.Error() }
func (p problem) Unwrap() error { return p.err }

// inOrderOfFile puts what has no place in the file last.
func inOrderOfFile(a, b error) int {
	rank := func(err error) (int, int) {
		var p problem
		if !errors.As(err, &p) || p.at.file == "" {
			return math.MaxInt, 0
		}
		return p.at.line, p.at.column
	}
	lineA, columnA := rank(a)
	lineB, columnB := rank(b)
	return cmp.Or(cmp.Compare(lineA, lineB), cmp.Compare(columnA, columnB))
}

// parallel is how many scopes are loaded at once.
func (c *config) parallel() int { return cmp.Or(c.Parallel, runtime.GOMAXPROCS(0)) }

// connections is how many a process takes at most: two for each load, and some for leases, tokens, the
// queue and whoever asks.
func (c *config) connections() int { return max(12, 2*c.parallel()+8) }

// isLocal tells that the database is a private Postgres of this user.
func (c *config) isLocal() bool { return c.Database.URL.text() == localDatabase }

const localDatabase = "local"

// stateHome is the folder where this user's programs keep what must survive. Postgres cannot run
// as root and the user it runs as cannot pass root's home, so root has another place.
func stateHome(getenv func(string) string) (string, error) {
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "meterhouse"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/meterhouse", nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", usagef("HOME is empty: want it, or XDG_STATE_HOME, to know where to keep the private Postgres")
	}
	return filepath.Join(home, ".local", "state", "meterhouse"), nil
}

// secretFromFile reads what a variable NAME_FILE points to. Editors and `echo` end a file with a
// newline that is not part of the secret.
func secretFromFile(variable, name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: %s is not a plain file", variable, name)
	}
	if mode := info.Mode().Perm(); isOpen(name, mode) {
		return "", fmt.Errorf("%s: %s has mode %04o, others can get at it: want 0600 (chmod 600), or in a container a mount below /run/secrets", variable, name, mode)
	}
	const most = 64 << 10
	if info.Size() > most {
		return "", fmt.Errorf("%s: %s has %d bytes, want at most %d", variable, name, info.Size(), most)
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%s: %w: it has mode %04o, want it readable by user %d", variable, err, info.Mode().Perm(), os.Geteuid())
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// mountedSecrets is where containers get their secrets. Swarm mounts them with mode 0444, Kubernetes
// with 0644, Compose with whatever they have on the host; nobody else is in the container.
const mountedSecrets = "/run/secrets/"

// isOpen tells that others on this machine can get at a file of this name and mode. A group may
// read: that is how systemd and Kubernetes hand secrets to the user of a service.
func isOpen(name string, mode fs.FileMode) bool {
	return mode&0o027 != 0 && !strings.HasPrefix(filepath.Clean(name), mountedSecrets)
}
