package main

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
	"meterhouse/etl/console"
	"meterhouse/etl/keystone"
	"meterhouse/etl/wolkvox"
)

// checker collects what is wrong with a config.
type checker struct {
	cfg      *config
	problems []error
}

// report adds a problem of the value at path, unless the value could not be read in the first place.
func (c *checker) report(path, separator, format string, args ...any) {
	if c.cfg.unread[path] {
		return
	}
	err := fmt.Errorf("%s%s%w", path, separator, fmt.Errorf(format, args...))
	c.problems = append(c.problems, problem{c.cfg.nearestSource(path), err})
}

// bad reports a value by its path.
func (c *checker) bad(path, format string, args ...any) { c.report(path, ": ", format, args...) }

// empty reports a value that is needed and not there, and why when a variable is to blame.
func (c *checker) empty(path, want string) {
	if names := c.cfg.unset[path]; len(names) > 0 {
		c.report(path, " ", "is empty because %s is not set: want %s", strings.Join(names, ", "), want)
		return
	}
	c.report(path, " ", "is empty: want %s", want)
}

// validate returns everything that is wrong. It asks nobody: no database, no vendor.
func (c *config) validate(n need, now time.Time) []error {
	check := &checker{cfg: c}
	check.database(n)
	check.http()
	check.secretsKey(n)
	if n.vendors && len(c.Keystone)+len(c.Wolkvox) == 0 {
		check.problems = append(check.problems, errors.New("no account is configured: want one under keystone or wolkvox; `meterhouse init` writes a file with both"))
	}
	check.keystone(now)
	check.wolkvox(n)
	check.rest()
	check.bi(n)
	return check.problems
}

func (c *checker) database(n need) {
	switch url := c.cfg.Database.URL.text(); {
	case url == "" && n.database:
		want := "postgres://user:password@host/database, or local for a private Postgres (METERHOUSE_DATABASE_URL)"
		if !c.cfg.hasFile {
			want += "; there is no configuration file: `meterhouse init` writes one"
		}
		c.empty("database.url", want)
	case url != "" && url != localDatabase:
		c.postgresURL("database.url", url)
	}
	if url := c.cfg.Database.DirectURL.text(); url != "" {
		c.postgresURL("database.direct_url", url)
	}
}

func (c *checker) postgresURL(path, text string) {
	if err := checkPostgresURL(text); err != nil {
		c.bad(path, "%w", err)
	}
}

// checkPostgresURL refuses what no connection comes of. A password that ends at its own @ or / would be tried as
// host or database: names that messages, logs and name servers get to see.
func checkPostgresURL(text string) error {
	scheme, rest, _ := strings.Cut(text, "://")
	server, database, _ := strings.Cut(rest, "/")
	database, _, _ = strings.Cut(database, "?")
	user, host, _ := strings.Cut(server, "@")
	switch {
	case strings.TrimSpace(text) != text:
		return errors.New("begins or ends with a blank or line break: want postgres://user:password@host/database alone")
	case scheme != "postgres" && scheme != "postgresql" || rest == "":
		return errors.New("want postgres://user:password@host/database")
	case strings.Contains(host, "@"), user == server && strings.Contains(database, "@"):
		return errors.New("more than one @, or a / before it: want postgres://user:password@host/database, and in user and password @ as %40, / as %2F, % as %25")
	}
	_, err := pgx.ParseConfig(text) // its message hides the password
	return err
}

func (c *checker) http() {
	h := c.cfg.HTTP
	if text := h.Proxy.text(); text != "" {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
			c.bad("http.proxy", "want http://host:port, https://host:port or socks5://host:port")
		}
	}
	if h.CAFile != "" {
		text, err := os.ReadFile(h.CAFile)
		if err != nil {
			c.bad("http.ca_file", "%w", err)
		} else if block, _ := pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			c.bad("http.ca_file", "%s holds no certificate: want PEM", h.CAFile)
		}
	}
	if t := time.Duration(h.Timeout); t < time.Second || t > time.Hour {
		c.bad("http.timeout", "%s: want 1s to 1h", h.Timeout)
	}
	if h.MaxBody < 1<<10 || h.MaxBody > 16<<30 {
		c.bad("http.max_body", "%s: want 1KiB to 16GiB", h.MaxBody)
	}
}

const makeKey = "32 bytes in base64, made once with `openssl rand -base64 32` and kept"

func (c *checker) secretsKey(n need) {
	text := c.cfg.SecretsKey.text()
	if text == "" && len(c.cfg.Keystone) > 0 && n.vendors {
		c.empty("secrets_key", makeKey)
	}
	c.key("secrets_key", c.cfg.SecretsKey)
	c.key("former_secrets_key", c.cfg.FormerKey)
	if former := c.cfg.formerKey(); len(former) > 0 && bytes.Equal(former, c.cfg.secretsKey()) {
		c.bad("former_secrets_key", "is the same as secrets_key: want the one before, or none")
	}
}

func (c *checker) key(path string, text secret) {
	switch key := keyBytes(text); {
	case text.text() != "" && key == nil:
		c.bad(path, "is not base64: want %s", makeKey)
	case text.text() != "" && len(key) != keystone.SecretsKeySize:
		c.bad(path, "holds %s in base64: want %s", count(len(key), "byte"), makeKey)
	}
}

// secretsKey and formerKey are the keys in bytes; nil when there is none or it is not base64.
func (c *config) secretsKey() []byte { return keyBytes(c.SecretsKey) }
func (c *config) formerKey() []byte  { return keyBytes(c.FormerKey) }

func keyBytes(text secret) []byte {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text.text()))
	if err != nil || len(key) == 0 {
		return nil
	}
	return key
}

// tokenSpool is the folder of the answers to token exchanges; empty for none.
func (c *config) tokenSpool() string {
	if c.StateDir == "" || len(c.Keystone) == 0 {
		return ""
	}
	return filepath.Join(c.StateDir, "tokens")
}

var accountName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (c *checker) account(path, name string, taken map[string]string) {
	switch {
	case name == "":
		c.empty(path, "a name of your own for this account")
	case !accountName.MatchString(name):
		c.bad(path, "%q: want letters, digits, dots, dashes and underscores, at most 63", name)
	case taken[name] != "":
		c.bad(path, "%q is taken by %s: want another name", name, taken[name])
	default:
		taken[name] = path
	}
}

func (c *checker) keystone(now time.Time) {
	taken, owner, tokens := map[string]string{}, map[string]string{}, map[string]string{}
	for i, k := range c.cfg.Keystone {
		path := fmt.Sprintf("keystone[%d]", i)
		c.account(path+".account", k.Account, taken)
		c.baseURL(path+".base_url", k.BaseURL)
		if text := k.RefreshToken.text(); text != "" {
			_, err := keystone.NewToken(text)
			switch {
			case err != nil:
				c.bad(path+".refresh_token", "%w", err)
			case tokens[text] != "":
				c.bad(path+".refresh_token", "is the token of %s too and works only once: want a login of its own", tokens[text])
			default:
				tokens[text] = path
			}
		}
		for j, id := range k.Customers {
			at := fmt.Sprintf("%s.customers[%d]", path, j)
			switch {
			case strings.TrimSpace(id) == "" || strings.TrimSpace(id) != id:
				c.bad(at, "%q: want a customer id", id)
			case owner[id] != "":
				c.bad(at, "customer %q is listed by %s too: want it once", id, owner[id])
			default:
				owner[id] = at
			}
		}
		h := k.History
		switch earliest := etl.DayOf(time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)); {
		case !h.Start.known:
			c.empty(path+".history.start", "the first day to load, such as "+etl.DayOf(now.UTC()).Month().String())
		case h.Start.day < earliest:
			c.bad(path+".history.start", "%s: want %s or later", h.Start, earliest)
		case h.Start.day > etl.DayOf(now.UTC()):
			c.bad(path+".history.start", "%s is in the future: want today (%s) or earlier", h.Start, etl.DayOf(now.UTC()))
		}
		if r := time.Duration(h.Reread); r%day != 0 || r > 3660*day {
			c.bad(path+".history.reread", "%s: want whole days, 0d to 3660d", h.Reread)
		}
		if s := time.Duration(h.Settle); s > 30*day {
			c.bad(path+".history.settle", "%s: want at most 30d", h.Settle)
		}
	}
}

var (
	serverName  = regexp.MustCompile(`^[0-9a-z][0-9a-z-]{0,31}$`)
	productName = regexp.MustCompile(`^[0-9a-z_]{1,64}$`)
)

func (c *checker) wolkvox(n need) {
	taken, owner := map[string]string{}, map[string]string{}
	for i, w := range c.cfg.Wolkvox {
		path := fmt.Sprintf("wolkvox[%d]", i)
		c.account(path+".account", w.Account, taken)
		// The name becomes part of a host that is sent the token.
		switch {
		case w.Server == "" && w.BaseURL == "":
			c.empty(path+".server", "the number of the server, such as \"0039\" for wv0039.wolkvox.com")
		case w.Server != "" && !serverName.MatchString(w.Server):
			c.bad(path+".server", "%q: want digits, small letters and dashes, no dash first, such as \"0039\"", w.Server)
		}
		if w.BaseURL != "" {
			c.baseURL(path+".base_url", w.BaseURL)
		}
		if text := w.Token.text(); text != "" {
			if _, err := wolkvox.New(wolkvox.Config{Account: w.Account, Server: "0", Token: wolkvox.Token(text)}); err != nil {
				c.bad(path+".token", "%w", err)
			}
			if other := owner[text]; other != "" {
				c.bad(path+".token", "is that of %s: one token must not be used by two accounts at once", other)
			}
			owner[text] = path
		} else if n.vendors {
			c.empty(path+".token", "the wolkvox-token of the operation")
		}
		switch _, err := time.LoadLocation(w.Timezone); {
		case w.Timezone == "":
			c.empty(path+".timezone", "the zone of the operation by name, such as America/Bogota")
		case err != nil || w.Timezone == "Local":
			c.bad(path+".timezone", "%q: want the zone of the operation by name, such as America/Bogota", w.Timezone)
		}
		// The vendor may have more products than our catalogue; check warns of strangers.
		for j, code := range w.Products {
			at := fmt.Sprintf("%s.products[%d]", path, j)
			if !productName.MatchString(code) {
				c.bad(at, "%q: want the vendor's name of a report, such as ivr_minutes", code)
			} else if first := slices.Index(w.Products, code); first < j {
				c.bad(at, "%q is listed by %s.products[%d] too: want it once", code, path, first)
			}
		}
	}
}

// baseURL demands encryption unless the vendor is on this machine.
func (c *checker) baseURL(path, text string) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		c.empty(path, "https://host")
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		c.bad(path, "not a URL: want https://host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		c.bad(path, "%s: want scheme, host and path only", u.Redacted())
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
	default:
		c.bad(path, "%s: want https, or http to this machine (127.0.0.1)", u.Redacted())
	}
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// user refuses a password as somebody types it: whoever reads the file would have it.
func (c *checker) user(path, name string, user userConfig) {
	if name == "" {
		c.bad(path, "a user without a name")
	}
	switch hash := user.Password.text(); {
	case hash == "":
		c.empty(path+".password", makeHash)
	default:
		if err := console.CheckHash(hash); err != nil {
			c.report(path+".password", " ", "%w: want %s", err, makeHash)
		}
	}
	if _, err := console.ParseRole(user.Role); err != nil {
		c.bad(path+".role", "%w", err)
	}
}

const makeHash = "the line that `meterhouse config password` prints for the password"

// maxParallel is far beyond what vendors and one Postgres take.
const maxParallel = 256

func (c *checker) bi(n need) {
	b := c.cfg.BI
	if u, err := url.Parse(b.URL); err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		c.bad("bi.url", "want https://host or http://host:port, without a login in it")
	}
	text := b.DatabaseURL.text()
	if text != "" {
		c.postgresURL("bi.database_url", text)
		if u, err := url.Parse(text); err == nil && (u.User.Username() == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") == "") {
			c.bad("bi.database_url", "want a login, a host and a database in it: postgres://login:password@host/database")
		}
	}
	if !n.bi {
		return
	}
	if text == "" {
		c.empty("bi.database_url", "postgres://login:password@host/database, as Metabase reaches it (METERHOUSE_BI_DATABASE_URL)")
	}
	if b.APIKey.text() == "" {
		if b.Email == "" {
			c.empty("bi.email", "the login of an administrator of Metabase (METERHOUSE_BI_EMAIL), or bi.api_key")
		}
		if b.Password.text() == "" {
			c.empty("bi.password", "the administrator's (METERHOUSE_BI_PASSWORD)")
		}
	}
}

func (c *checker) rest() {
	cfg := c.cfg
	if cfg.Parallel < 0 || cfg.Parallel > maxParallel {
		c.bad("parallel", "%d: want 0 (as many as cores) to %d", cfg.Parallel, maxParallel)
	}
	if dir := cfg.StateDir; dir != "" && !filepath.IsAbs(dir) {
		c.bad("state_dir", "%q: want a path from the root, or two programs started in different folders would keep two", dir)
	}
	host, _, err := net.SplitHostPort(cfg.Console.Listen)
	switch {
	case cfg.Console.Listen == "":
	case err != nil:
		c.bad("console.listen", "%q: want host:port", cfg.Console.Listen)
	case !isLoopback(host) && len(cfg.Console.Users) == 0:
		c.bad("console.listen", "%q is open to other machines: want users set, or 127.0.0.1", cfg.Console.Listen)
	}
	if text := cfg.Console.URL; text != "" {
		if u, err := url.Parse(text); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
			c.bad("console.url", "want https://host, or nothing where TLS is not spoken")
		} else if len(cfg.Console.Users) == 0 {
			c.bad("console.url", "opens the console to other machines: want users set, or no url")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Console.Users)) {
		c.user("console.users."+name, name, cfg.Console.Users[name])
	}
	for path, hook := range map[string]secret{"alerts.webhook": cfg.Alerts.Webhook, "alerts.heartbeat": cfg.Alerts.Heartbeat} {
		if text := hook.text(); text != "" {
			if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
				c.bad(path, "want https://host/…, or http to this machine")
			}
		}
	}
	if p := cfg.Retention.Payload; p != 0 && p < span(day) {
		c.bad("retention.payload", "%s: want 0d (keep), or at least 1d", p)
	}
	// Samples younger than that are still compared with what the vendor says.
	least := span(62 * day)
	for _, k := range cfg.Keystone {
		least = max(least, k.History.Reread+span(62*day))
	}
	if s := cfg.Retention.Samples; s != 0 && s < least {
		c.bad("retention.samples", "%s: want 0d (keep), or at least %s (reread plus 62d)", s, least)
	}
}
