package main

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/token"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"meterhouse/etl/console"
)

func (a *app) configCommand() *cobra.Command {
	cmd := group("config", "Show the configuration in force or the JSON Schema of the file, or hash a password", "show")
	cmd.AddCommand(a.configShowCommand(), a.configPasswordCommand(), &cobra.Command{
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

func (a *app) configPasswordCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "password",
		Short: "Make the hash that stands for a password in console.users",
		Long: `Reads a password from stdin (unseen when typed, and then twice) and prints its bcrypt hash, which
console.users wants. Nobody can make the password of it. At least 8 bytes, at most 72.`,
		Example: "  meterhouse config password\n  meterhouse config password < password.txt",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			password, err := a.readPassword()
			if err != nil {
				return err
			}
			hash, err := console.HashPassword(password)
			if err != nil {
				return usagef("config password: %w", err)
			}
			fmt.Fprintln(a.stdout, hash)
			return nil
		},
	}
}

// readPassword reads one line; from a terminal twice, without showing it.
func (a *app) readPassword() (string, error) {
	f, isFile := a.stdin.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		text, err := io.ReadAll(io.LimitReader(a.stdin, 1<<10))
		return strings.TrimRight(string(text), "\r\n"), err
	}
	var typed [2]string
	for i, ask := range []string{"Password: ", "Again: "} {
		fmt.Fprint(a.stderr, ask)
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.stderr)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		typed[i] = string(text)
	}
	if typed[0] != typed[1] {
		return "", usagef("config password: the two differ")
	}
	return typed[0], nil
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
		names := v.MapKeys()
		slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, name := range names {
			c.showValue(w, name.String()+":", join(path, name.String()), v.MapIndex(name), deeper)
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
