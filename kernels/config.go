package kernels

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// config is a kernel's own configuration, read when first asked.
type config struct {
	path string // "" when the kernel came without one
	once sync.Once
	set  map[string]string
	err  error
}

func (c *config) option(name string) string {
	if c == nil || c.path == "" {
		return ""
	}
	c.once.Do(func() {
		f, err := os.Open(c.path)
		if err != nil {
			c.err = err
			return
		}
		defer f.Close()
		c.set, c.err = parseConfig(f)
	})
	if c.err != nil {
		return ""
	}
	if v, ok := c.set[strings.TrimPrefix(name, "CONFIG_")]; ok {
		return v
	}
	// Kconfig leaves out what its dependencies rule out.
	return "n"
}

// ReadConfig reads a .config: names without CONFIG_, strings without quotes, "n" for what is not set.
func ReadConfig(name string) (map[string]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	set, err := parseConfig(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return set, nil
}

// maxConfigLine is far above any line Kconfig writes.
const maxConfigLine = 64 << 10

// parseConfig reads a .config: names without CONFIG_, strings without quotes.
func parseConfig(r io.Reader) (map[string]string, error) {
	set := make(map[string]string)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxConfigLine)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if off, ok := strings.CutPrefix(line, "# CONFIG_"); ok {
			if name, ok := strings.CutSuffix(off, " is not set"); ok && name != "" {
				set[name] = "n"
			}
			continue
		}
		on, ok := strings.CutPrefix(line, "CONFIG_")
		if !ok {
			continue
		}
		name, value, ok := strings.Cut(on, "=")
		if !ok || name == "" {
			continue
		}
		set[name] = unquoteConfig(value)
	}
	return set, lines.Err()
}

// unquoteConfig undoes Kconfig's quoting: \" and \\ inside double quotes.
func unquoteConfig(v string) string {
	if len(v) < 2 || v[0] != '"' || v[len(v)-1] != '"' {
		return v
	}
	var b strings.Builder
	for i := 1; i < len(v)-1; i++ {
		if v[i] == '\\' && i+1 < len(v)-1 {
			i++
		}
		b.WriteByte(v[i])
	}
	return b.String()
}
