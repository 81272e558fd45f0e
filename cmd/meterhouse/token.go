package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"meterhouse/etl/keystone"
	"meterhouse/etl/warehouse"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := group("token", "Start a Keystone token chain, or see how it stands", "set acme < token.txt")
	cmd.AddCommand(
		&cobra.Command{
			Use:   "set ACCOUNT",
			Short: "Start or replace an account's chain with a refresh token from stdin",
			Long: `Reads a refresh token from stdin (unseen when typed) and proves it with one exchange, so that
the chain continues in the database. Get it from the Digital Advisor portal: API Services,
Generate Tokens. It works only once: do not use it anywhere else.`,
			Example: "  meterhouse token set acme\n  meterhouse token set acme < token.txt",
			Args:    oneArgument("the account"),
			RunE: func(cmd *cobra.Command, args []string) (err error) {
				s, err := a.openSession(cmd.Context(), need{database: true, vendors: true})
				if err != nil {
					return err
				}
				defer s.close(&err)
				k, err := s.keystoneNamed(args[0])
				if err != nil {
					return err
				}
				if err := s.prepareTokens(cmd.Context()); err != nil {
					return err
				}
				token, err := a.readToken()
				if err != nil {
					return err
				}
				if err := k.SetToken(cmd.Context(), token); err != nil {
					return err
				}
				s.hurry(cmd.Context(), k.cfg.Account)
				return s.printTokens(cmd.Context(), []*keystoneAccount{k}, formatTable)
			},
		},
		a.tokenStatusCommand(),
		a.tokenRekeyCommand(),
	)
	return cmd
}

func (a *app) tokenRekeyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rekey",
		Short: "Seal with secrets_key what former_secrets_key still seals",
		Long: `Seals the tokens of every account with secrets_key that are still sealed with former_secrets_key, in
the database and in the spool, and says when the former key is not needed any more. Asks the vendor
nothing. Safe to repeat and to interrupt. First give both keys to every process.`,
		Example: "  meterhouse token rekey",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			s, err := a.openSession(cmd.Context(), need{database: true, vendors: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			return s.rekey(cmd.Context())
		},
	}
}

func (s *session) rekey(ctx context.Context) error {
	var needed []string
	var failed []error
	for _, k := range s.keystone {
		r, err := k.Rekey(ctx)
		if err != nil {
			failed = append(failed, asStateDir(err))
			continue
		}
		fmt.Fprintf(s.app.stdout, "%s: %s\n", k.cfg.Account, rekeyed(r))
		if r.FormerKey {
			needed = append(needed, k.cfg.Account)
		}
	}
	switch {
	case len(failed) > 0:
		return errors.Join(failed...)
	case s.cfg.formerKey() == nil:
	case len(needed) > 0:
		return &exitError{exitBusy, fmt.Errorf("former_secrets_key is still needed by %s: keep it, and repeat this later", strings.Join(needed, ", "))}
	default:
		fmt.Fprintln(s.app.stdout, "former_secrets_key is not needed any more: take it out of the configuration")
	}
	return nil
}

// rekeyed says in words what was done.
func rekeyed(r keystone.Rekeyed) string {
	var did []string
	if r.Generation > 0 {
		did = append(did, fmt.Sprintf("tokens sealed anew as generation %d", r.Generation))
	}
	if r.Logins > 0 {
		did = append(did, count(r.Logins, "former login")+" noted")
	}
	if r.Answers > 0 {
		did = append(did, count(r.Answers, "file")+" of the spool sealed anew")
	}
	if len(did) == 0 {
		did = append(did, "nothing to do")
	}
	if r.Detail != "" {
		did = append(did, r.Detail)
	}
	return strings.Join(did, "; ")
}

func (a *app) tokenStatusCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show each chain, its deadlines and what to do",
		Long:    "Shows how each Keystone account's token chain stands. Asks the vendor nothing and changes nothing.",
		Example: "  meterhouse token status\n  meterhouse token status --format json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			s, err := a.openSession(cmd.Context(), need{database: true, vendors: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			return s.printTokens(cmd.Context(), s.keystone, f)
		},
	}
	formatFlag(cmd, &f)
	return cmd
}

func (s *session) keystoneNamed(name string) (*keystoneAccount, error) {
	var known []string
	for _, k := range s.keystone {
		if k.cfg.Account == name {
			return k, nil
		}
		known = append(known, k.cfg.Account)
	}
	return nil, usagef("no keystone account %q is configured: want %s", name, or(strings.Join(known, ", "), "one in the configuration"))
}

// readToken reads stdin; a person at a terminal is asked and not shown what they type.
func (a *app) readToken() (keystone.Token, error) {
	var text []byte
	var err error
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(a.stderr, "refresh token (not shown): ")
		text, err = term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.stderr)
	} else {
		text, err = io.ReadAll(io.LimitReader(a.stdin, 64<<10))
	}
	if err != nil {
		return keystone.Token{}, fmt.Errorf("read the token: %w", err)
	}
	token, err := keystone.NewToken(string(text))
	if err != nil {
		return token, usagef("stdin: %w", err)
	}
	return token, nil
}

// nextStep says what comes next for a token, and whether a person has to do it.
func nextStep(status keystone.TokenStatus) (step string, needed bool) {
	step, nothing := strings.CutPrefix(status.NextStep, "none: ")
	return step, !nothing && step != "none" && step != ""
}

func (s *session) printTokens(ctx context.Context, accounts []*keystoneAccount, f format) error {
	var all []keystone.TokenStatus
	var failed []error
	for _, k := range accounts {
		status, err := k.TokenStatus(ctx)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, status)
	}
	if f.isForPeople() && len(all) == 0 {
		if len(failed) == 0 {
			fmt.Fprintln(s.app.stdout, "no keystone account is configured")
		}
		return errors.Join(failed...)
	}
	return errors.Join(append(failed, f.print(s.app.stdout, tokenTable(all)))...)
}

func tokenTable(all []keystone.TokenStatus) warehouse.Table {
	t := warehouse.Table{
		Columns: []string{"account", "state", "generation", "obtained_at", "access_until", "refresh_dies_at", "login_due_at", "urgency", "reason", "next_step"},
		Numeric: []bool{false, false, true},
	}
	for _, status := range all {
		step, _ := nextStep(status)
		t.Rows = append(t.Rows, []string{
			status.Account, string(status.State), strconv.FormatInt(status.Generation, 10), stamp(status.ObtainedAt),
			stamp(status.AccessUntil), stamp(status.RefreshDiesAt), stamp(status.LoginDueAt),
			string(status.Urgency), string(status.Reason), step,
		})
	}
	return t
}
