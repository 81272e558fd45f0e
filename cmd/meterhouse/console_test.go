package main

import (
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"meterhouse/etl/console"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

// visitor is somebody with a browser that keeps cookies.
type visitor struct {
	t    *testing.T
	base string
	http *http.Client
}

func newVisitor(t *testing.T, base string) *visitor {
	jar, _ := cookiejar.New(nil)
	return &visitor{t, strings.TrimSuffix(base, "/"), &http.Client{Jar: jar}}
}

// ask returns the page at the end of all redirects, and where that is.
func (v *visitor) ask(path string, form url.Values) (text, at string) {
	v.t.Helper()
	var res *http.Response
	var err error
	if form == nil {
		res, err = v.http.Get(v.base + path)
	} else {
		res, err = v.http.PostForm(v.base+path, form)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return string(body), res.Request.URL.RequestURI()
}

var formToken = regexp.MustCompile(`name="token" value="([0-9a-f]+)"`)

// send sends a form that is on a page.
func (v *visitor) send(page, path string, form url.Values) (text, at string) {
	v.t.Helper()
	shown, _ := v.ask(page, nil)
	token := formToken.FindStringSubmatch(shown)
	if token == nil {
		v.t.Fatalf("%s has no form:\n%s", page, shown)
	}
	form.Set("token", token[1])
	return v.ask(path, form)
}

// load begins a load and follows it to its end.
func (v *visitor) load(dataset, scope string) (text string) {
	v.t.Helper()
	text, at := v.send("/freshness", "/loads", url.Values{"dataset": {dataset}, "scope": {scope}})
	for deadline := time.Now().Add(time.Minute); strings.Contains(text, `class="hint again"`); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			v.t.Fatalf("%s never ends:\n%s", at, text)
		}
		text, _ = v.ask(at, nil)
	}
	return text
}

// What the console does is what the commands do: loads, retries and dismissals, and the words of status.
func TestConsoleDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wolkvox.Inject(wolkvoxsim.Fault{Kind: wolkvoxsim.Items, API: "chat_licenses", Body: []byte("twelve")})
	w.must(exitPartial, "run")
	v := newVisitor(t, "http://"+w.shownConsole().Addr())

	before := w.value(`select max(run_id)::text from ops.run`)
	text := v.load("keystone.subscriptions", "C-1001")
	run := w.value(`select max(run_id)::text from ops.run where dataset = 'keystone.subscriptions' and scope = 'C-1001'`)
	if run <= before && len(run) == len(before) || !strings.Contains(text, `<a href="/runs/`+run+`">`) || !strings.Contains(text, "it has ended") {
		t.Errorf("a load (run %s after %s):\n%s", run, before, text)
	}
	w.keystone.Inject(keystonesim.Fault{Kind: keystonesim.Status, Status: 403, Path: "/subscriptions-info", Body: []byte(`{"message": "no"}`)})
	if text := v.load("keystone.subscriptions", "C-1001"); !strings.Contains(text, "it failed: ") {
		t.Errorf("a load that fails:\n%s", text)
	}
	if text, _ := v.send("/freshness", "/loads", url.Values{"dataset": {"keystone.history"}, "scope": {"acme"}}); !strings.Contains(text, "Not found") {
		t.Errorf("a load of what is not there:\n%s", text)
	}

	// The overview says what status says, once it is worked out.
	status := w.must(exitDone, "status").stdout
	verdict, _, _ := strings.Cut(status, "\n")
	w.eventually("verdict", "true", func() string {
		text, _ := v.ask("/", nil)
		if strings.Contains(text, verdict) && strings.Contains(text, "<code>meterhouse quarantine list --reason items_unreadable</code>") ||
			strings.Contains(text, verdict) && strings.Contains(text, "meterhouse quarantine list --reason") {
			return "true"
		}
		return verdict + text
	})

	if text, at := v.send("/quarantine/1", "/quarantine/1/retry", url.Values{}); at != "/quarantine/1" || !strings.Contains(text, "refused still") {
		t.Errorf("read again:\n%s", text)
	}
	if text, _ := v.send("/quarantine/1", "/quarantine/1/dismiss", url.Values{"reason": {"not wanted"}}); !strings.Contains(text, "Dismissed.") || !strings.Contains(text, "dismissed by the console: not wanted") {
		t.Errorf("dismissed:\n%s", text)
	}
	if text, _ := v.send("/freshness", "/quarantine/1/dismiss", url.Values{"reason": {"again"}}); !strings.Contains(text, "quarantine 1: is settled: dismissed by the console") {
		t.Errorf("dismissed twice:\n%s", text)
	}

	// A landed answer is shown and handed out as it came.
	payload := w.value(`select payload_id::text from ops.quarantine`)
	body, _ := v.ask("/payloads/"+payload+"/body", nil)
	if text, _ := v.ask("/payloads/"+payload, nil); !strings.Contains(text, "twelve") || !strings.Contains(body, "twelve") {
		t.Errorf("payload %s: %s\n%s", payload, body, text)
	}
	if text, _ := v.ask("/quarantine/1", nil); !strings.Contains(text, "&#34;twelve&#34;") {
		t.Errorf("the refused record is not shown in its answer:\n%s", text)
	}
	for _, path := range []string{"/", "/freshness", "/runs", "/runs/1", "/payloads/" + payload} {
		text, _ := v.ask(path, nil)
		for _, secret := range []string{testKey, w.keystone.RefreshToken(), w.env["KEYSTONE_TOKEN"], w.wolkvox.Token(), w.env["DATABASE_URL"]} {
			if secret != "" && strings.Contains(text, secret) {
				t.Errorf("%s shows a secret", path)
			}
		}
	}
}

// A demo that stays up shows its console first thing, loads when asked, and ends when told.
func TestDemoServes(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out := &process{} // only its buffer
	ended := make(chan int, 1)
	dir := demoDir(t)
	go func() {
		ended <- run(ctx, []string{"--now", testNow, "demo", "--dir", dir, "--days", "2", "--serve"}, nil, strings.NewReader(""), out, io.Discard)
	}()
	says := regexp.MustCompile(`^console: (http://127\.0\.0\.1:\d+)/\n`)
	(&world{t: t}).eventually("the console", "true", func() string {
		if says.MatchString(out.log()) && strings.Contains(out.log(), "\ninserted ") {
			return "true"
		}
		return out.log()
	})
	v := newVisitor(t, says.FindStringSubmatch(out.log())[1])
	if text, _ := v.ask("/", nil); !strings.Contains(text, "A demo: made-up figures") {
		t.Errorf("overview:\n%s", text)
	}
	for _, c := range [][2]string{{"keystone.current", "C-1001"}, {"wolkvox.billing", "callcenter"}} {
		if text := v.load(c[0], c[1]); !strings.Contains(text, "it has ended") || !strings.Contains(text, `<span class="status ok">ok</span>`) {
			t.Errorf("load of %v:\n%s", c, text)
		}
	}
	stop()
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d\n%s", code, out.log())
	}
}

func TestConfigPassword(t *testing.T) {
	t.Parallel()
	o := invoke(t, nil, "correct horse\n", "config", "password")
	hash := strings.TrimSuffix(o.stdout, "\n")
	if o.code != exitDone || console.CheckHash(hash) != nil || bcrypt.CompareHashAndPassword([]byte(hash), []byte("correct horse")) != nil {
		t.Errorf("exit code %d, %q, %s", o.code, o.stdout, o.stderr)
	}
	for _, bad := range []string{"", "short\n", strings.Repeat("x", 73)} {
		if o := invoke(t, nil, bad, "config", "password"); o.code != exitUsage || !strings.Contains(o.stderr, "want 8 to 72") || o.stdout != "" {
			t.Errorf("%q: exit code %d, %s%s", bad, o.code, o.stdout, o.stderr)
		}
	}
}
