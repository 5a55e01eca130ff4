package kconfig

import (
	"regexp"
	"slices"
	"strings"
)

// expression is a condition in three-valued logic: n, m, y are 0, 1, 2.
type expression struct {
	op          string // "", "!", "&&", "||", "=", "!=" and so on
	left, right *expression
	symbol      string // of op ""
}

var token = regexp.MustCompile(`^\s*(&&|\|\||!=|<=|>=|[()!=<>]|[A-Za-z0-9_]+|"[^"]*"|'[^']*')`)

// parse reads an expression; one with a macro in it cannot be read.
func parse(text string) (*expression, bool) {
	var tokens []string
	for rest := strings.TrimSpace(text); rest != ""; {
		m := token.FindStringSubmatch(rest)
		if m == nil {
			return nil, false
		}
		tokens = append(tokens, m[1])
		rest = strings.TrimSpace(rest[len(m[0]):])
	}
	p := &expressionParser{tokens: tokens}
	x := p.or()
	return x, x != nil && len(p.tokens) == 0
}

type expressionParser struct{ tokens []string }

func (p *expressionParser) next(wanted ...string) string {
	if len(p.tokens) > 0 && slices.Contains(wanted, p.tokens[0]) {
		t := p.tokens[0]
		p.tokens = p.tokens[1:]
		return t
	}
	return ""
}

func (p *expressionParser) or() *expression { return p.binary("||", p.and) }

func (p *expressionParser) and() *expression { return p.binary("&&", p.not) }

func (p *expressionParser) binary(op string, operand func() *expression) *expression {
	x := operand()
	for x != nil && p.next(op) != "" {
		right := operand()
		if right == nil {
			return nil
		}
		x = &expression{op: op, left: x, right: right}
	}
	return x
}

func (p *expressionParser) not() *expression {
	if p.next("!") != "" {
		if x := p.not(); x != nil {
			return &expression{op: "!", left: x}
		}
		return nil
	}
	if p.next("(") != "" {
		x := p.or()
		if x == nil || p.next(")") == "" {
			return nil
		}
		return x
	}
	left := p.symbol()
	if left == nil {
		return nil
	}
	if op := p.next("=", "!=", "<", ">", "<=", ">="); op != "" {
		right := p.symbol()
		if right == nil {
			return nil
		}
		return &expression{op: op, left: left, right: right}
	}
	return left
}

func (p *expressionParser) symbol() *expression {
	if len(p.tokens) == 0 || strings.ContainsAny(p.tokens[0][:1], "&|!=<>()") {
		return nil
	}
	t := p.tokens[0]
	p.tokens = p.tokens[1:]
	return &expression{symbol: t}
}

// value evaluates x.
func (x *expression) value(config map[string]string) int {
	truth := func(b bool) int {
		if b {
			return 2
		}
		return 0
	}
	switch x.op {
	case "":
		return level(value(config, x.symbol))
	case "!":
		return 2 - x.left.value(config)
	case "&&":
		return min(x.left.value(config), x.right.value(config))
	case "||":
		return max(x.left.value(config), x.right.value(config))
	case "=":
		return truth(value(config, x.left.symbol) == value(config, x.right.symbol))
	case "!=":
		return truth(value(config, x.left.symbol) != value(config, x.right.symbol))
	}
	return 2 // orders of numbers: taken to hold
}

// symbols names the options in x, constants left out.
func (x *expression) symbols() []string {
	if x == nil {
		return nil
	}
	if x.op == "" {
		if x.symbol == "y" || x.symbol == "m" || x.symbol == "n" || strings.ContainsAny(x.symbol[:1], `"'`) {
			return nil
		}
		return []string{x.symbol}
	}
	var list []string
	for _, s := range append(x.left.symbols(), x.right.symbols()...) {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// value is that of an option, n where there is none, or of a constant.
func value(config map[string]string, symbol string) string {
	switch {
	case symbol == "y", symbol == "m", symbol == "n":
		return symbol
	case strings.ContainsAny(symbol[:1], `"'`):
		return symbol[1 : len(symbol)-1]
	}
	if v, ok := config[symbol]; ok {
		return v
	}
	return "n"
}

func level(v string) int {
	switch v {
	case "y":
		return 2
	case "m":
		return 1
	}
	return 0
}
