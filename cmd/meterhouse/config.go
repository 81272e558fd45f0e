package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// config is everything that is configured, in the order of the documentation. A yaml tag is the
// key in the file; the dotted path of keys names a value everywhere else. Defaults are in
// newConfig and in setDefaults of the list entries.
type config struct {
	Database   databaseConfig   `yaml:"database"`
	StateDir   string           `yaml:"state_dir"`
	SecretsKey secret           `yaml:"secrets_key"`
	Parallel   int              `yaml:"parallel"`
	HTTP       httpConfig       `yaml:"http"`
	Keystone   []keystoneConfig `yaml:"keystone"`
	Wolkvox    []wolkvoxConfig  `yaml:"wolkvox"`
	Console    consoleConfig    `yaml:"console"`
	Alerts     alertsConfig     `yaml:"alerts"`
	Retention  retentionConfig  `yaml:"retention"`

	sources map[string]string   // path → where its value is from; no entry: a default
	unset   map[string][]string // path → variables in its value that are not set
	unread  map[string]bool     // paths whose value was reported as unreadable
}

type databaseConfig struct {
	URL       dsn `yaml:"url"`
	DirectURL dsn `yaml:"direct_url"`
}

type httpConfig struct {
	Proxy   dsn    `yaml:"proxy"` // may hold a password
	CAFile  string `yaml:"ca_file"`
	Timeout span   `yaml:"timeout"`
	MaxBody size   `yaml:"max_body"`
}

type keystoneConfig struct {
	Account      string          `yaml:"account"`
	BaseURL      string          `yaml:"base_url"`
	RefreshToken secret          `yaml:"refresh_token"`
	Customers    []string        `yaml:"customers"`
	Schedules    schedulesConfig `yaml:"schedules"`
	History      historyConfig   `yaml:"history"`

	pace time.Duration // between requests; not a key: only our own fakes are asked faster
}

type schedulesConfig struct {
	Customers     cronSpec `yaml:"customers"`
	History       cronSpec `yaml:"history"`
	Subscriptions cronSpec `yaml:"subscriptions"`
	Current       cronSpec `yaml:"current"`
}

type historyConfig struct {
	Start  date `yaml:"start"`
	Reread span `yaml:"reread"`
	Settle span `yaml:"settle"`
}

type wolkvoxConfig struct {
	Account   string   `yaml:"account"`
	Server    string   `yaml:"server"`
	BaseURL   string   `yaml:"base_url"`
	Token     secret   `yaml:"token"`
	Operation string   `yaml:"operation"`
	Timezone  string   `yaml:"timezone"`
	Products  []string `yaml:"products"`
	Schedule  cronSpec `yaml:"schedule"`
}

type consoleConfig struct {
	Listen string            `yaml:"listen"`
	Users  map[string]secret `yaml:"users"`
}

type alertsConfig struct {
	Webhook secret `yaml:"webhook"` // most services put a key into it
	Command string `yaml:"command"`
}

type retentionConfig struct {
	Payload span `yaml:"payload"`
	Samples span `yaml:"samples"`
}

func newConfig() *config {
	c := &config{sources: map[string]string{}, unset: map[string][]string{}, unread: map[string]bool{}}
	c.HTTP.Timeout = span(time.Minute)
	c.HTTP.MaxBody = 256 << 20
	c.Console.Listen = "127.0.0.1:8080"
	return c
}

// keystonePace is the least time between two requests to Keystone; 0 is the client's own. Tests,
// which ask fakes, shorten it.
var keystonePace time.Duration

func (k *keystoneConfig) setDefaults() {
	k.pace = keystonePace
	k.BaseURL = "https://api.activeiq.netapp.com"
	k.Schedules = schedulesConfig{
		Customers:     mustCron("37 2 * * *"),
		History:       mustCron("37 2 * * *"),
		Subscriptions: mustCron("37 2,8,14,20 * * *"),
		Current:       mustCron("37 2,8,14,20 * * *"),
	}
	k.History.Reread = span(125 * day)
	k.History.Settle = span(2 * time.Hour)
}

func (w *wolkvoxConfig) setDefaults() {
	w.Schedule = mustCron("*/30 * * * *")
	w.Timezone = "America/Bogota"
}

// need says what a command cannot do without. What is configured is checked for form in any case.
type need struct {
	database bool
	vendors  bool // accounts with everything it takes to call them
}

// configFileName is looked for in the working directory when no file is named.
const configFileName = "meterhouse.yaml"

// loadConfig reads the file, then the environment, and reports every problem at once as a usage
// error. The config is returned beside an error as far as it could be read, for config show.
func (a *app) loadConfig(n need) (*config, error) {
	c := newConfig()
	var problems []error
	name, named := a.configFile, true
	if name == "" {
		name = a.getenv("METERHOUSE_CONFIG")
	}
	if name == "" {
		name, named = configFileName, false
	}
	used := environmentNames()
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !named {
		err = nil
	} else if err == nil {
		problems, err = c.readYAML(name, text, func(variable string) string {
			used = append(used, variable)
			return a.getenv(variable)
		})
	}
	if err != nil { // what follows from it is no news
		return c, usagef("config: %w: want a YAML file like the one in the README", err)
	}
	a.warnOfVariables(used)
	problems = append(problems, c.readEnvironment(a.getenv)...)
	problems = append(problems, c.validate(n, a.now())...)
	if len(problems) > 0 {
		return c, &exitError{exitUsage, fmt.Errorf("config: %w", errors.Join(problems...))}
	}
	return c, nil
}

// warnOfVariables names variables that look like ours and that nobody reads.
func (a *app) warnOfVariables(used []string) {
	for _, name := range slices.Sorted(maps.Keys(a.env)) {
		if strings.HasPrefix(name, environmentPrefix) && !slices.Contains(used, name) {
			a.log.Warn("unknown variable " + name + nearest(name, environmentNames()) + " is not used")
		}
	}
}

// source says where a value is from.
func (c *config) source(path string) string {
	if s, ok := c.sources[path]; ok {
		return s
	}
	return "default"
}

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
	// A group may read: that is how secrets are handed to a container's user.
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return "", fmt.Errorf("%s: %s has mode %04o, others can get at it: want 0600 (chmod 600)", variable, name, mode)
	}
	const most = 64 << 10
	if info.Size() > most {
		return "", fmt.Errorf("%s: %s has %d bytes, want at most %d", variable, name, info.Size(), most)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
