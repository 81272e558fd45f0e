package warehousetest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncer starts the real one in front of the database at url, in transaction mode and with
// poolSize sessions, and returns the URL of the way through it. It ends with the test, by kill -9 too. Where the
// program is not installed, see Lacking.
func PgBouncer(t testing.TB, url string, poolSize int) string {
	t.Helper()
	program, err := findPgBouncer()
	if err != nil {
		Lacking(t, "PGBOUNCER", err.Error()+" (apt-get install pgbouncer)")
	}
	// A port may be taken between our look and its bind.
	for attempt := 1; ; attempt++ {
		way, err := startPgBouncer(t, program, url, poolSize)
		if err == nil {
			return way
		}
		if attempt == 3 {
			t.Fatalf("pgbouncer: %v", err)
		}
	}
}

func findPgBouncer() (string, error) {
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	const path = "/usr/sbin/pgbouncer" // which is not in everybody's PATH
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("pgbouncer is not installed")
	}
	return path, nil
}

// leashed runs a program that ends when the other end of fd 3 is closed, as by our death.
const leashed = `((read -r word <&3 || kill -TERM $$) &)
exec "$@" 3<&-`

func startPgBouncer(t testing.TB, program, target string, poolSize int) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()

	dir := reachable(t)
	password, _ := u.User.Password()
	config := filepath.Join(dir, "pgbouncer.ini")
	log := filepath.Join(dir, "pgbouncer.log")
	database := strings.TrimPrefix(u.Path, "/")
	text := fmt.Sprintf(`[databases]
%s = host=%s port=%s user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = %d
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
logfile = %s
`, database, u.Hostname(), u.Port(), u.User.Username(), password, port, poolSize, log)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", err
	}
	watch, leash, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer watch.Close()
	cmd := exec.Command("/bin/sh", "-c", leashed, "sh", program, config)
	cmd.ExtraFiles = []*os.File{watch}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 { // it refuses to be root
		as, err := user.Lookup("postgres")
		if err != nil {
			as, err = user.Lookup("nobody")
		}
		if err != nil {
			return "", err
		}
		uid, _ := strconv.Atoi(as.Uid)
		gid, _ := strconv.Atoi(as.Gid)
		for _, path := range []string{dir, config} {
			if err := os.Chown(path, uid, gid); err != nil {
				return "", err
			}
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	stop := func() {
		leash.Close()
		<-ended
	}
	way := through(t, target, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, way)
		if err == nil {
			conn.Close(ctx)
			t.Cleanup(stop)
			return way, nil
		}
		select {
		case <-ended:
			said, _ := os.ReadFile(log)
			leash.Close()
			return "", fmt.Errorf("it ended: %s", said)
		case <-ctx.Done():
			stop()
			return "", err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
