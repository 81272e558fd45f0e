package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"meterhouse/migrations"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print version, commit, Go and schema version",
		Long:    "Prints the version of this binary, the commit it was built from, and the schema version it wants.",
		Example: "  meterhouse version",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintf(a.stdout, "meterhouse %s, schema %d\n", buildVersion(), migrations.Head())
			return nil
		},
	}
}

func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	text := or(info.Main.Version, "(devel)")
	var commit, changed string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = ", commit " + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		}
	}
	return text + commit + changed + ", " + info.GoVersion
}
