// Command meterhouse loads what NetApp Keystone and wolkvox say about consumption and licences
// into Postgres. It is thin: flags, configuration, wiring and exit codes. What a command does is in
// the packages under etl; one file here per command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
	_ "time/tzdata" // zones must exist on any machine

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"meterhouse/etl"
	"meterhouse/etl/localpg"
)

// Exit codes, part of the public contract.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2 // usage or configuration
	exitPartial    = 3
	exitDifference = 4 // a check found a difference or refused
	exitBusy       = 75
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// app is one invocation: its streams and the flags that all commands share.
type app struct {
	env            map[string]string // the process's variables
	stdin          io.Reader
	stdout, stderr io.Writer

	configFile, logFormat, logLevel, nowText string

	now      func() time.Time // business clock
	fixed    bool             // it stands still: --now was given
	log      *slog.Logger
	progress *progress
	started  bool  // flags and arguments were good
	helpless error // help was wanted for a command that does not exist
}

func (a *app) getenv(name string) string { return a.env[name] }

// run is the whole program for one command line. It returns the exit code.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &watchedWriter{Writer: stdout}
	stdout = out
	a := &app{env: map[string]string{}, stdin: stdin, stdout: stdout, stderr: stderr, progress: newProgress(stderr)}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		a.env[name] = value
	}
	root := a.rootCommand()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = a.helpless
	}
	if err == nil && out.err != nil {
		err = fmt.Errorf("write the output: %w", out.err)
	}
	a.progress.clear()
	code := a.exitCode(err)
	if text := message(err); text != "" {
		fmt.Fprintf(stderr, "meterhouse: %s\n", text)
	}
	return code
}

// watchedWriter remembers that something could not be written: a result that nobody got is a failure.
type watchedWriter struct {
	io.Writer
	err error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "meterhouse",
		Short: "Load storage and call-centre consumption from NetApp Keystone and wolkvox into Postgres",
		Long: `Meterhouse loads what NetApp Keystone and wolkvox say about consumption and licences into
Postgres: exactly, without gaps or repeats, and with every restated figure kept. Exit codes:
0 done, 1 failed, 2 wrong use or configuration, 3 partial (something quarantined or a scope failed),
4 a check found a difference or refused, 75 busy, try again later. Results go to stdout, logs to stderr.`,
		Example: "  meterhouse demo\n  meterhouse --config prod.yaml run",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return wrongCommand(cmd, args)
		},
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.start() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", "", "configuration `file` (default METERHOUSE_CONFIG, then ./meterhouse.yaml)")
	flags.StringVar(&a.logFormat, "log-format", "text", "`form` of the log on stderr: text or json")
	flags.StringVar(&a.logLevel, "log-level", "", "least `level` to log: debug, info, warn or error (default info)")
	flags.StringVar(&a.nowText, "now", "", "fix the business clock at this RFC 3339 `time`")
	root.AddCommand(
		a.demoCommand(), a.initCommand(), a.configCommand(), a.checkCommand(), a.migrateCommand(), a.runCommand(), a.serveCommand(), a.workerCommand(), a.backfillCommand(), a.replayCommand(),
		a.statusCommand(), a.statementCommand(), a.invoiceCommand(), a.matchCommand(), a.closeCommand(), a.reopenCommand(), a.exportCommand(), a.reportCommand(), a.tokenCommand(), a.quarantineCommand(), a.readingsCommand(), a.levelsCommand(), a.ratesCommand(), a.calendarCommand(), a.pruneCommand(), a.biCommand(), a.simulateCommand(), a.versionCommand(), a.completionCommand(),
	)
	a.addCompletions(root)
	root.SetUsageTemplate(usageTemplate)
	root.SetFlagErrorFunc(wrongFlag)
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if rest := cmd.Flags().Args(); cmd.HasAvailableSubCommands() && cmd.Use == cmd.Name() && len(rest) > 0 {
			a.helpless = wrongCommand(cmd, rest)
			return
		}
		help(cmd, args)
	})
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err == nil && cmd.HasAvailableSubCommands() && len(rest) > 0 {
				return wrongCommand(cmd, rest)
			}
			return errors.Join(err, cmd.Help())
		},
	})
	return root
}

// usageTemplate keeps every help text on one screen: subcommands do not repeat the global flags.
const usageTemplate = `Usage:
  {{if and .HasAvailableSubCommands (eq .Use .Name)}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}
{{- if .HasExample}}

Examples:
{{.Example}}{{end}}
{{- if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}
{{- if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
{{- if .HasAvailableInheritedFlags}}

Flags of every command: --config, --log-format, --log-level, --now; see meterhouse --help.{{end}}
`

// wallClock is the business clock unless --now fixes it. Tests in which days pass put another.
var wallClock = time.Now

// start reads the global flags. Whatever fails before it is wrong use.
func (a *app) start() error {
	a.now = wallClock
	if a.nowText != "" {
		fixed, err := time.Parse(time.RFC3339, a.nowText)
		if err != nil {
			return usagef("--now %q: want RFC 3339, such as 2026-05-31T12:00:00Z", a.nowText)
		}
		a.now, a.fixed = func() time.Time { return fixed.UTC() }, true
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(or(a.logLevel, "info"))); err != nil {
		return usagef("--log-level %q: want debug, info, warn or error", a.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch a.logFormat {
	case "text":
		a.log = slog.New(slog.NewTextHandler(a.progress, options))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(a.progress, options))
	default:
		return usagef("--log-format %q: want text or json", a.logFormat)
	}
	a.started = true
	return nil
}

// quietly raises the default log level for commands that report in their own words.
func (a *app) quietly() {
	if a.logLevel == "" {
		a.logLevel = "warn"
		_ = a.start() // it went well a moment ago
	}
}

// exitError is an error with its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usagef is wrong use: exit code 2.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func (a *app) exitCode(err error) int {
	var coded *exitError
	var busy *etl.BusyError
	var held *etl.HeldError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &busy), errors.As(err, &held), errors.Is(err, localpg.ErrInUse):
		return exitBusy
	case !a.started: // cobra found the command line wrong
		return exitUsage
	}
	return exitFailed
}

// message is an error for people: several problems stand one per line below the first.
func message(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted: what was loaded so far is kept, run it again to go on"
	}
	text := strings.TrimSpace(err.Error())
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42501" && !strings.Contains(text, "grant ") { // insufficient_privilege; some say themselves what to do
		text += ": this login lacks the right: an administrator grants meterhouse_loader to who loads and imports, meterhouse_closer to who closes months, bi_reader to who only reads; who migrates owns the database"
	}
	if head, rest, several := strings.Cut(text, ": "); several && head == "config" && strings.Contains(rest, "\n") {
		return fmt.Sprintf("config: %d problems\n  %s", 1+strings.Count(rest, "\n"), strings.ReplaceAll(rest, "\n", "\n  "))
	}
	return text
}

// group is a command that only has subcommands.
func group(name, short, example string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Example: "  meterhouse " + name + " " + example, Args: cobra.ArbitraryArgs, RunE: wrongCommand}
}

func wrongCommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			names = append(names, c.Name())
		}
	}
	slices.Sort(names)
	if len(args) == 0 {
		return usagef("%swant a command: %s", within(cmd), strings.Join(names, ", "))
	}
	return usagef("%sunknown command %q%s: want %s", within(cmd), args[0], nearest(args[0], names), strings.Join(names, ", "))
}

var wrongValue = regexp.MustCompile(`^invalid argument (".*") for "--([a-z-]+)" flag: `)

// wrongFlag says in our words what a number has to look like.
func wrongFlag(cmd *cobra.Command, err error) error {
	m := wrongValue.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	flag := cmd.Flag(m[2]).Value
	if form, is := flag.(formatValue); is {
		return usagef("--%s %s: want %s", m[2], m[1], oneOf(form.forms))
	}
	switch flag.Type() {
	case "int", "int64":
		return usagef("--%s %s: want a whole number", m[2], m[1])
	case "uint64":
		return usagef("--%s %s: want a whole number from 0 on", m[2], m[1])
	}
	return err
}

// within names the command in an error, without the program, which stands in front anyway.
func within(cmd *cobra.Command) string {
	if _, sub, ok := strings.Cut(cmd.CommandPath(), " "); ok {
		return sub + ": "
	}
	return ""
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%sunexpected %q: want no arguments", within(cmd), args[0])
	}
	return nil
}

// oneArgument demands exactly one, called name.
func oneArgument(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s%d arguments: want one, %s", within(cmd), len(args), name)
		}
		return nil
	}
}
