package gateway

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// farewell is a stream that is to be closed at a gateway; 0 is any of them.
type farewell struct {
	token   string
	gateway int
}

// memory is a file with the streams that are open: a line "+ token gateway" for
// each that began and "- token" for each that ended. What a killed process
// leaves in it the next one closes. It is not forced to disk: who loses power
// loses the gateways' connections as well, or their next write fails.
type memory struct {
	mu    sync.Mutex
	path  string // "": there is none
	file  *os.File
	open  map[string]int
	lines int
}

// rewriteAfter is how many lines more than there are streams the file may have.
const rewriteAfter = 10_000

// openMemory opens the file and returns what it holds.
func openMemory(path string) (*memory, []farewell, error) {
	m := &memory{path: path, open: map[string]int{}}
	if path == "" {
		return m, nil, nil
	}
	old, err := os.Open(path)
	switch {
	case os.IsNotExist(err):
	case err != nil:
		return nil, nil, fmt.Errorf("memory of streams: %w", err)
	default:
		lines := bufio.NewScanner(old)
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			switch {
			case len(f) == 3 && f[0] == "+":
				if n, err := strconv.Atoi(f[2]); err == nil {
					m.open[f[1]] = n
				}
			case len(f) == 2 && f[0] == "-":
				delete(m.open, f[1])
			}
		}
		// A file that is damaged is no reason not to start: what cannot be read of it
		// are streams that the gateways close when a write to them fails.
		_ = old.Close()
	}
	var left []farewell
	for token, n := range m.open {
		left = append(left, farewell{token, n})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m, left, m.rewrite()
}

// rewrite writes the file anew with what is open. m.mu is held.
func (m *memory) rewrite() error {
	if m.file != nil {
		_ = m.file.Close() // what it lost is written now
		m.file = nil
	}
	f, err := os.OpenFile(m.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("memory of streams: %w", err)
	}
	w := bufio.NewWriter(f)
	for token, n := range m.open {
		fmt.Fprintf(w, "+ %s %d\n", token, n)
	}
	if err = w.Flush(); err == nil {
		err = os.Rename(m.path+".new", m.path)
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("memory of streams: %w", err)
	}
	m.file, m.lines = f, len(m.open)
	return nil
}

// add notes a stream. What cannot be noted is no harm to the stream.
func (m *memory) add(token string, gateway int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open[token] = gateway
	m.append(fmt.Sprintf("+ %s %d\n", token, gateway))
}

// remove notes that it is over.
func (m *memory) remove(token string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.open[token]; !ok {
		return
	}
	delete(m.open, token)
	m.append("- " + token + "\n")
}

// append writes a line. m.mu is held.
func (m *memory) append(line string) {
	if m.path == "" {
		return
	}
	if m.file != nil && m.lines < len(m.open)+rewriteAfter {
		m.lines++
		if _, err := m.file.WriteString(line); err == nil {
			return
		}
	}
	_ = m.rewrite() // at the next line again
}

// close closes the file, which stays.
func (m *memory) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}
