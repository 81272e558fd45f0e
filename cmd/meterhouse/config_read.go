package main

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// yamlReader fills a config from a syntax tree. Walking the tree instead of decoding it finds
// every problem with its place, and keeps scalars as they are written: a customer id 0042117 stays
// one, without quotes too.
type yamlReader struct {
	file     string
	cfg      *config
	getenv   func(string) string
	problems []error
}

// readYAML takes over what the file says and returns every problem with line and column; the error
// means that nothing could be read. The messages never quote values that may be secret.
func (c *config) readYAML(file string, text []byte, getenv func(string) string) (problems []error, err error) {
	return c.readYAMLInto(c, file, text, getenv)
}

// readYAMLInto is readYAML for another kind of file: to is a pointer to a struct like those of config. The
// places of its values are kept in sources.
func (c *config) readYAMLInto(to any, file string, text []byte, getenv func(string) string) (problems []error, err error) {
	r := &yamlReader{file: file, cfg: c, getenv: getenv}
	tree, err := parser.ParseBytes(bytes.TrimPrefix(text, []byte("\ufeff")), 0)
	if err != nil {
		var located yaml.Error
		if errors.As(err, &located) && located.GetToken() != nil {
			p := located.GetToken().Position
			return nil, fmt.Errorf("%s:%d:%d: %s", file, p.Line, p.Column, located.GetMessage())
		}
		return nil, fmt.Errorf("%s: not YAML", file) // the error may quote the source
	}
	bodies := 0
	for _, doc := range tree.Docs {
		if doc.Body == nil {
			continue
		}
		if bodies++; bodies > 1 {
			r.problem(doc.Body, "a second document: want one")
			break
		}
		if _, ok := doc.Body.(ast.MapNode); !ok && doc.Body.Type() != ast.NullType {
			return nil, fmt.Errorf("%sno keys and values", r.at(doc.Body).place())
		}
		r.read(doc.Body, reflect.ValueOf(to).Elem(), "")
	}
	return r.problems, nil
}

func (r *yamlReader) problem(n ast.Node, format string, args ...any) {
	r.problems = append(r.problems, problem{r.at(n), fmt.Errorf(format, args...)})
}

func (r *yamlReader) at(n ast.Node) source {
	p := n.GetToken().Position
	return source{file: r.file, line: p.Line, column: p.Column}
}

func (r *yamlReader) read(n ast.Node, v reflect.Value, path string) {
	if n == nil || n.Type() == ast.NullType {
		return // a key without a value keeps its default
	}
	if path != "" {
		r.cfg.sources[path] = r.at(n)
	}
	switch {
	case isLeaf(v.Type()):
		r.readScalar(n, v, path)
	case v.Kind() == reflect.Struct:
		if field, key, ok := fieldAlone(v); ok {
			if _, plain := scalar(n); plain {
				r.read(n, field, join(path, key))
				return
			}
		}
		r.readMapping(n, path, func(key ast.Node, name string, value ast.Node) {
			field, known := fieldNamed(v, name)
			if !known {
				names := keysOf(v.Type())
				r.problem(key, "unknown key %q%s: want %s", name, nearest(name, names), strings.Join(names, ", "))
				return
			}
			r.read(value, field, join(path, name))
		})
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		r.readMapping(n, path, func(_ ast.Node, name string, value ast.Node) {
			entry := reflect.New(v.Type().Elem()).Elem()
			if d, ok := entry.Addr().Interface().(interface{ setDefaults() }); ok {
				d.setDefaults()
			}
			r.read(value, entry, join(path, name))
			v.SetMapIndex(reflect.ValueOf(name), entry)
		})
	case v.Kind() == reflect.Slice:
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			r.problem(n, "%s: want a list", path)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values)))
		for i, item := range list.Values {
			if d, ok := v.Index(i).Addr().Interface().(interface{ setDefaults() }); ok {
				d.setDefaults()
			}
			r.read(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	}
}

func (r *yamlReader) readMapping(n ast.Node, path string, entry func(key ast.Node, name string, value ast.Node)) {
	mapping, ok := n.(ast.MapNode)
	if !ok {
		r.problem(n, "%s: want keys and values", path)
		return
	}
	for it := mapping.MapRange(); it.Next(); {
		name, plain := scalar(it.Key())
		if !plain {
			r.problem(it.Key(), "want a plain key")
			continue
		}
		entry(it.Key(), name, it.Value())
	}
}

func (r *yamlReader) readScalar(n ast.Node, v reflect.Value, path string) {
	text, ok := scalar(n)
	if !ok {
		r.unread(n, path, errors.New("want a single value"))
		return
	}
	_, isSecret := v.Addr().Interface().(interface{ text() string })
	text, err := r.expand(text, path, isSecret)
	if err == nil && text == "" && len(r.cfg.unset[path]) > 0 {
		return // validate says which variable is missing, if the value is needed
	}
	if err == nil {
		err = setText(v, text)
	}
	if err != nil {
		r.unread(n, path, err)
	}
}

func (r *yamlReader) unread(n ast.Node, path string, err error) {
	r.cfg.unread[path] = true
	r.problem(n, "%s: %w", path, err)
}

// scalar is a value as it is written, without quotes.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

var variable = regexp.MustCompile(`\$?\$\{([^}]*)\}?`)

// expand replaces ${NAME} by the variable; $${ stands for ${ itself. In a secret, NAME_FILE may
// name a file that holds the value. Expansion comes after parsing, so a value cannot add keys.
func (r *yamlReader) expand(text, path string, isSecret bool) (string, error) {
	var problems []error
	from := r.cfg.sources[path]
	expanded := variable.ReplaceAllStringFunc(text, func(found string) string {
		if strings.HasPrefix(found, "$${") {
			return found[1:]
		}
		name, closed := strings.CutSuffix(found[len("${"):], "}")
		if !closed || !variableName.MatchString(name) {
			problems = append(problems, errors.New("${ without a variable's name and }: want ${NAME}, or $${ for a plain ${"))
			return ""
		}
		value := r.getenv(name)
		if file := name + "_FILE"; isSecret && r.getenv(file) != "" {
			var err error
			if value != "" {
				err = fmt.Errorf("%s and %s are both set: want one", name, file)
			} else if value, err = secretFromFile(file, r.getenv(file)); err == nil && value == "" {
				err = fmt.Errorf("%s: %s is empty", file, r.getenv(file))
			}
			if err != nil {
				problems = append(problems, err)
			}
			name = file
		}
		if value == "" {
			r.cfg.unset[path] = append(r.cfg.unset[path], name)
			return ""
		}
		from.variables = append(from.variables, name)
		return value
	})
	r.cfg.sources[path] = from
	return expanded, errors.Join(problems...)
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment lists the variables that override the file. A path names the value they set; with
// content "file" the variable names a file that holds it.
type environment struct {
	DatabaseURL           string `env:"DATABASE_URL" path:"database.url"`
	DatabaseURLFile       string `env:"DATABASE_URL_FILE" content:"file" path:"database.url"`
	DatabaseDirectURL     string `env:"DATABASE_DIRECT_URL" path:"database.direct_url"`
	DatabaseDirectURLFile string `env:"DATABASE_DIRECT_URL_FILE" content:"file" path:"database.direct_url"`
	StateDir              string `env:"STATE_DIR" path:"state_dir"`
	SecretsKey            string `env:"SECRETS_KEY" path:"secrets_key"`
	SecretsKeyFile        string `env:"SECRETS_KEY_FILE" content:"file" path:"secrets_key"`
	FormerSecretsKey      string `env:"FORMER_SECRETS_KEY" path:"former_secrets_key"`
	FormerSecretsKeyFile  string `env:"FORMER_SECRETS_KEY_FILE" content:"file" path:"former_secrets_key"`
	Parallel              string `env:"PARALLEL" path:"parallel"`
	HTTPProxy             string `env:"HTTP_PROXY" path:"http.proxy"`
	HTTPProxyFile         string `env:"HTTP_PROXY_FILE" content:"file" path:"http.proxy"`
	HTTPCAFile            string `env:"HTTP_CA_FILE" path:"http.ca_file"`
	HTTPTimeout           string `env:"HTTP_TIMEOUT" path:"http.timeout"`
	HTTPMaxBody           string `env:"HTTP_MAX_BODY" path:"http.max_body"`
	ConsoleListen         string `env:"CONSOLE_LISTEN" path:"console.listen"`
	AlertsWebhook         string `env:"ALERTS_WEBHOOK" path:"alerts.webhook"`
	AlertsWebhookFile     string `env:"ALERTS_WEBHOOK_FILE" content:"file" path:"alerts.webhook"`
	AlertsCommand         string `env:"ALERTS_COMMAND" path:"alerts.command"`
	AlertsHeartbeat       string `env:"ALERTS_HEARTBEAT" path:"alerts.heartbeat"`
	AlertsHeartbeatFile   string `env:"ALERTS_HEARTBEAT_FILE" content:"file" path:"alerts.heartbeat"`
	RetentionPayload      string `env:"RETENTION_PAYLOAD" path:"retention.payload"`
	RetentionSamples      string `env:"RETENTION_SAMPLES" path:"retention.samples"`
	BIURL                 string `env:"BI_URL" path:"bi.url"`
	BIEmail               string `env:"BI_EMAIL" path:"bi.email"`
	BIPassword            string `env:"BI_PASSWORD" path:"bi.password"`
	BIPasswordFile        string `env:"BI_PASSWORD_FILE" content:"file" path:"bi.password"`
	BIAPIKey              string `env:"BI_API_KEY" path:"bi.api_key"`
	BIAPIKeyFile          string `env:"BI_API_KEY_FILE" content:"file" path:"bi.api_key"`
	BIDatabaseURL         string `env:"BI_DATABASE_URL" path:"bi.database_url"`
	BIDatabaseURLFile     string `env:"BI_DATABASE_URL_FILE" content:"file" path:"bi.database_url"`
}

const environmentPrefix = "METERHOUSE_"

// environmentNames are the variables that are read whatever the file says.
func environmentNames() []string {
	names := []string{environmentPrefix + "CONFIG", environmentPrefix + "POSTGRES_REPOSITORY"}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[environment]()) {
		names = append(names, environmentPrefix+field.Tag.Get("env"))
	}
	return names
}

// variablesOf are the variables that set the value at path.
func variablesOf(path string) (names []string) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[environment]()) {
		if field.Tag.Get("path") == path {
			names = append(names, environmentPrefix+field.Tag.Get("env"))
		}
	}
	return names
}

// readEnvironment takes over METERHOUSE_… variables, which win over the file.
func (c *config) readEnvironment(getenv func(string) string) (problems []error) {
	var set environment
	options := env.Options{Prefix: environmentPrefix, Environment: map[string]string{}}
	params, err := env.GetFieldParamsWithOptions(&set, options)
	if err != nil {
		panic(err) // our own tags
	}
	for _, p := range params {
		options.Environment[p.Key] = getenv(p.Key)
	}
	if err := env.ParseWithOptions(&set, options); err != nil {
		panic(err) // texts only
	}
	values := reflect.ValueOf(set)
	from := map[string]string{} // path → variable that set it
	for i := range values.NumField() {
		tags, text := values.Type().Field(i).Tag, values.Field(i).String()
		name, path := environmentPrefix+tags.Get("env"), tags.Get("path")
		if text == "" {
			continue
		}
		if other, twice := from[path]; twice {
			problems = append(problems, fmt.Errorf("%s and %s are both set: want one", other, name))
			continue
		}
		from[path] = name
		if tags.Get("content") == "file" {
			if text, err = secretFromFile(name, text); err != nil {
				c.unread[path] = true
				problems = append(problems, err)
				continue
			}
		}
		field := reflect.ValueOf(c).Elem()
		for _, key := range strings.Split(path, ".") {
			field, _ = fieldNamed(field, key)
		}
		if err := setText(field, text); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
		c.sources[path] = source{variables: []string{name}}
		delete(c.unread, path)
		delete(c.unset, path)
	}
	return problems
}

// keysOf lists the yaml keys of a struct in order.
func keysOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

func fieldNamed(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// fieldAlone is the field of a struct that may stand for all of it.
func fieldAlone(v reflect.Value) (field reflect.Value, key string, ok bool) {
	for i := range v.NumField() {
		if tags := v.Type().Field(i).Tag; tags.Get("alone") == "true" {
			return v.Field(i), tags.Get("yaml"), true
		}
	}
	return reflect.Value{}, "", false
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// nearest is a hint at the name that was probably meant; empty when none is like it, or there are none.
func nearest(got string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	best := slices.MinFunc(names, func(a, b string) int { return distance(got, a) - distance(got, b) })
	if distance(got, best) > max(2, len(got)/3) {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance counts the letters to insert, remove or replace to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous
			if a[i] != b[j] {
				cost = 1 + min(previous, row[j], row[j+1])
			}
			previous, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
