package main

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"meterhouse/etl/schedule"
)

// schema is as much of JSON Schema (draft 2020-12) as the configuration needs.
type schema struct {
	Draft       string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        []string           `json:"type"` // null: a key without a value keeps its default
	Pattern     string             `json:"pattern,omitempty"`
	Minimum     *int               `json:"minimum,omitempty"`
	Maximum     *int               `json:"maximum,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Unique      bool               `json:"uniqueItems,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Additional  any                `json:"additionalProperties,omitempty"` // false, or the schema of each entry
	Default     any                `json:"default,omitempty"`
}

// configSchema describes the form of the file: keys, types and how values are spelled. It accepts
// what readYAML accepts; what values mean together is validate's.
func configSchema() *schema {
	s := schemaOf(reflect.ValueOf(sampleConfig()).Elem(), "")
	s.Draft = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "Configuration of meterhouse"
	s.Description = "Any value may hold ${NAME}: an environment variable."
	return s
}

// sampleConfig has every default, with one entry in each list.
func sampleConfig() *config {
	c := newConfig()
	c.Keystone, c.Wolkvox = make([]keystoneConfig, 1), make([]wolkvoxConfig, 1)
	c.Keystone[0].setDefaults()
	c.Wolkvox[0].setDefaults()
	return c
}

// schemaOf describes a value that holds its defaults. path is that of its keys, without indexes.
func schemaOf(v reflect.Value, path string) *schema {
	switch t := v.Type(); {
	case isLeaf(t):
		return leafSchema(v, path)
	case t.Kind() == reflect.Map:
		entry := reflect.New(t.Elem())
		if d, ok := entry.Interface().(interface{ setDefaults() }); ok {
			d.setDefaults()
		}
		return &schema{Type: []string{"object", "null"}, Additional: schemaOf(entry.Elem(), path)}
	case t.Kind() == reflect.Slice:
		entry := reflect.New(t.Elem()).Elem()
		if v.Len() > 0 {
			entry = v.Index(0)
		}
		return &schema{Type: []string{"array", "null"}, Items: demanded(schemaOf(entry, path)), Unique: isLeaf(t.Elem())}
	}
	s := &schema{Type: []string{"object", "null"}, Properties: map[string]*schema{}, Additional: false}
	for i := range v.NumField() {
		tags := v.Type().Field(i).Tag
		key := tags.Get("yaml")
		if key == "" {
			continue
		}
		p := schemaOf(v.Field(i), join(path, key))
		p.Description = docOf(tags, join(path, key))
		if tags.Get("required") == "true" {
			s.Required = append(s.Required, key)
			demanded(p)
		}
		s.Properties[key] = p
	}
	if field, key, ok := fieldAlone(v); ok {
		alone := leafSchema(field, join(path, key))
		s.Type, s.Pattern = append(s.Type, alone.Type...), alone.Pattern
		slices.Sort(s.Type)
		s.Type = slices.Compact(s.Type)
	}
	return s
}

// demanded turns the schema of a value that may be missing into that of one that may not.
func demanded(s *schema) *schema {
	s.Type = slices.DeleteFunc(s.Type, func(t string) bool { return t == "null" })
	s.Pattern = strings.Replace(s.Pattern, orEmpty, "", 1)
	return s
}

// docOf is what there is to say about a key, in sentences.
func docOf(tags reflect.StructTag, path string) string {
	doc := tags.Get("doc")
	if names := variablesOf(path); len(names) > 0 {
		doc += " " + strings.Join(names, " or ") + "."
	}
	return doc
}

// texts are the forms of values that their type does not tell. Each may be empty or hold a ${NAME}.
var texts = map[string]*regexp.Regexp{
	"database.url":           regexp.MustCompile(`^(local|postgres(ql)?://.*)$`),
	"database.direct_url":    regexp.MustCompile(`^postgres(ql)?://`),
	"http.proxy":             regexp.MustCompile(`^(https?|socks5)://`),
	"keystone.account":       accountName,
	"keystone.base_url":      regexp.MustCompile(`^https?://`),
	"wolkvox.account":        accountName,
	"wolkvox.base_url":       regexp.MustCompile(`^https?://`),
	"wolkvox.server":         serverName,
	"wolkvox.products":       productName,
	"console.listen":         regexp.MustCompile(`:`),
	"console.url":            regexp.MustCompile(`^https://`),
	"console.users.role":     regexp.MustCompile(`^(viewer|operator|closer)$`),
	"console.users.password": regexp.MustCompile(`^\$2[abxy]\$`),
	"alerts.webhook":         regexp.MustCompile(`^https?://`),
	"alerts.heartbeat":       regexp.MustCompile(`^https?://`),
}

// Spellings of the types that are read from a text. A plain 0 is as good as 0d.
const (
	spanText = `^(0|\d{1,5}d|(\d{1,5}d)?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+)$`
	sizeText = `^\d{1,18} ?(B|KiB|MiB|GiB)?$`
	dateText = `^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$`
	cronText = `^((CRON_)?TZ=\S+ +)?(@\S.*|\S+( +\S+){4})$`
)

// A ${NAME} is checked when its value is known.
const (
	orVariable = `\$\{|`
	orEmpty    = `^$|`
)

func leafSchema(v reflect.Value, path string) *schema {
	none, most := 0, maxParallel
	s := &schema{}
	if text := fmt.Sprint(v.Interface()); text != "" {
		s.Default = text
	}
	switch value := v.Interface().(type) {
	case int:
		s.Type, s.Pattern, s.Default = []string{"integer", "string", "null"}, orVariable+`^\d+$`, value
		s.Minimum, s.Maximum = &none, &most
	case span:
		s.Type, s.Pattern = []string{"string", "integer", "null"}, orVariable+spanText
		s.Minimum, s.Maximum = &none, &none
	case size:
		s.Type, s.Pattern = []string{"string", "integer", "null"}, orVariable+sizeText
		s.Minimum = &none
	case date:
		s.Type, s.Pattern = []string{"string", "null"}, orVariable+orEmpty+dateText
	case schedule.Spec:
		s.Type, s.Pattern = []string{"string", "null"}, orVariable+cronText
	default:
		form := texts[path]
		s.Type = []string{"string", "null"}
		if form == nil || form.MatchString("0") {
			s.Type = []string{"string", "number", "null"} // 0042117 is a customer, quoted or not
		}
		if form != nil {
			s.Pattern = orVariable + orEmpty + form.String()
		}
	}
	return s
}
