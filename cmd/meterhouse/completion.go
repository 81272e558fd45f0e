package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"meterhouse/etl/billing"
	"meterhouse/etl/keystone"
	"meterhouse/queries"
)

var shells = []string{"bash", "zsh", "fish", "powershell"}

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes commands, flags, datasets, reports and accounts",
		Long: `Prints the completion script for bash, zsh, fish or powershell. Accounts come from the
configuration, as far as it can be read. Open a new shell after installing the script.`,
		Example: `  meterhouse completion bash > /etc/bash_completion.d/meterhouse  # needs bash-completion
  meterhouse completion zsh > "${fpath[1]}/_meterhouse"
  meterhouse completion fish > ~/.config/fish/completions/meterhouse.fish
  meterhouse completion powershell | Out-String | Invoke-Expression`,
		Args:      oneArgument(oneOf(shells)),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return usagef("completion: unknown shell %q%s: want %s", args[0], nearest(args[0], shells), oneOf(shells))
		},
	}
}

// argument is what a command takes: one of some values, or several.
type argument struct {
	values func() []string
	many   bool
}

// complete offers what is not there yet.
func (arg argument) complete(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var left []cobra.Completion
	if len(args) == 0 || arg.many {
		left = slices.DeleteFunc(slices.Clone(arg.values()), func(value string) bool { return slices.Contains(args, value) })
	}
	return left, cobra.ShellCompDirectiveNoFileComp
}

// addCompletions tells every command what may follow. Commands that take a FILE complete files.
func (a *app) addCompletions(root *cobra.Command) {
	these := func(values ...string) func() []string { return func() []string { return values } }
	arguments := map[string]argument{
		"run":            {these(datasets...), true},
		"backfill":       {these(keystone.History), false},
		"replay":         {these(datasets...), false},
		"report":         {reportNames, false},
		"token set":      {a.keystoneNames, false},
		"completion":     {these(shells...), false},
		"rates rule":     {productCodes, false},
		"levels accrued": {a.keystoneNames, false},
		"levels absent":  {these("keep", "drop"), false},
	}
	flags := map[string][]string{
		"log-format": {"text", "json"},
		"log-level":  {"debug", "info", "warn", "error"},
		"only":       vendors,
		"probe":      probes,
		"clock":      billing.Clocks,
		"schedule":   billing.Schedules,
	}
	var visit func(cmd *cobra.Command, path string)
	visit = func(cmd *cobra.Command, path string) {
		if arg, known := arguments[path]; known {
			cmd.ValidArgsFunction = arg.complete
		} else if !strings.Contains(cmd.Use, "FILE") {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		for _, set := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
			set.VisitAll(func(f *pflag.Flag) {
				complete := cobra.NoFileCompletions
				if values, known := flags[f.Name]; known {
					complete = argument{values: these(values...)}.complete
				} else if form, is := f.Value.(formatValue); is {
					complete = argument{values: these(form.forms...)}.complete
				} else if name, _ := pflag.UnquoteUsage(f); name == "file" || name == "folder" {
					return
				}
				if path+" --"+f.Name == "report --param" {
					complete = completeParam
				}
				_ = cmd.RegisterFlagCompletionFunc(f.Name, complete) // fails only for a flag that does not exist
			})
		}
		for _, sub := range cmd.Commands() {
			visit(sub, strings.TrimSpace(path+" "+sub.Name()))
		}
	}
	visit(root, "")
}

// completeParam offers the parameters of the report that is named before.
func completeParam(_ *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	for _, q := range queries.All() {
		if slices.Contains(args, q.Name) {
			for _, p := range q.Params {
				names = append(names, cobra.CompletionWithDesc(p.Name+"=", p.Meaning))
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func reportNames() (names []string) {
	for _, q := range queries.All() {
		names = append(names, cobra.CompletionWithDesc(q.Name, q.Question))
	}
	return names
}

// keystoneNames are the accounts of the configuration, as far as it can be read.
func (a *app) keystoneNames() (names []string) {
	c, _, _, _ := a.readConfig()
	for _, k := range c.Keystone {
		if k.Account != "" {
			names = append(names, k.Account)
		}
	}
	return names
}
