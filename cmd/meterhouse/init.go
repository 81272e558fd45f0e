package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meterhouse/etl"
)

func (a *app) initCommand() *cobra.Command {
	var only string
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented configuration that only wants a few variables to be set",
		Long: `Writes a configuration with every key, its meaning and its default to FILE, or where the other
commands look for it: --config, METERHOUSE_CONFIG, ./meterhouse.yaml. FILE - is stdout. It says
which variables to set; then "meterhouse check" accepts it as it stands. No file is overwritten.`,
		Example: "  meterhouse init\n  meterhouse init --only keystone /etc/meterhouse.yaml\n  meterhouse init -",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("init: %d arguments: want at most one, the file to write", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if only != "" && !slices.Contains(vendors, only) {
				return usagef("--only %q%s: want %s", only, nearest(only, vendors), strings.Join(vendors, " or "))
			}
			name, _ := a.configName()
			if len(args) == 1 {
				name = args[0]
			}
			text := sampleYAML(only, a.now())
			if name == "-" {
				_, err := io.WriteString(a.stdout, text)
				return err
			}
			if err := writeNew(name, text); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "wrote %s\n\nSet these variables; NAME_FILE may name a file that holds the value of NAME:\n%s"+
				"\nThen look for what is missing, make the tables and load:\n  meterhouse check\n  meterhouse migrate up\n  meterhouse run\n",
				name, variableList(only, "  "))
			return nil
		},
	}
	cmd.Flags().StringVar(&only, "only", "", "`vendor` to configure: keystone or wolkvox (default both)")
	return cmd
}

var vendors = []string{"keystone", "wolkvox"}

// writeNew writes a file that only its owner may read: somebody may put secrets into it.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return usagef("init: %s exists and is not overwritten: want another FILE, or - to print", name)
	case errors.Is(err, fs.ErrNotExist):
		return usagef("init: %w: want a folder that exists", err)
	case err != nil:
		return fmt.Errorf("init: %w", err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("init: %w", errors.Join(err, os.Remove(name)))
	}
	return nil
}

// sampleVariable is a variable that the written configuration reads.
type sampleVariable struct{ name, vendor, want string }

var sampleVariables = []sampleVariable{
	{"DATABASE_URL", "", "postgres://user:password@host/database"},
	{"METERHOUSE_SECRETS_KEY", "", "made once with: openssl rand -base64 32"},
	{"KEYSTONE_REFRESH_TOKEN", "keystone", "from the Digital Advisor portal: API Services, Generate Tokens"},
	{"WOLKVOX_SERVER", "wolkvox", "0039 for wv0039.wolkvox.com"},
	{"WOLKVOX_TOKEN", "wolkvox", "the wolkvox-token of the operation"},
}

// sampleValues are the values that stand in the written configuration, by path. The others are
// comments with the default.
func sampleValues(now time.Time) map[string]string {
	return map[string]string{
		"database.url":           "${DATABASE_URL}",
		"secrets_key":            "${METERHOUSE_SECRETS_KEY}",
		"keystone.account":       "acme",
		"keystone.refresh_token": "${KEYSTONE_REFRESH_TOKEN}",
		"keystone.history.start": etl.DayOf(now.UTC().AddDate(-1, 0, 0)).Month().String(),
		"wolkvox.account":        "callcenter",
		"wolkvox.server":         "${WOLKVOX_SERVER}",
		"wolkvox.token":          "${WOLKVOX_TOKEN}",
		"wolkvox.timezone":       "America/Bogota",
	}
}

func variableList(only, indent string) string {
	var b strings.Builder
	for _, v := range sampleVariables {
		if only == "" || v.vendor == "" || v.vendor == only {
			fmt.Fprintf(&b, "%s%-22s  %s\n", indent, v.name, v.want)
		}
	}
	return b.String()
}

const sampleHead = `# yaml-language-server: $schema=meterhouse.schema.json
# (meterhouse config schema > meterhouse.schema.json lets an editor check and complete this file.)
#
# Set these variables, then run "meterhouse check":
%s#
# ${NAME} stands for a variable; for a secret, NAME_FILE may name a file that holds it instead.
# A key behind a # shows its default. A METERHOUSE_… variable that a comment ends with wins over
# what stands here.
`

// sampleYAML is a configuration with every key; only, unless empty, is the vendor it is for.
func sampleYAML(only string, now time.Time) string {
	c := sampleConfig()
	switch only {
	case "keystone":
		c.Wolkvox = nil
	case "wolkvox":
		c.Keystone = nil
	}
	w := &sampleWriter{values: sampleValues(now)}
	fmt.Fprintf(w, sampleHead, variableList(only, "#   "))
	w.fields(reflect.ValueOf(c).Elem(), "", "", "")
	return w.String()
}

// sampleWriter writes keys with their documentation above.
type sampleWriter struct {
	strings.Builder
	values map[string]string
}

// fields writes the keys of a struct; first stands before the first key, in a list.
func (w *sampleWriter) fields(v reflect.Value, path, indent, first string) {
	for i := range v.NumField() {
		tags, field := v.Type().Field(i).Tag, v.Field(i)
		key := tags.Get("yaml")
		isList := field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Struct
		if key == "" || isList && field.Len() == 0 {
			continue
		}
		path := join(path, key)
		if path == key || first == "" && i > 0 {
			w.WriteString("\n")
		}
		w.comment(indent, docOf(tags, path))
		head := indent + first + key + ":"
		if first != "" {
			indent, first = indent+strings.Repeat(" ", len(first)), ""
		}
		switch value, given := w.values[path]; {
		case given:
			fmt.Fprintf(w, "%s %s\n", head, value)
		case isList:
			fmt.Fprintf(w, "%s\n", head)
			w.fields(field.Index(0), path, indent+"  ", "- ")
		case isLeaf(field.Type()):
			fmt.Fprintf(w, "%s#%s: %s\n", indent, key, yamlText(field))
		case field.Kind() == reflect.Slice:
			fmt.Fprintf(w, "%s#%s: []\n", indent, key)
		case field.Kind() == reflect.Map:
			fmt.Fprintf(w, "%s#%s: {}\n", indent, key)
		default:
			fmt.Fprintf(w, "%s\n", head)
			w.fields(field, path, indent+"  ", "")
		}
	}
}

// comment wraps a text into comment lines.
func (w *sampleWriter) comment(indent, text string) {
	const width = 100
	line := indent + "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > width {
			w.WriteString(line + "\n")
			line = indent + "#"
		}
		line += " " + word
	}
	w.WriteString(line + "\n")
}
