package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"meterhouse/etl/keystone/keystonesim"
)

// The vendor is a process of its own, so that what it needs is not counted as ours. It renders every
// series-day once, into files, and sends pieces of them: serving costs the machine next to nothing.

// vendorOrder is what the vendor's process reads from its first line of input. It ends with its input.
type vendorOrder struct {
	Dir   string
	Shape shape
	Casts []cast
}

// vendorReady is its one line of output.
type vendorReady struct {
	URL          string
	RefreshToken string
	Error        string
}

// vendor is the process as its owner sees it.
type vendor struct {
	vendorReady
	cmd   *exec.Cmd
	input io.WriteCloser
}

// asVendor is the variable that makes this program the vendor.
const asVendor = "METERHOUSE_BENCH_VENDOR"

func startVendor(order vendorOrder) (*vendor, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	v := &vendor{cmd: exec.Command(exe)}
	v.cmd.Env = append(os.Environ(), asVendor+"=1")
	v.cmd.Stderr = os.Stderr
	if v.input, err = v.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(v.input).Encode(order); err != nil {
		return nil, errors.Join(err, v.stop())
	}
	if err := json.NewDecoder(output).Decode(&v.vendorReady); err != nil {
		return nil, errors.Join(fmt.Errorf("vendor: read its first line: %w", err), v.stop())
	}
	if v.Error != "" {
		return nil, errors.Join(fmt.Errorf("vendor: %s", v.Error), v.stop())
	}
	return v, nil
}

func (v *vendor) stop() error {
	v.input.Close()
	return v.cmd.Wait()
}

// tell sets how the vendor tells the data from now on, and returns what it has sent so far.
func (v *vendor) tell(st state) (bodies, size int64, err error) {
	text, err := json.Marshal(st)
	if err != nil {
		return 0, 0, err
	}
	resp, err := http.Post(v.URL+"/bench/state", "application/json", bytes.NewReader(text))
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	var sent struct{ Bodies, Bytes int64 }
	if err := json.NewDecoder(resp.Body).Decode(&sent); err != nil {
		return 0, 0, fmt.Errorf("vendor: %s: %w", resp.Status, err)
	}
	return sent.Bodies, sent.Bytes, nil
}

// vendorMain is the process.
func vendorMain(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	var order vendorOrder
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &order); err != nil {
		return err
	}
	h := &shop{shape: order.Shape, casts: map[string]cast{}, sim: keystonesim.New(keystonesim.Config{Seed: order.Shape.Seed, Lenient: true})}
	for _, c := range order.Casts {
		h.casts[c.ID] = c
	}
	var ready vendorReady
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		err = h.render(order.Dir)
	}
	if err != nil {
		ready.Error = err.Error()
	} else {
		ready.URL, ready.RefreshToken = "http://"+listener.Addr().String(), h.sim.RefreshToken()
	}
	if err := json.NewEncoder(out).Encode(ready); err != nil || ready.Error != "" {
		return err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { // whoever started us has ended
		_, _ = io.Copy(io.Discard, lines)
		server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// The texts a series-day is rendered in.
const (
	asIs = iota
	respelledText
	changedText // of the series-days that some state changes
	flippedText // of the month that becomes invoiced, changed days included
	texts
)

// shop answers requests from the rendered files.
type shop struct {
	shape shape
	casts map[string]cast
	sim   *keystonesim.Sim // the token endpoint is its
	text  [texts]rendered
	zip   [2]rendered // asIs and respelledText, each series-day a piece of a deflate stream

	mu            sync.Mutex
	state         state
	bodies, bytes int64 // sent
}

// rendered is a file with the texts of series-days, level by level. Each sample has a comma before it.
type rendered struct {
	path string
	at   []int64 // offset of a series-day; one more for the end
}

func (h *shop) render(dir string) error {
	s := h.shape
	from, until := s.flipped()
	for kind := range h.text {
		st := state{Respelled: kind == respelledText}
		if kind == changedText || kind == flippedText {
			st.Changed, st.Flipped = fivePercent, kind == flippedText
		}
		wanted := func(level, d int) bool {
			switch kind {
			case changedText:
				return s.changedBy(level, d) != nothing
			case flippedText:
				return d >= from && d < until
			}
			return true
		}
		var zip func(w io.Writer) *flate.Writer
		if kind <= respelledText {
			zip = func(w io.Writer) *flate.Writer {
				z, err := flate.NewWriter(w, flate.BestSpeed)
				if err != nil {
					panic(err) // the level is a constant
				}
				return z
			}
		}
		if err := h.renderText(dir, kind, st, wanted, zip); err != nil {
			return err
		}
	}
	return nil
}

func (h *shop) renderText(dir string, kind int, st state, wanted func(level, d int) bool, zip func(io.Writer) *flate.Writer) (err error) {
	s := h.shape
	plain, err := newRendering(dir, fmt.Sprintf("text-%d", kind))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.close(&h.text[kind])) }()
	var packed *rendering
	var z *flate.Writer
	if zip != nil {
		if packed, err = newRendering(dir, fmt.Sprintf("zip-%d", kind)); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, packed.close(&h.zip[kind])) }()
		z = zip(packed)
	}
	var b []byte
	for level := range s.Levels {
		for d := range s.Days {
			plain.mark()
			if packed != nil {
				packed.mark()
			}
			if !wanted(level, d) {
				continue
			}
			b = b[:0]
			s.each(st, level, d, func(v sample) { b = v.appendJSON(append(b, ','), st.Respelled) })
			if _, err := plain.Write(b); err != nil {
				return err
			}
			if packed == nil {
				continue
			}
			z.Reset(packed) // a series-day refers to nothing before it, so that any may follow any
			if _, err := z.Write(b); err != nil {
				return err
			}
			if err := z.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// rendering is a file being written.
type rendering struct {
	*bufio.Writer
	file *os.File
	size int64
	at   []int64
}

func newRendering(dir, name string) (*rendering, error) {
	file, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	return &rendering{Writer: bufio.NewWriterSize(file, 1<<20), file: file}, nil
}

func (r *rendering) Write(b []byte) (int, error) {
	r.size += int64(len(b))
	return r.Writer.Write(b)
}

func (r *rendering) mark() { r.at = append(r.at, r.size) }

func (r *rendering) close(into *rendered) error {
	*into = rendered{r.file.Name(), append(r.at, r.size)}
	return errors.Join(r.Flush(), r.file.Close())
}

const historyPath = "/v1/keystone/customer/historical-consumption-details"

func (h *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/bench/state":
		h.mu.Lock()
		defer h.mu.Unlock()
		if err := json.NewDecoder(r.Body).Decode(&h.state); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, `{"Bodies":%d,"Bytes":%d}`, h.bodies, h.bytes)
	case historyPath:
		if err := h.history(w, r); err != nil {
			http.Error(w, `{"message":`+strconv.Quote(err.Error())+`}`, http.StatusBadRequest)
		}
	default:
		h.sim.ServeHTTP(w, r)
	}
}

func (h *shop) history(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	c, known := h.casts[q.Get("id")]
	if !known {
		return fmt.Errorf("no customer %q", q.Get("id"))
	}
	from, err := h.dayOf(q, "from_date_utc")
	if err != nil {
		return err
	}
	until, err := h.dayOf(q, "to_date_utc")
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.bodies++
	st, number := h.state, h.bodies
	h.mu.Unlock()

	b := h.body(c, st, q, from, until, number)
	w.Header().Set("Content-Type", "application/json")
	var n int64
	if st.Gzip {
		w.Header().Set("Content-Encoding", "gzip")
		n, err = h.sendZipped(w, b)
	} else {
		n, err = h.send(w, b)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // it is too late for another answer
	}
	h.mu.Lock()
	h.bytes += n
	h.mu.Unlock()
	return nil
}

func (h *shop) dayOf(q url.Values, name string) (int, error) {
	t, err := time.Parse(time.RFC3339, q.Get(name))
	if err != nil {
		return 0, err
	}
	return min(max(int(t.Sub(firstDay)/day), 0), h.shape.Days), nil
}

// part is a text, or else a stretch of series-days of one level.
type part struct {
	text        string
	kind        int // of text
	first, next int // series-days
}

// body is the answer to one request.
func (h *shop) body(c cast, st state, q url.Values, from, until int, number int64) (parts []part) {
	text := func(s ...string) {
		for _, s := range s {
			parts = append(parts, part{text: s})
		}
	}
	subscriptions := (c.levels() + perSubscription - 1) / perSubscription
	if from >= until {
		subscriptions = 0
	}
	text(`{"results":{"returned_records":`, strconv.Itoa(subscriptions), `,"records":[`)
	for i := range subscriptions {
		first := c.From + i*perSubscription
		if i > 0 {
			text(`,`)
		}
		text(`{"subscription":{"account_name":"Halden Ferry Lines, Inc.","number":"`, subscriptionNumber(c, first),
			`","start_date":"2024-04-01T00:00:00Z","end_date":"2029-03-31T23:59:59Z"},"service_levels":[`)
		for level := first; level < min(first+perSubscription, c.Until); level++ {
			if level > first {
				text(`,`)
			}
			text(`{"name":"`, levelName(level), `","historical_consumption":[`)
			for d := from; d < until; d++ {
				kind, at := h.kindOf(st, level, d), level*h.shape.Days+d
				if last := &parts[len(parts)-1]; last.text == "" && last.kind == kind && last.next == at {
					last.next++
				} else {
					parts = append(parts, part{kind: kind, first: at, next: at + 1})
				}
			}
			text(`]}`)
		}
		text(`]}`)
	}
	text(`],"request_parameters":{"from_date_utc":"`, q.Get("from_date_utc")[:10], `","to_date_utc":"`, q.Get("to_date_utc")[:10],
		`","customer_id":"`, c.ID, `"},"request_id":"`, fmt.Sprintf("%08x-76dc-4d0c-8d5e-%012x", mix(uint64(number), 1)>>32, number),
		`","response_time":"0.`, fmt.Sprintf("%03d", mix(uint64(number), 2)%900+100), `","customer":{"name":"Halden Ferry Lines, Inc.","id":"`, c.ID, `"}}}`)
	return parts
}

func (h *shop) kindOf(st state, level, d int) int {
	from, until := h.shape.flipped()
	switch {
	case st.Flipped && d >= from && d < until:
		return flippedText
	case h.shape.isChanged(st, level, d):
		return changedText
	case st.Respelled:
		return respelledText
	}
	return asIs
}

// stretch is where the text of a part lies; the comma before the first sample of a level is left out.
func (h *shop) stretch(parts []part, i int) (path string, offset, size int64) {
	p := parts[i]
	file := h.text[p.kind]
	offset = file.at[p.first]
	if i > 0 && parts[i-1].text != "" {
		offset++
	}
	return file.path, offset, file.at[p.next] - offset
}

func (h *shop) send(w http.ResponseWriter, parts []part) (total int64, err error) {
	for i, p := range parts {
		total += int64(len(p.text))
		if p.text == "" {
			_, _, size := h.stretch(parts, i)
			total += size
		}
	}
	w.Header().Set("Content-Length", strconv.FormatInt(total, 10))
	files := opened{}
	defer files.close()
	for i, p := range parts {
		if p.text != "" {
			if _, err := io.WriteString(w, p.text); err != nil {
				return 0, err
			}
			continue
		}
		path, offset, size := h.stretch(parts, i)
		file, err := files.at(path, offset)
		if err != nil {
			return 0, err
		}
		if _, err := io.CopyN(w, file, size); err != nil { // the kernel copies
			return 0, err
		}
	}
	return total, nil
}

// opened are the files of one answer.
type opened map[string]*os.File

func (o opened) at(path string, offset int64) (*os.File, error) {
	if o[path] == nil {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		o[path] = file
	}
	_, err := o[path].Seek(offset, io.SeekStart)
	return o[path], err
}

func (o opened) close() {
	for _, file := range o {
		file.Close()
	}
}

// sendZipped sends one gzip member, put together from compressed series-days.
func (h *shop) sendZipped(w http.ResponseWriter, parts []part) (total int64, err error) {
	out := &counted{w: w}
	if _, err := out.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}); err != nil {
		return 0, err
	}
	files := opened{}
	defer files.close()
	z, err := flate.NewWriter(out, flate.BestSpeed)
	if err != nil {
		return 0, err
	}
	sum, size := crc32.NewIEEE(), int64(0)
	pack := func(text []byte) error {
		sum.Write(text)
		size += int64(len(text))
		z.Reset(out)
		if _, err := z.Write(text); err != nil {
			return err
		}
		return z.Flush()
	}
	read := func(path string, offset, n int64) ([]byte, error) {
		file, err := files.at(path, offset)
		if err != nil {
			return nil, err
		}
		text := make([]byte, n)
		_, err = io.ReadFull(file, text)
		return text, err
	}
	for i, p := range parts {
		if p.text != "" {
			if err := pack([]byte(p.text)); err != nil {
				return 0, err
			}
			continue
		}
		path, offset, n := h.stretch(parts, i)
		text, err := read(path, offset, n)
		if err != nil {
			return 0, err
		}
		next := p.first
		for next < p.next && (p.kind > respelledText || next == p.first) { // not packed, or without its comma
			piece := min(int64(len(text)), h.text[p.kind].at[next+1]-offset)
			if err := pack(text[:piece]); err != nil {
				return 0, err
			}
			text, offset, next = text[piece:], offset+piece, next+1
		}
		if next == p.next {
			continue
		}
		sum.Write(text)
		size += int64(len(text))
		packed := h.zip[p.kind]
		file, err := files.at(packed.path, packed.at[next])
		if err != nil {
			return 0, err
		}
		if _, err := io.CopyN(out, file, packed.at[p.next]-packed.at[next]); err != nil {
			return 0, err
		}
	}
	z.Reset(out)
	if err := z.Close(); err != nil {
		return 0, err
	}
	tail := binary.LittleEndian.AppendUint32(nil, sum.Sum32())
	tail = binary.LittleEndian.AppendUint32(tail, uint32(size))
	_, err = out.Write(tail)
	return out.n, err
}

type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
