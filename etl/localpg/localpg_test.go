package localpg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestMain turns the test binary into an owner that starts a server, tells about it and waits to be killed.
func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv("LOCALPG_OWNER"); ok {
		s, err := Start(context.Background(), Config{Dir: dir})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Printf("%s\n%d\n%s\n", s.folder.path, s.child.process.Pid, s.URL(""))
		_, _ = io.Copy(io.Discard, os.Stdin)
		if err := s.Stop(); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// public returns a folder that any user may enter, unlike t.TempDir.
func public(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "localpg-test-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return resolved(t, dir)
}

// resolved follows links, since /tmp is one on some systems.
func resolved(t *testing.T, dir string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	must(t, err)
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.Log = testLog(t)
	s, err := Start(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, s.Stop()) })
	return s
}

// query returns the one text value of a query.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer conn.Close(t.Context())
	var got string
	must(t, conn.QueryRow(t.Context(), sql).Scan(&got))
	return got
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), sql)
	must(t, err)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 15s: %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestTemporaryServer(t *testing.T) {
	s := run(t, Config{Settings: map[string]string{"work_mem": "7MB", "application_name": `it's a \ test`}})
	for sql, want := range map[string]string{
		"select current_user::text":                                             "meterhouse",
		"select rolsuper::text from pg_roles where rolname = current_user":      "true",
		"show server_encoding":                                                  "UTF8",
		"select datcollate from pg_database where datname = current_database()": "C",
		"show timezone":                "UTC",
		"show fsync":                   "off",
		"show synchronous_commit":      "off",
		"show work_mem":                "7MB",
		"show listen_addresses":        "127.0.0.1",
		"show unix_socket_directories": "",
		"select string_agg(distinct auth_method, ' ') from pg_hba_file_rules": "scram-sha-256",
		"select reset_val from pg_settings where name = 'application_name'":   `it's a \ test`,
	} {
		if got := query(t, s.URL(""), sql); got != want {
			t.Errorf("%s: got %q, want %q", sql, got, want)
		}
	}
	exec1(t, s.URL(""), `create database "odd name/?"`)
	if got := query(t, s.URL("odd name/?"), "select current_database()::text"); got != "odd name/?" {
		t.Errorf("database: got %q", got)
	}
	if got := s.Describe(); !strings.HasPrefix(got, "PostgreSQL "+s.binaries.Version+" from "+s.binaries.Dir) || strings.Contains(got, "\n") {
		t.Errorf("Describe: got %q", got)
	}
	wrong := strings.Replace(s.URL(""), s.password, "guess", 1)
	if _, err := pgx.Connect(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("wrong password: got %v", err)
	}
	must(t, s.Stop())
	must(t, s.Stop())
	if exists(s.folder.path) {
		t.Errorf("%s is still there after Stop", s.folder.path)
	}
}

func TestKeptFolder(t *testing.T) {
	dir := filepath.Join(public(t), "new", "kept")
	first := run(t, Config{Dir: dir, Durable: true})
	if got := query(t, first.URL(""), "show fsync"); got != "on" {
		t.Errorf("fsync: got %s, want on", got)
	}
	exec1(t, first.URL(""), "create table kept as select 'data' as v")
	must(t, first.Stop())

	second := run(t, Config{Dir: dir, Durable: true})
	if got := query(t, second.URL(""), "select v from kept"); got != "data" {
		t.Errorf("got %q, want the row of the first start", got)
	}
	if second.URL("x") != first.URL("x") {
		t.Errorf("URL changed from %s to %s", first.URL("x"), second.URL("x"))
	}
	must(t, second.Stop())

	taken, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(second.port))
	must(t, err)
	defer taken.Close()
	second.child = nil
	if err := second.launch(t.Context()); !errors.Is(err, errTryAgain) {
		t.Errorf("launch on a taken port: got %v, want errTryAgain", err)
	}
	third := run(t, Config{Dir: dir})
	if third.port == second.port {
		t.Errorf("port %d is taken and was used again", third.port)
	}
	if got := query(t, third.URL(""), "select v from kept"); got != "data" {
		t.Errorf("got %q on another port", got)
	}
}

// owner is another process that runs a server.
type owner struct {
	cmd    *exec.Cmd
	server int // pid of the postmaster
	folder string
	url    string
}

// own starts this test binary, or a copy of it, as an owner; see TestMain.
func own(t *testing.T, binary, dir string, as *syscall.Credential) owner {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Dir = filepath.Dir(binary)
	cmd.Env = append(os.Environ(), "LOCALPG_OWNER="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() }) // it stops its server, unless it was killed
	var said []string
	for lines := bufio.NewScanner(out); len(said) < 3 && lines.Scan(); {
		said = append(said, lines.Text())
	}
	if len(said) < 3 {
		t.Fatalf("owner said %q, want folder, pid and URL", said)
	}
	pid, err := strconv.Atoi(said[1])
	must(t, err)
	return owner{cmd, pid, said[0], said[2]}
}

func (o owner) kill(t *testing.T) {
	t.Helper()
	must(t, o.cmd.Process.Kill())
	_ = o.cmd.Wait()
}

func (o owner) serverRuns() bool { return isPostmaster(o.server, filepath.Join(o.folder, "data")) }

func TestLiveFolderIsRefused(t *testing.T) {
	dir := filepath.Join(public(t), "kept")
	o := own(t, os.Args[0], dir, nil)
	_, err := Start(t.Context(), Config{Dir: dir})
	want := fmt.Sprintf("localpg: start %s: folder is in use by meterhouse process %d: stop that process or choose another folder",
		dir, o.cmd.Process.Pid)
	if !errors.Is(err, ErrInUse) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	query(t, o.url, "select 'not disturbed'")

	run(t, Config{Dir: dir + "2"})
	if _, err := Start(t.Context(), Config{Dir: dir + "2"}); !errors.Is(err, ErrInUse) {
		t.Errorf("twice in one process: got %v, want ErrInUse", err)
	}
}

func TestKilledOwnerLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", public(t)) // a sweep sees only our folders
	living, dead := own(t, os.Args[0], "", nil), own(t, os.Args[0], "", nil)
	dead.kill(t)
	eventually(t, "server of a killed owner ends", func() bool { return !dead.serverRuns() })

	run(t, Config{})
	if exists(dead.folder) {
		t.Errorf("%s of a killed owner survived the next Start", dead.folder)
	}
	query(t, living.url, "select 'not swept'")
	living.kill(t)
	eventually(t, "server of a killed owner ends", func() bool { return !living.serverRuns() })
	run(t, Config{})
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*")); len(left) != 2 {
		t.Errorf("got folders %q, want only those of the two running servers", left)
	}
}

func TestSweepNeverTakesALivingFolder(t *testing.T) {
	t.Setenv("TMPDIR", public(t))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				f, err := openFolder("", slog.New(slog.DiscardHandler)) // sweeps first
				if err != nil {
					t.Error(err)
					return
				}
				if !exists(f.file(lockName)) {
					t.Errorf("%s was swept while in use", f.path)
				}
				if err := f.close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestKilledOwnerOfKeptFolder(t *testing.T) {
	dir := filepath.Join(public(t), "kept")
	o := own(t, os.Args[0], dir, nil)
	exec1(t, o.url, "create table kept as select 'data' as v")
	o.kill(t)
	s := run(t, Config{Dir: dir}) // at once, while the watcher does its work
	if got := query(t, s.URL(""), "select v from kept"); got != "data" {
		t.Errorf("got %q", got)
	}
}

// TestLeftoverServer is the case that the watcher was killed too.
func TestLeftoverServer(t *testing.T) {
	dir := filepath.Join(public(t), "kept")
	s := run(t, Config{Dir: dir})
	exec1(t, s.URL(""), "create table kept as select 'data' as v")
	must(t, s.Stop())

	data := s.folder.file("data")
	orphan := exec.Command(filepath.Join(s.binaries.Dir, "postgres"), "-D", data, "-c", "config_file="+s.folder.file("postgresql.conf"))
	orphan.Dir = data
	orphan.SysProcAttr = &syscall.SysProcAttr{Credential: s.folder.as}
	must(t, orphan.Start())
	ended := make(chan error, 1)
	go func() { ended <- orphan.Wait() }()
	eventually(t, "leftover server answers", func() bool { return s.ping(t.Context()) == nil })

	again := run(t, Config{Dir: dir})
	must(t, <-ended)
	if got := query(t, again.URL(""), "select v from kept"); got != "data" {
		t.Errorf("got %q", got)
	}
}

func TestStalePidFile(t *testing.T) {
	dir := filepath.Join(public(t), "kept")
	sleeper := exec.Command("sleep", "600")
	must(t, sleeper.Start())
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	zombie := exec.Command("true")
	must(t, zombie.Start()) // not waited for until the end
	t.Cleanup(func() { _ = zombie.Wait() })

	s := run(t, Config{Dir: dir})
	for name, pid := range map[string]string{
		"dead":         "4194303",
		"somebody's":   strconv.Itoa(sleeper.Process.Pid),
		"a zombie":     strconv.Itoa(zombie.Process.Pid),
		"cut off":      "",
		"not a number": "x",
	} {
		// Killed by force, so that the file is the real one.
		must(t, s.child.process.Kill())
		<-s.child.done
		must(t, s.Stop())
		text, err := s.folder.read("data/postmaster.pid")
		must(t, err)
		_, rest, _ := strings.Cut(text, "\n")
		if pid == "" {
			rest = ""
		}
		must(t, s.folder.write("data/postmaster.pid", pid+"\n"+rest))
		t.Logf("pid in file is %s", name)
		s = run(t, Config{Dir: dir})
	}
	if err := syscall.Kill(sleeper.Process.Pid, 0); err != nil {
		t.Errorf("the process that got the pid was hurt: %v", err)
	}
}

func TestRefusedFolders(t *testing.T) {
	base := public(t)
	write := func(name, text string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(base, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(base, name), []byte(text), 0o644))
	}
	write("foreign/notes.txt", "mine")
	write("ancient/"+lockName, "")
	write("ancient/data/PG_VERSION", "9.6\n")
	write("future/"+lockName, "")
	write("future/data/PG_VERSION", "99\n")
	write("nopassword/"+lockName, "")
	b, err := Installed(t.Context(), 0)
	must(t, err)
	write("nopassword/data/PG_VERSION", strconv.Itoa(b.Major)+"\n")
	want := map[string]string{
		"foreign":    "holds 1 files that are not ours (no meterhouse.lock), want an empty or a new folder",
		"ancient":    "folder was made by PostgreSQL 9.6, want 15 to 18",
		"future":     "folder was made by PostgreSQL 99 and needs the same to run: install it (apt-get install postgresql-99)",
		"nopassword": "the file password is missing",
	}
	if os.Geteuid() == 0 {
		must(t, os.Mkdir(filepath.Join(base, "closed"), 0o700))
		want["closed/pg"] = "user " + userName(mustRunAs(t)) + " cannot enter " + base + "/closed, and as root"
	}
	for name, text := range want {
		s, err := Start(t.Context(), Config{Dir: filepath.Join(base, name)})
		if err == nil {
			must(t, s.Stop())
		}
		if got := fmt.Sprint(err); !strings.HasPrefix(got, "localpg: start "+base+"/"+name+": "+text) {
			t.Errorf("%s: got  %s\nwant %s…", name, got, text)
		}
	}
}

func mustRunAs(t *testing.T) *syscall.Credential {
	t.Helper()
	as, err := runAs("")
	must(t, err)
	return as
}

func TestFailedStartShowsTheLogAndLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", public(t))
	_, err := Start(t.Context(), Config{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("got %v, want the server's own words", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestUsers: root drops to another user, and an ordinary user needs nobody.
func TestUsers(t *testing.T) {
	uid := func(o owner) uint32 { // the server makes this file itself
		uid, _, ok := ownerOf(filepath.Join(o.folder, "data/postmaster.pid"))
		if !ok {
			t.Fatalf("%s has no postmaster.pid", o.folder)
		}
		return uid
	}
	if os.Geteuid() != 0 {
		if got := uid(own(t, os.Args[0], "", nil)); got != uint32(os.Geteuid()) {
			t.Errorf("server runs as %d, want us, %d", got, os.Geteuid())
		}
		return
	}
	as := mustRunAs(t)
	if got := uid(own(t, os.Args[0], "", nil)); got != as.Uid || got == 0 {
		t.Errorf("server of root runs as %d, want %d", got, as.Uid)
	}

	// The same program as an ordinary user, who then shares a folder of his with root.
	base := public(t)
	binary, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(base+"/program", binary, 0o755))
	other := &syscall.Credential{Uid: 65534, Gid: 65534}
	must(t, os.Mkdir(base+"/his", 0o755))
	must(t, os.Chown(base+"/his", int(other.Uid), int(other.Gid)))
	dir := base + "/his/kept"
	var last owner
	for _, who := range []*syscall.Credential{other, nil, other} {
		o := own(t, base+"/program", dir, who)
		if got := uid(o); got != other.Uid {
			t.Errorf("server runs as %d, want the owner of the folder, %d", got, other.Uid)
		}
		query(t, o.url, "select 'root connects'")
		o.kill(t)
		last = o
	}
	eventually(t, "the last server ends, so that its folder can go", func() bool { return !last.serverRuns() })
}
