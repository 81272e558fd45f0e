//go:build killpoints

package main

import "time"

// A program that is built to be killed asks fakes only, and many a time.
func init() { keystonePace, wolkvoxSpacing = time.Nanosecond, -1 }
