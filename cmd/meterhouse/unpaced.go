//go:build unpaced

package main

import "time"

// A program that is built to be measured asks a fake only: the pause between two requests is courtesy
// and no work.
func init() { keystonePace = time.Nanosecond }
