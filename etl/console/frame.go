package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// page is one kind of page: a file of Go with its load, sql/NAME.sql for what it lists, templates/NAME.html
// for how it looks. List it in pages.
type page struct {
	path     string // pattern of [http.ServeMux]
	nav      string // its name in the navigation; empty: not there
	template string // templates/NAME.html, which defines "content"
	role     Role   // least, where there are users
	tables   []*table
	load     func(*view) (content, error)
}

// content is what a page puts into the frame.
type content struct {
	Title   string
	Refresh int    // seconds until there may be news; in the frame until the browser asks again; 0: it does not
	Still   string // path of the same that asks again by itself, or while it does, that stops; empty: no news to come
	Data    any    // of its template
}

// pages are all there are, in the order of the navigation.
func pages() []page {
	return []page{
		overviewPage(), freshnessPage(), coveragePage(), coverageDayPage(), consumptionPage(), levelPage(),
		monthPage(), monthTablePage("/month/statement", "Statement", statementTable), monthTablePage("/month/adjustments", "Adjustments", adjustmentsTable),
		monthTablePage("/month/match", "Invoice match", matchTable), closePage(),
		runsPage(), runPage(), followPage(), payloadPage(), quarantinePage(), refusedPage(),
	}
}

// action is a form that changes something. Doing returns where to go then and what to say there.
type action struct {
	path string
	role Role
	do   func(*http.Request, visitor) (to, said string, err error)
}

// Refused is an error of a function in [Config] whose text is for people: it says what they asked for and why
// it is not done. Any other error goes to the log only.
type Refused string

func (r Refused) Error() string { return string(r) }

// notUnderstood is what somebody asked for and cannot be read, and what is wanted.
type notUnderstood string

func (n notUnderstood) Error() string { return string(n) }

var errNotThere = errors.New("there is no such thing")

//go:embed templates/*.html
var templates embed.FS

//go:embed static
var static embed.FS

const (
	pageWithin  = 5 * time.Second
	mostReaders = 4
	// Those who download may take minutes, so they wait for each other and not for those who look.
	mostDownloads = 2
	mostRefused   = 1000 // bytes of a reason, and of what a message says
	actionWithin  = 20 * time.Second
	live          = "live" // in the address of a page that loads itself again until it is over
)

// frame is what templates/frame.html is given.
type frame struct {
	content
	Nav     []navItem
	Who     visitor
	Said    string
	Trouble string // is said as trouble
	Notice  string
	Version string // of the program
	Style   string // path
	Now     string
	HasLogs bool // there are users to log in and out
}

type navItem struct {
	Name, Path string
	IsCurrent  bool
}

// visitor is who asks.
type visitor struct {
	Name  string // empty without users
	Role  Role
	Token string // proves that a form is ours
	users bool
	id    string // of the session or of the browser
}

// May tells whether the visitor may do what takes the role.
func (v visitor) May(role string) bool {
	r, err := ParseRole(role)
	return err == nil && v.Role >= r
}

// MayRead tells whether the visitor may see what vendors sent, as they sent it.
func (v visitor) MayRead() bool { return !v.users || v.Role >= Operator }

// person is how the visitor is called in records of decisions.
func (v visitor) person() string {
	if v.Name == "" {
		return "the console"
	}
	return v.Name
}

var functions = template.FuncMap{
	"time":     shortTime,
	"code":     markCode,
	"words":    func(name string) string { return strings.ReplaceAll(name, "_", " ") },
	"instance": func(level, ordinal cell) string { return instance(level.Text, ordinal.Text) },
	"list":     func(items ...any) []any { return items },
	"dict": func(pairs ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i+1 < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1]
		}
		return m
	},
}

// markCode shows what stands between backquotes as something to type.
func markCode(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			b.WriteString("<code>" + template.HTMLEscapeString(part) + "</code>")
		} else {
			b.WriteString(template.HTMLEscapeString(part))
		}
	}
	return template.HTML(b.String())
}

// parse reads all templates: each page in a frame of its own.
func parse() map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(functions).ParseFS(templates, "templates/frame.html", "templates/table.html", "templates/parts.html"))
	all := map[string]*template.Template{}
	names, _ := fs.Glob(templates, "templates/*.html")
	for _, name := range names {
		short := strings.TrimSuffix(strings.TrimPrefix(name, "templates/"), ".html")
		if short == "frame" || short == "table" || short == "parts" {
			continue
		}
		all[short] = template.Must(template.Must(shared.Clone()).ParseFS(templates, name))
	}
	return all
}

// routes adds pages, downloads, actions and static files.
func (s *Server) routes(mux *http.ServeMux) {
	for _, p := range pages() {
		mux.Handle("GET "+p.path, s.visit(p.role, func(w http.ResponseWriter, r *http.Request, who visitor) { s.show(w, r, who, p) }))
		for _, t := range p.tables {
			mux.Handle("GET /"+t.name+".csv", s.visit(p.role, s.download(t)))
		}
	}
	mux.Handle("GET /payloads/{id}/body", s.visit(Viewer, s.body))
	mux.Handle("GET /month/workbook", s.visit(Viewer, s.monthFile("statement-%s.xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
		func(f Finance) func(context.Context, io.Writer, string) error { return f.Workbook })))
	mux.Handle("GET /month/focus", s.visit(Viewer, s.monthFile("focus-%s.zip", "application/zip",
		func(f Finance) func(context.Context, io.Writer, string) error { return f.FOCUS })))
	for _, a := range s.actions() {
		mux.Handle("POST "+a.path, s.visit(a.role, func(w http.ResponseWriter, r *http.Request, who visitor) { s.act(w, r, who, a) }))
	}
	if s.users != nil {
		mux.Handle("GET /login", http.HandlerFunc(s.loginForm))
		mux.Handle("POST /login", http.HandlerFunc(s.login))
		mux.Handle("POST /logout", http.HandlerFunc(s.logout))
	}
	files, _ := fs.Sub(static, "static")
	serve := http.StripPrefix("/static/", http.FileServerFS(files))
	mux.HandleFunc("GET /static/{file}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		serve.ServeHTTP(w, r)
	})
	mux.Handle("/", s.visit(Viewer, func(w http.ResponseWriter, r *http.Request, who visitor) {
		s.trouble(w, r, who, http.StatusNotFound, "Not found", "There is no page at this address.")
	}))
}

// stylesheet is the path of our style, which changes with it.
func stylesheet() string {
	text, _ := static.ReadFile("static/console.css")
	return fmt.Sprintf("/static/console.css?v=%x", sha256.Sum256(text))[:len("/static/console.css?v=")+8]
}

// visit finds out who asks and whether they may.
func (s *Server) visit(least Role, next func(http.ResponseWriter, *http.Request, visitor)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.users == nil {
			if !isFromHere(r) {
				say(w, http.StatusForbidden, notFromHere)
				return
			}
			who := s.anybody(w, r)
			if who.Role < least {
				s.trouble(w, r, who, http.StatusForbidden, "Not allowed", fmt.Sprintf("This takes the role %s. Configure users (console.users), or use the command line.", least))
				return
			}
			next(w, r, who)
			return
		}
		id := s.cookie(r, sessionCookie)
		name := s.sessions.find(id)
		user, exists := s.cfg.Users[name]
		switch {
		case id == "" || !exists:
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				s.trouble(w, r, visitor{users: true}, http.StatusUnauthorized, "Please log in", "Nobody is logged in here any more, so nothing was done. Log in and do it again.")
				return
			}
			to := "/login"
			if r.URL.Path != "/" {
				to += "?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
		default:
			who := visitor{Name: name, Role: user.Role, users: true, id: id}
			who.Token = sign(s.key, "form", id)
			if user.Role < least {
				s.trouble(w, r, who, http.StatusForbidden, "Not allowed", fmt.Sprintf("This takes the role %s; you have the role %s.", least, user.Role))
				return
			}
			next(w, r, who)
		}
	})
}

// anybody is a visitor where there are no users: a browser on this machine.
func (s *Server) anybody(w http.ResponseWriter, r *http.Request) visitor {
	id := s.cookie(r, visitCookie)
	if len(id) < 40 {
		id = newID()
		s.setCookie(w, visitCookie, id, 0)
	}
	return visitor{Role: s.cfg.Anybody, id: id, Token: sign(s.key, "form", id)}
}

// Names of cookies.
const (
	sessionCookie = "meterhouse_session"
	visitCookie   = "meterhouse_visit"
	flashCookie   = "meterhouse_said"
)

// cookieName binds a cookie to this host and to TLS, where there is TLS.
func (s *Server) cookieName(name string) string {
	if s.isSecure {
		return "__Host-" + name
	}
	return name
}

func (s *Server) cookie(r *http.Request, name string) string {
	c, err := r.Cookie(s.cookieName(name))
	if err != nil {
		return ""
	}
	return c.Value
}

// setCookie gives the browser a value; maxAge in seconds, 0 until it is closed, negative: at once.
func (s *Server) setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(name), Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: s.isSecure, SameSite: http.SameSiteStrictMode,
	})
}

// show answers with a page.
func (s *Server) show(w http.ResponseWriter, r *http.Request, who visitor, p page) {
	var c content
	err := s.read(r.Context(), pageWithin, func(ctx context.Context, v *view) (err error) {
		v.r, v.who = r, who
		c, err = p.load(v)
		return err
	})
	if err != nil {
		s.failAs(w, r, who, err)
		return
	}
	if c.Refresh > 0 {
		// A page that loads itself again takes what somebody types and the place where they read. So it does that for
		// those who ask for it only.
		asked := r.URL.Query()
		if asked.Has(live) {
			asked.Del(live)
		} else {
			c.Refresh = 0
			asked.Set(live, "1")
		}
		c.Still = r.URL.Path + "?" + asked.Encode()
	}
	s.render(w, r, who, http.StatusOK, p.template, c)
}

// render writes a page in the frame, whole or not at all.
func (s *Server) render(w http.ResponseWriter, r *http.Request, who visitor, status int, name string, c content) {
	f := frame{content: c, Who: who, Notice: s.cfg.Notice, Version: s.cfg.Version, Style: s.style, Now: shortTime(s.cfg.Now().UTC().Format("2006-01-02 15:04:05+00")), HasLogs: s.users != nil}
	if s.users == nil || who.Name != "" {
		for _, p := range pages() {
			if p.nav != "" {
				path := strings.TrimSuffix(p.path, "{$}")
				f.Nav = append(f.Nav, navItem{p.nav, path, path == r.URL.Path || path != "/" && strings.HasPrefix(r.URL.Path, path+"/")})
			}
		}
	}
	f.Said, f.Trouble = s.takeFlash(w, r, who)
	var b bytes.Buffer
	if err := s.templates[name].ExecuteTemplate(&b, "frame", f); err != nil {
		s.cfg.Log.Error("page not shown", "page", name, "error", err)
		say(w, http.StatusInternalServerError, "this page cannot be shown: the log says why")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // a reader that went away
}

// trouble answers with a page that says what is wrong.
func (s *Server) trouble(w http.ResponseWriter, r *http.Request, who visitor, status int, title, text string) {
	s.render(w, r, who, status, "trouble", content{Title: title, Data: text})
}

// failAs answers with why something could not be shown or done. What the cause is goes to the log.
func (s *Server) failAs(w http.ResponseWriter, r *http.Request, who visitor, err error) {
	var pg *pgconn.PgError
	var late notComputed
	var wrong notUnderstood
	switch {
	case errors.Is(err, errNotThere):
		s.trouble(w, r, who, http.StatusNotFound, "Not found", "There is nothing of this number or day. What is old may have been removed.")
	case errors.As(err, &late):
		w.Header().Set("Retry-After", "60")
		s.trouble(w, r, who, http.StatusServiceUnavailable, "Not there", late.Error())
	case errors.As(err, &wrong):
		s.trouble(w, r, who, http.StatusBadRequest, "Not understood", string(wrong))
	case errors.As(err, &pg) && strings.HasPrefix(pg.Code, "22"): // a date that is none
		s.trouble(w, r, who, http.StatusBadRequest, "Not understood", "What was asked for cannot be read as a number or date.")
	case r.Context().Err() != nil: // the reader went away
	case errors.As(err, &pg) && pg.Code == "57014", errors.Is(err, context.DeadlineExceeded):
		s.cfg.Log.Warn("page took too long", "path", r.URL.Path, "error", err)
		s.trouble(w, r, who, http.StatusServiceUnavailable, "This took too long", "The database did not answer in time. Narrow the search, or try again later.")
	default:
		id := rand.Text()[:8]
		s.cfg.Log.Error("page failed", "id", id, "method", r.Method, "path", r.URL.Path, "error", err)
		s.trouble(w, r, who, http.StatusInternalServerError, "Something went wrong", "Nothing was changed by looking. The log of meterhouse has the cause under "+id+".")
	}
}

// act does what a form asks for, and leads to a page that says so: loading that page again does nothing.
func (s *Server) act(w http.ResponseWriter, r *http.Request, who visitor, a action) {
	if !s.isOurs(r, who.id) {
		s.trouble(w, r, who, http.StatusForbidden, "Not done", "This form is not from a page of this console, or from before it was started again. Go back, load the page again and repeat it.")
		return
	}
	to, said, err := a.do(r, who)
	var refused Refused
	switch {
	case errors.As(err, &refused):
		s.flash(w, who, "!", string(refused))
	case err != nil:
		s.failAs(w, r, who, err)
		return
	default:
		s.flash(w, who, "", said)
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// isOurs tells whether a form was made for this browser by this process.
func (s *Server) isOurs(r *http.Request, id string) bool {
	return id != "" && signed(s.key, "form", id, r.PostFormValue("token"))
}

// flash keeps a sentence for the next page, in the browser. A mark in front makes it trouble.
func (s *Server) flash(w http.ResponseWriter, who visitor, mark, text string) {
	if text == "" {
		return
	}
	value := base64.RawURLEncoding.EncodeToString([]byte(mark + "|" + clip(text, mostRefused)))
	s.setCookie(w, flashCookie, value+"."+sign(s.key, "said", who.id+value), 60)
}

func (s *Server) takeFlash(w http.ResponseWriter, r *http.Request, who visitor) (said, trouble string) {
	value, signature, ok := strings.Cut(s.cookie(r, flashCookie), ".")
	if !ok {
		return "", ""
	}
	s.setCookie(w, flashCookie, "", -1)
	text, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || !signed(s.key, "said", who.id+value, signature) {
		return "", ""
	}
	mark, sentence, _ := strings.Cut(string(text), "|")
	if mark == "!" {
		return "", sentence
	}
	return sentence, ""
}

// clip cuts a text to so many bytes at most, between letters.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}

// address is where a request is from. What a proxy says counts only where one is configured to be in front.
func (s *Server) address(r *http.Request) string {
	if s.cfg.URL != "" {
		// A proxy adds what it sees at the end, in the same line or in one of its own; some add the port.
		all := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		said := strings.TrimSpace(all[len(all)-1])
		if at, err := netip.ParseAddrPort(said); err == nil {
			return at.Addr().String()
		}
		if at, err := netip.ParseAddr(strings.Trim(said, "[]")); err == nil {
			return at.String()
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// loginPage is what templates/login.html is given.
type loginPage struct{ Next, User, Wrong string }

func (s *Server) loginForm(w http.ResponseWriter, r *http.Request) {
	s.askLogin(w, r, http.StatusOK, loginPage{Next: ownPath(r.URL.Query().Get("next"))})
}

func (s *Server) askLogin(w http.ResponseWriter, r *http.Request, status int, data loginPage) {
	who := s.anybody(w, r)
	who.users, who.Role = true, Viewer
	s.render(w, r, who, status, "login", content{Title: "Log in", Data: data})
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	name, password := r.PostFormValue("user"), r.PostFormValue("password")
	data := loginPage{Next: ownPath(r.PostFormValue("next")), User: clip(name, 100)}
	if !s.isOurs(r, s.cookie(r, visitCookie)) {
		data.Wrong = "This page was too old: please try again."
		s.askLogin(w, r, http.StatusForbidden, data)
		return
	}
	right, err := s.users.verify(name, password, s.address(r))
	switch {
	case errors.Is(err, errTries):
		s.cfg.Log.Warn("login refused: too many attempts", "user", s.users.named(name), "address", s.address(r))
		w.Header().Set("Retry-After", fmt.Sprint(int(triesWithin.Seconds())))
		data.Wrong = "Too many wrong attempts for this user from this address. Wait 15 minutes."
		s.askLogin(w, r, http.StatusTooManyRequests, data)
	case !right:
		s.cfg.Log.Warn("login refused", "user", s.users.named(name), "address", s.address(r))
		data.Wrong = "User or password is wrong."
		s.askLogin(w, r, http.StatusUnauthorized, data)
	default:
		s.sessions.end(s.cookie(r, sessionCookie))
		s.setCookie(w, sessionCookie, s.sessions.begin(name), 0)
		s.setCookie(w, visitCookie, "", -1)
		s.cfg.Log.Info("logged in", "user", name, "address", s.address(r))
		http.Redirect(w, r, data.Next, http.StatusSeeOther)
	}
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	id := s.cookie(r, sessionCookie)
	if s.isOurs(r, id) {
		s.sessions.end(id)
		s.setCookie(w, sessionCookie, "", -1)
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// ownPath is a path of ours to go to, and the first page for anything else.
func ownPath(path string) string {
	u, err := url.Parse(path)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\\\r\n\t") {
		return "/"
	}
	return path
}

// body answers with a landed body as a file.
func (s *Server) body(w http.ResponseWriter, r *http.Request, who visitor) {
	if !who.MayRead() {
		s.trouble(w, r, who, http.StatusForbidden, "Not allowed", fmt.Sprintf("What a vendor sent takes the role %s; you have the role %s.", Operator, who.Role))
		return
	}
	id, err := number(r)
	if err != nil {
		s.failAs(w, r, who, err)
		return
	}
	select {
	case s.downloads <- struct{}{}: // it is in memory as long as the reader takes
		defer func() { <-s.downloads }()
	case <-r.Context().Done():
		return
	}
	body, err := s.open(r.Context(), id)
	if err != nil {
		s.failAs(w, r, who, err)
		return
	}
	defer body.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=\"payload-%d.txt\"", id))
	if _, err := io.Copy(&patient{w}, body); err != nil {
		s.cfg.Log.Warn("download cut off", "payload", id, "error", err)
		panic(http.ErrAbortHandler)
	}
}
