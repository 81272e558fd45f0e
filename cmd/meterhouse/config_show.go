package main

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/token"
	"github.com/spf13/cobra"
)

func (a *app) configCommand() *cobra.Command {
	cmd := group("config", "Show the configuration in force, or the JSON Schema of the file", "show")
	cmd.AddCommand(a.configShowCommand(), &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file, for editors and pipelines",
		Long: `Prints the JSON Schema (draft 2020-12) of the file. Editors with a YAML language server check and
complete a file that begins with
  # yaml-language-server: $schema=meterhouse.schema.json`,
		Example: "  meterhouse config schema > meterhouse.schema.json",
		Args:    noArguments,
		RunE:    func(*cobra.Command, []string) error { return printJSON(a.stdout, configSchema()) },
	})
	return cmd
}

func (a *app) configShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in force, with the source of each value and secrets masked",
		Long: `Prints the configuration as YAML: the file (--config, METERHOUSE_CONFIG or ./meterhouse.yaml),
overridden by METERHOUSE_… variables. Each value has its source as a comment: default, env NAME, or
FILE:LINE with the variables that it names. Secrets are masked.
Problems follow on stderr, with exit code 2.`,
		Example: "  meterhouse config show\n  METERHOUSE_PARALLEL=4 meterhouse --config prod.yaml config show",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.loadConfig(need{database: true, vendors: true})
			cfg.show(a.stdout)
			return err
		},
	}
}

// show writes the config as YAML with the source of each value.
func (c *config) show(w io.Writer) {
	for i := range reflect.TypeFor[config]().NumField() {
		if key := reflect.TypeFor[config]().Field(i).Tag.Get("yaml"); key != "" {
			c.showValue(w, key+":", key, reflect.ValueOf(c).Elem().Field(i), "")
		}
	}
}

func (c *config) showValue(w io.Writer, head, path string, v reflect.Value, indent string) {
	line := func(value string) { fmt.Fprintf(w, "%s%s %s  # %s\n", indent, head, value, c.sources[path]) }
	deeper := strings.ReplaceAll(indent, "- ", "  ") + "  "
	switch {
	case isLeaf(v.Type()):
		line(yamlText(v))
	case v.Kind() == reflect.Struct:
		fmt.Fprintf(w, "%s%s\n", indent, head)
		c.showFields(w, path, v, deeper)
	case v.Len() == 0 && v.Kind() == reflect.Map:
		line("{}")
	case v.Len() == 0:
		line("[]")
	case v.Kind() == reflect.Map:
		fmt.Fprintf(w, "%s%s\n", indent, head)
		entries := v.Interface().(map[string]secret)
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			c.showValue(w, name+":", join(path, name), v.MapIndex(reflect.ValueOf(name)), deeper)
		}
	default:
		fmt.Fprintf(w, "%s%s\n", indent, head)
		for i := range v.Len() {
			item := fmt.Sprintf("%s[%d]", path, i)
			if isLeaf(v.Type().Elem()) {
				c.showValue(w, "-", item, v.Index(i), deeper)
			} else {
				c.showFields(w, item, v.Index(i), deeper+"- ")
			}
		}
	}
}

func (c *config) showFields(w io.Writer, path string, v reflect.Value, indent string) {
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); key != "" {
			c.showValue(w, key+":", join(path, key), v.Field(i), indent)
			indent = strings.ReplaceAll(indent, "- ", "  ")
		}
	}
}

func yamlText(v reflect.Value) string {
	text := fmt.Sprint(v.Interface())
	if v.Kind() != reflect.Int && (text == "" || token.IsNeedQuoted(text) || strings.Trim(text, "0123456789.+-_eExX") == "") {
		return fmt.Sprintf("%q", text)
	}
	return text
}
