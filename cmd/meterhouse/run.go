package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) runCommand() *cobra.Command {
	var planOnly bool
	var f format
	cmd := &cobra.Command{
		Use:   "run [DATASET...]",
		Short: "Load what is due, or the named datasets now",
		Long: `Loads every dataset and scope whose schedule has come since its last success; with names, those
datasets now, whatever is due. Running it twice is safe: the second run finds everything unchanged.

Datasets: ` + strings.Join(datasets[:3], ", ") + ",\n" + strings.Join(datasets[3:], ", "),
		Example: "  meterhouse run\n  meterhouse run keystone.history wolkvox.billing\n  meterhouse run --plan",
		Args: func(_ *cobra.Command, args []string) error {
			for _, name := range args {
				if err := checkDataset(name); err != nil {
					return err
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			s, err := a.openSession(cmd.Context(), need{database: true, vendors: true})
			if err != nil {
				return err
			}
			defer s.close(&err)
			if !planOnly && (len(args) == 0 || slices.ContainsFunc(args, isKeystone)) {
				if err := s.prepareTokens(cmd.Context()); err != nil {
					return err
				}
			}
			for _, name := range args {
				if isKeystone(name) && len(s.keystone) == 0 || !isKeystone(name) && len(s.wolkvox) == 0 {
					vendor, _, _ := strings.Cut(name, ".")
					return usagef("%s: no %s account is configured", name, vendor)
				}
			}
			err = s.loadAndReport(cmd.Context(), order{datasets: args, planOnly: planOnly, format: f})
			if !planOnly {
				s.tellAfterRun(cmd.Context())
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print the windows that would be asked for and change nothing")
	formatFlag(cmd, &f)
	return cmd
}

func checkDataset(name string) error {
	if slices.Contains(datasets, name) {
		return nil
	}
	return usagef("unknown dataset %q%s: want %s", name, nearest(name, datasets), strings.Join(datasets, ", "))
}
