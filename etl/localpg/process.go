package localpg

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// guarded runs a program under a watcher (see the package comment). The watcher is nobody's child, so that the
// postmaster does not meet a child it does not know; $$ stays the pid that exec hands to the program.
const guarded = `((read -r word <&3 || kill -INT $$) &)
exec "$@" 3<&-`

// inherited are the variables that a program gets from us: where to find programs, libraries and room.
var inherited = []string{"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}

// child is a program started by us; done closes when it has ended, err is valid then.
type child struct {
	process *os.Process
	done    chan struct{}
	err     error
}

// spawn starts a program as the folder's user, in a process group of its own, so that Ctrl-C on our terminal reaches
// only us and we decide when the server goes.
func (f *folder) spawn(dir string, out *os.File, argv ...string) (*child, error) {
	watch, leash, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer watch.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", guarded, "sh"}, argv...)...)
	cmd.Dir = dir // ours may be closed to that user, and Postgres wants to know where it is
	// Our secrets are none of its business, whatever their variables are called, and PG… would change what
	// libpq programs do.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return !slices.Contains(inherited, name)
	}), "LC_ALL=C", "TZ=UTC")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{watch} // fd 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: f.as}
	if err := cmd.Start(); err != nil {
		_ = leash.Close()
		return nil, fmt.Errorf("start %s as %s: %w", argv[0], userName(f.as), err)
	}
	c := &child{process: cmd.Process, done: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		_, _ = leash.WriteString("\n") // a word: the watcher leaves without killing a pid that may be another's by now
		_ = leash.Close()
		close(c.done)
	}()
	return c, nil
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// shutDown asks a postmaster to stop: fast, then at once, then by force.
func shutDown(p *os.Process, ended func() bool, log *slog.Logger) error {
	for _, step := range []struct {
		signal   syscall.Signal
		patience time.Duration
	}{{syscall.SIGINT, 30 * time.Second}, {syscall.SIGQUIT, 5 * time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
		if err := p.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop postgres process %d: %w", p.Pid, err)
		}
		for end := time.Now().Add(step.patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			if ended() {
				return nil
			}
		}
		log.Warn("postgres does not stop", "pid", p.Pid, "signal", step.signal, "waited", step.patience)
	}
	return fmt.Errorf("stop postgres process %d: still there after SIGKILL", p.Pid)
}

// stopLeftover stops the postmaster that a dead owner left in the folder, and makes a stale pid file harmless. Call it
// with the folder locked: then no living meterhouse uses that server.
func stopLeftover(f *folder, log *slog.Logger) error {
	text, err := f.read("data/postmaster.pid")
	if err != nil {
		return err
	}
	first, rest, _ := strings.Cut(text, "\n")
	pid, _ := strconv.Atoi(first)
	if pid <= 0 { // none, or cut off by a crash of the machine, which Postgres would refuse
		if err := os.Remove(f.file("data/postmaster.pid")); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data := f.file("data")
	if isPostmaster(pid, data) {
		log.Warn("stopping a postgres whose owner died", "pid", pid, "dir", f.path)
		p, err := os.FindProcess(pid)
		if err != nil {
			return err
		}
		return shutDown(p, func() bool { return !isPostmaster(pid, data) }, log)
	}
	// The pid is free, a zombie or somebody else's by now; in the last two cases Postgres would refuse to start. It
	// takes the pid of its parent, which is us, for stale, and still checks that no old backend holds the shared
	// memory named further down in the file. Removing the file would lose that check.
	return f.write("data/postmaster.pid", strconv.Itoa(os.Getpid())+"\n"+rest+"\n")
}

// isPostmaster says whether the pid is a living postmaster of this data folder. A zombie has no command line.
func isPostmaster(pid int, data string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if _, procErr := os.Stat("/proc/self/cmdline"); procErr != nil {
		line, err = exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	}
	return err == nil && strings.Contains(string(line), "postgres") && strings.Contains(string(line), data)
}
