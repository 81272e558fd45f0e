package etl

import (
	"errors"
	"time"
)

// Severity says how soon somebody has to look.
type Severity string

// Severities, the second worse than the first.
const (
	Warn Severity = "warn" // in working hours
	Page Severity = "page" // now
	// Resolved is the severity of a notice that brings good news only; no alert has it.
	Resolved Severity = "resolved"
)

// Alert is something that is wrong, or that happened, and wants a person.
type Alert struct {
	Key      string    `json:"key"`  // what it is about, the same whenever it comes back
	Kind     string    `json:"kind"` // what is wrong: late, failing, token_dead, …; see the runbook
	Severity Severity  `json:"severity"`
	Account  string    `json:"account,omitempty"` // configured account; empty where it is not about one
	Subject  string    `json:"subject"`           // one line
	Detail   string    `json:"detail"`            // what is known and what to do
	Since    time.Time `json:"since"`             // UTC
}

// Change is what happened to an alert.
type Change string

// Changes of an alert.
const (
	AlertOpened   Change = "opened"
	AlertWorsened Change = "worsened" // a greater severity, or another kind
	AlertGrew     Change = "grew"     // more of the same, told once a day at most
	AlertEased    Change = "eased"    // a lesser severity
	AlertResolved Change = "resolved"
)

// AlertChange is one alert and what happened to it.
type AlertChange struct {
	Change Change `json:"change"`
	Alert
}

// Notice is one message to people: everything that changed at one time.
type Notice struct {
	ID       int64
	Token    string    // UUID that names the notice outside, the same in every repetition
	At       time.Time // UTC
	Severity Severity  // the worst of the changes; Resolved when all are that
	Changes  []AlertChange
	// Delivered are the channels whose receiver took the notice in an earlier attempt.
	Delivered []string
	Attempts  int // earlier ones
}

// ErrNoticeTaken says that another process is delivering the notice at this moment.
var ErrNoticeTaken = errors.New("another process is delivering the notice")
