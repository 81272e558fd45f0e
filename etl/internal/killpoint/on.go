//go:build killpoints

package killpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

var (
	mu     sync.Mutex
	hits   = map[Point]int{}
	wanted = sync.OnceValue(parse)
)

type plan struct {
	point  Point
	hit    int
	signal syscall.Signal
	trace  *os.File
}

// parse panics on what a test has got wrong.
func parse() (p plan) {
	var err error
	if name := os.Getenv("METERHOUSE_KILL_TRACE"); name != "" {
		if p.trace, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			panic(err)
		}
	}
	text := os.Getenv("METERHOUSE_KILL")
	if text == "" {
		return p
	}
	fields := strings.Split(text, ":")
	p.point, p.signal = Point(fields[0]), syscall.SIGKILL
	if len(fields) == 3 && fields[2] == "TERM" {
		p.signal = syscall.SIGTERM
		fields = fields[:2]
	}
	if len(fields) == 2 {
		p.hit, err = strconv.Atoi(fields[1])
	}
	if err != nil || p.hit < 1 || !slices.Contains(Points, p.point) {
		panic(fmt.Sprintf("METERHOUSE_KILL=%s: want NAME:N or NAME:N:TERM", text))
	}
	return p
}

// Here ends the process if this is the wanted step.
func Here(at Point) {
	mu.Lock()
	defer mu.Unlock()
	p := wanted()
	if !slices.Contains(Points, at) {
		panic("kill point " + string(at) + " is not listed")
	}
	hits[at]++
	if p.trace != nil {
		fmt.Fprintln(p.trace, at)
	}
	if at != p.point || hits[at] != p.hit {
		return
	}
	if err := syscall.Kill(os.Getpid(), p.signal); err != nil {
		panic(err)
	}
	if p.signal == syscall.SIGKILL {
		select {} // until it arrives
	}
}
