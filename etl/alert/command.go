package alert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"

	"meterhouse/etl"
)

// run hands the notice to the command: JSON on stdin, the gist in variables, exit 0 is a receipt.
func (s *Sender) run(ctx context.Context, n etl.Notice, body []byte) error {
	cmd := exec.CommandContext(ctx, s.command[0], s.command[1:]...)
	cmd.Env = append(append([]string{}, s.cfg.CommandEnv...),
		"METERHOUSE_ALERT_ID="+n.Token,
		"METERHOUSE_ALERT_AT="+n.At.UTC().Format(time.RFC3339),
		"METERHOUSE_ALERT_SEVERITY="+string(n.Severity),
		"METERHOUSE_ALERT_TEXT="+strings.ReplaceAll(Text(n), "\x00", ""),
	)
	cmd.Stdin = bytes.NewReader(body)
	said := &head{most: 2048}
	cmd.Stdout, cmd.Stderr = said, said
	// It may have started others: they end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // what it left running in the background is its own affair
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = errors.New("did not end in time and was killed")
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.As(err, &exit):
		err = errors.New(exit.String())
	}
	if words := said.String(); words != "" {
		return fmt.Errorf("%s: %w: %s", s.command[0], err, words)
	}
	return fmt.Errorf("%s: %w", s.command[0], err)
}

// head keeps the beginning of what is written to it.
type head struct {
	bytes.Buffer
	most int
}

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), h.most-h.Len())])
	return len(p), nil
}

// String is one short line of printable text.
func (h *head) String() string {
	const most = 200
	text := strings.Join(strings.FieldsFunc(h.Buffer.String(), func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) }), " ")
	if letters := []rune(text); len(letters) > most {
		return string(letters[:most-1]) + "…"
	}
	return text
}
