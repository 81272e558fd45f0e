package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"meterhouse/etl/alert"
	"meterhouse/etl/warehouse"
)

// alertSender delivers notices as the configuration says.
func (s *session) alertSender() (*alert.Sender, error) {
	cfg := alertConfigOf(s.cfg, s.app.getenv)
	cfg.Outbox, cfg.Log = s.wh.Notices(), s.app.log
	sender, err := alert.New(cfg)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return sender, nil
}

// alertConfigOf is where notices go.
func alertConfigOf(cfg *config, getenv func(string) string) alert.Config {
	c := alert.Config{
		Webhook: cfg.Alerts.Webhook.text(), Command: cfg.Alerts.Command,
		Proxy: cfg.HTTP.Proxy.text(), CAFile: cfg.HTTP.CAFile,
	}
	// What a program needs to find others and to write; nothing of ours, where secrets are.
	for _, name := range []string{"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"} {
		if value := getenv(name); value != "" {
			c.CommandEnv = append(c.CommandEnv, name+"="+value)
		}
	}
	return c
}

// alertCheck says what is watched: what is configured.
func (s *session) alertCheck() warehouse.AlertCheck {
	check := warehouse.AlertCheck{Watched: []warehouse.Watched{}}
	for _, k := range s.cfg.Keystone {
		check.Watched = append(check.Watched, warehouse.Watched{Source: "keystone", Account: k.Account, Customers: k.Customers})
	}
	for _, w := range s.cfg.Wolkvox {
		check.Watched = append(check.Watched, warehouse.Watched{Source: "wolkvox", Account: w.Account})
	}
	return check
}

// tellAlerts judges all conditions and delivers what people are to know, without a queue: each
// notice that cannot be delivered waits for the next call.
func (s *session) tellAlerts(ctx context.Context, sender *alert.Sender) error {
	_, err := s.wh.CheckAlerts(ctx, s.alertCheck())
	return errors.Join(err, sender.SendDue(ctx))
}

// tellAfterRun is for those who run without serve: what a run finds is told, if anybody is to be told. By
// a clock that stands still nobody is.
func (s *session) tellAfterRun(ctx context.Context) {
	if s.app.fixed {
		return
	}
	sender, err := s.alertSender()
	if err == nil && len(sender.Channels()) > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = s.tellAlerts(ctx, sender)
	}
	if err != nil {
		s.app.log.Warn("alerts not told, tried again at the next run", "error", err)
	}
}

// heartbeat tells the dead-man service, if one is configured, that all goes on. It stays away while
// people would not hear of trouble: nobody judges the conditions, or notices cannot be delivered.
func (s *session) heartbeat(ctx context.Context, sender *alert.Sender) error {
	url := s.cfg.Alerts.Heartbeat.text()
	if url == "" {
		return nil
	}
	if err := s.wh.Alive(ctx); err != nil {
		return fmt.Errorf("no heartbeat: %w", err)
	}
	return sender.Heartbeat(ctx, url)
}

// alerts says who is told when somebody must act. It tells nobody.
func (c *check) alerts() {
	const about = "alerts"
	sender, err := alert.New(alertConfigOf(c.cfg, c.app.getenv))
	if err != nil {
		c.fail(about, err)
		return
	}
	if channels := sender.Channels(); len(channels) > 0 {
		c.ok(about, "told through %s; this check told nobody", strings.Join(channels, " and "))
	} else {
		c.ok(about, "nobody is told when somebody must act: alerts.webhook and alerts.command are empty")
	}
	if fields := strings.Fields(c.cfg.Alerts.Command); len(fields) > 0 {
		if _, err := exec.LookPath(fields[0]); err != nil {
			c.warn(about, "correct alerts.command: a program, and arguments parted at blanks", "the command cannot be run: %s", err)
		}
	}
	if c.cfg.Alerts.Heartbeat.text() == "" {
		c.ok(about, "nobody is called when meterhouse itself stands still: alerts.heartbeat is empty")
	} else {
		c.ok(about, "a dead-man service is asked every 5 minutes; this check did not ask it")
	}
}
