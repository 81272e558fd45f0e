package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"meterhouse/etl"
)

// Outbox is where notices wait. A method that returns without an error has stored what it was told.
type Outbox interface {
	// Claim takes a notice for a few minutes. ok is false when nothing is left to do about it; the
	// error is etl.ErrNoticeTaken while another process has it.
	Claim(ctx context.Context, id int64) (notice etl.Notice, ok bool, err error)
	// Attempted records how an attempt on one channel ended; nil: the receiver took the notice.
	Attempted(ctx context.Context, id int64, channel string, failure error) error
	// Settle says that nothing is left to do: delivered, or else logged for want of a channel.
	Settle(ctx context.Context, id int64, delivered bool) error
	// Postpone gives a claimed notice back; it is due again later, unless it is given up as too old.
	Postpone(ctx context.Context, id int64) (givenUp bool, err error)
	// Waiting are the notices that are not settled, up to one, the oldest first.
	Waiting(ctx context.Context, upTo int64) ([]int64, error)
	// Due are the notices that wait and that nobody is at, the oldest first.
	Due(ctx context.Context) ([]int64, error)
}

// Config says where notices go. With neither a webhook nor a command they are logged.
type Config struct {
	// Webhook is an https URL, or http to this machine, to which each notice is posted as JSON; empty: none.
	Webhook string
	// Command is a program with arguments, parted at blanks, that is run for each notice; empty:
	// none. There is no shell and no quoting: for more, name a script.
	Command string
	// CommandEnv are variables, as NAME=value, that the command sees beside METERHOUSE_ALERT_*.
	CommandEnv []string
	Proxy      string        // URL of a proxy for the webhook; default: none. Never taken from the environment
	CAFile     string        // PEM file of roots trusted beside those of the system
	Timeout    time.Duration // of one attempt on one channel; default 20 s, at most a minute
	Outbox     Outbox
	Log        *slog.Logger // default: silence
}

// Sender delivers notices. It is safe for concurrent use.
type Sender struct {
	cfg       Config
	transport *http.Transport
	webhook   *url.URL // nil: none
	command   []string // empty: none
	channels  []channel
}

// channel is one way to people.
type channel struct {
	name string
	send func(ctx context.Context, n etl.Notice, body []byte) error
}

// New checks the configuration. It sends nothing.
func New(cfg Config) (*Sender, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Second
	}
	if cfg.Timeout < 0 || cfg.Timeout > time.Minute {
		return nil, fmt.Errorf("alerts: timeout %s: want up to 1m", cfg.Timeout)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sender{cfg: cfg}
	var err error
	if s.transport, err = newTransport(cfg.Proxy, cfg.CAFile); err != nil {
		return nil, err
	}
	if cfg.Webhook != "" {
		if s.webhook, err = checkURL(cfg.Webhook); err != nil {
			return nil, fmt.Errorf("alerts.webhook: %w", err)
		}
		s.channels = append(s.channels, channel{"webhook", s.post})
	}
	if s.command = strings.Fields(cfg.Command); len(s.command) > 0 {
		s.channels = append(s.channels, channel{"command", s.run})
	}
	return s, nil
}

// Send delivers one notice on every channel that has not taken it yet, after the older ones that
// wait: nobody hears that something is over before that it began. nil: nothing is left to do.
// Otherwise it is to be called again: the error tells, without secrets, which channel failed how; it
// is etl.ErrNoticeTaken when another process is at it or at an older one. Repeating is safe.
func (s *Sender) Send(ctx context.Context, id int64) error {
	ids, err := s.cfg.Outbox.Waiting(ctx, id)
	if err != nil {
		return err
	}
	if len(ids) == 0 || ids[len(ids)-1] != id {
		ids = append(ids, id) // Claim says what became of it
	}
	return s.sendInOrder(ctx, ids)
}

// SendDue delivers what waits: what no job delivers, or what one failed to. Any number of processes
// may call it at once.
func (s *Sender) SendDue(ctx context.Context) error {
	due, err := s.cfg.Outbox.Due(ctx)
	if err != nil || len(due) == 0 {
		return err
	}
	// What came later waits no longer than what it had to wait for.
	ids, err := s.cfg.Outbox.Waiting(ctx, math.MaxInt64)
	if err != nil {
		return err
	}
	if err := s.sendInOrder(ctx, ids); !errors.Is(err, etl.ErrNoticeTaken) {
		return err
	}
	return nil
}

// sendInOrder delivers notices, the oldest first. A channel that does not take one is left alone for
// the later ones; the others go on.
func (s *Sender) sendInOrder(ctx context.Context, ids []int64) error {
	blocked := map[string]bool{}
	var failed []error
	for _, id := range ids {
		err := s.send(ctx, id, blocked)
		if err != nil {
			failed = append(failed, err)
		}
		// Whoever is at an older one comes to the later ones next.
		if errors.Is(err, etl.ErrNoticeTaken) || ctx.Err() != nil || len(blocked) > 0 && len(blocked) == len(s.channels) {
			break
		}
	}
	return errors.Join(failed...)
}

// send delivers one notice on the channels that are not blocked, and blocks those that do not take it.
func (s *Sender) send(ctx context.Context, id int64, blocked map[string]bool) error {
	n, ok, err := s.cfg.Outbox.Claim(ctx, id)
	if err != nil || !ok {
		return err
	}
	// What was done is recorded although the process stops.
	record := context.WithoutCancel(ctx)
	if len(s.channels) == 0 {
		s.cfg.Log.Warn("alert", "notice", n.ID, "severity", n.Severity, "text", Text(n))
		return s.cfg.Outbox.Settle(record, id, false)
	}
	body, err := Body(n)
	if err != nil {
		return err
	}
	var failed []error
	var failing []string
	for _, c := range s.channels {
		if slices.Contains(n.Delivered, c.name) {
			continue
		}
		if blocked[c.name] {
			failed = append(failed, fmt.Errorf("%s: an older notice waits", c.name))
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
		failure := c.send(attempt, n, body)
		cancel()
		if failure != nil {
			failure = fmt.Errorf("%s: %w", c.name, failure)
			failed, failing = append(failed, failure), append(failing, c.name)
		}
		if err := s.cfg.Outbox.Attempted(record, id, c.name, failure); err != nil {
			failed, failing = append(failed, err), append(failing, c.name) // it is repeated, before the later ones
		}
	}
	if len(failed) == 0 {
		s.cfg.Log.Info("alert delivered", "notice", n.ID, "severity", n.Severity, "changes", len(n.Changes))
		return s.cfg.Outbox.Settle(record, id, true)
	}
	givenUp, err := s.cfg.Outbox.Postpone(record, id)
	if givenUp {
		s.cfg.Log.Error("alert given up", "notice", n.ID, "severity", n.Severity, "text", Text(n), "error", errors.Join(failed...))
		return err
	}
	for _, name := range failing {
		blocked[name] = true
	}
	return fmt.Errorf("deliver notice %d: %w", id, errors.Join(append(failed, err)...))
}

// Channels says in words where notices go, for people to read; it holds no secret.
func (s *Sender) Channels() (names []string) {
	if s.webhook != nil {
		names = append(names, "the webhook at "+s.webhook.Host)
	}
	if len(s.command) > 0 {
		names = append(names, "the command "+s.command[0])
	}
	return names
}

// Bounds of what is sent: chat services cut or refuse long messages.
const (
	maxAlerts = 20
	maxText   = 3000
)

// Body is the JSON of a notice as receivers get it.
func Body(n etl.Notice) ([]byte, error) {
	shown := n.Changes[:min(len(n.Changes), maxAlerts)]
	body, err := json.Marshal(struct {
		ID       string            `json:"id"`
		At       time.Time         `json:"at"`
		Severity etl.Severity      `json:"severity"`
		Text     string            `json:"text"`
		Alerts   []etl.AlertChange `json:"alerts"`
		Omitted  int               `json:"omitted"`
	}{n.Token, n.At, n.Severity, Text(n), shown, len(n.Changes) - len(shown)})
	if err != nil {
		return nil, fmt.Errorf("notice %d: %w", n.ID, err)
	}
	return body, nil
}

// Text is a notice in words, one line per alert and a second one for what to do. It holds no < and >,
// with which a vendor's words could give orders to a chat service.
func Text(n etl.Notice) string {
	var b strings.Builder
	for i, c := range n.Changes {
		line := fmt.Sprintf("[%s] %s", mark(c), c.Subject)
		if c.Change != etl.AlertResolved {
			line += "\n    " + c.Detail
		}
		if i > 0 {
			line = "\n" + line
		}
		if b.Len()+len(line) > maxText || i == maxAlerts {
			fmt.Fprintf(&b, "\nand %d more: see mart.alert", len(n.Changes)-i)
			break
		}
		b.WriteString(line)
	}
	return strings.NewReplacer("<", "‹", ">", "›").Replace(b.String())
}

// mark is what stands before a subject.
func mark(c etl.AlertChange) string {
	switch c.Change {
	case etl.AlertResolved:
		return "over"
	case etl.AlertOpened:
		return string(c.Severity)
	}
	return fmt.Sprintf("%s, %s", c.Severity, c.Change)
}
